import copy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from monoskd.distill.center import RunningMean
from monoskd.distill.losses import PearsonLoss, SpearmanLoss
from monoskd.errors import InputError


def images(count: int, seed: int, *, prior: float = 1.0) -> Tensor:
    """Teacher's maps of scenes that look much alike: a common map and something of their own."""
    common = prior * torch.randn(8, 6, 10, generator=torch.Generator().manual_seed(99))
    return common + 0.3 * torch.randn(count, 8, 6, 10, generator=torch.Generator().manual_seed(seed))


def trained(batches: int = 40) -> PearsonLoss:
    """A centred loss that has seen a student as good as the prior and its teacher."""
    loss = PearsonLoss(center="running", momentum=0.9)
    for seed in range(batches):
        loss(student=images(4, 1000 + seed), teacher=images(4, seed))
    return loss


def test_the_mean_of_the_first_calls_is_the_plain_mean_of_what_was_seen_before() -> None:
    center = RunningMean(momentum=0.99)
    batches = [torch.randn(4, 3, 2, 2) for _ in range(5)]
    for index, batch in enumerate(batches):
        seen = torch.cat(batches[:index]).mean(0) if index else torch.zeros(3, 2, 2)
        assert_close(center([batch])[0], batch - seen)


def test_later_calls_move_the_mean_by_the_momentum() -> None:
    center = RunningMean(momentum=0.5)
    for value in (0.0, 8.0, 4.0, 4.0):
        center([torch.full((2, 1, 1, 1), value)])
    assert center.deviations([torch.zeros(1, 1, 1, 1)])[0].item() == -4.0  # (0 + 8) / 2 = 4, and 4 stays
    center([torch.full((2, 1, 1, 1), 6.0)])
    assert center.deviations([torch.zeros(1, 1, 1, 1)])[0].item() == -5.0


@pytest.mark.parametrize(
    "bad", [torch.full((2, 3, 1, 1), float("nan")), torch.full((2, 3, 1, 1), float("inf")), torch.zeros(0, 3, 1, 1)]
)
def test_a_batch_that_is_empty_or_not_finite_teaches_nothing(bad: Tensor) -> None:
    center, sound = RunningMean(momentum=0.5), RunningMean(momentum=0.5)
    for batch in (bad, torch.ones(2, 3, 1, 1), bad, torch.zeros(2, 3, 1, 1)):
        center([batch, torch.ones(len(batch), 1, 1, 1)])
        if batch is not bad:
            sound([batch, torch.ones(len(batch), 1, 1, 1)])
    assert_close(dict(center.state_dict()), dict(sound.state_dict()))


def test_means_that_were_made_in_inference_mode_learn_later() -> None:
    loss = PearsonLoss(center="running")
    with torch.inference_mode():
        loss.eval()(student=images(4, 0), teacher=images(4, 1))
    student = images(4, 2).requires_grad_()
    loss.train()(student=student, teacher=images(4, 3)).backward()
    assert loss.teacher_mean is not None
    assert_close(loss.teacher_mean.state_dict()["level_0"], images(4, 3).mean(0))


def test_evaluation_learns_nothing() -> None:
    loss = trained(3)
    before = copy.deepcopy(loss.state_dict())
    loss.eval()(student=images(4, 50), teacher=images(4, 51))
    loss.floor(teacher=images(4, 52))
    loss.train().floor(teacher=images(4, 52))
    assert_close(dict(loss.state_dict()), dict(before))


def test_the_means_survive_a_state_dict_and_a_copy() -> None:
    loss = trained(5)
    fresh = PearsonLoss(center="running", momentum=0.9)
    fresh.load_state_dict(loss.state_dict())
    for other in (fresh, copy.deepcopy(loss)):
        following = [one(student=images(4, 60), teacher=images(4, 61)) for one in (copy.deepcopy(loss), other)]
        assert_close(following[0], following[1])


def test_a_constant_to_the_gradient() -> None:
    loss = trained(3).eval()
    assert loss.student_mean is not None
    student, teacher = images(4, 5).requires_grad_(), images(4, 6)
    loss(student=student, teacher=teacher).backward()
    assert loss.teacher_mean is not None
    deviation = loss.student_mean.deviations([student.detach()])[0].requires_grad_()
    PearsonLoss()(student=deviation, teacher=loss.teacher_mean.deviations([teacher])[0]).backward()
    assert_close(student.grad, deviation.grad)


def test_another_image_size_is_an_error() -> None:
    loss = trained(1)
    with pytest.raises(
        InputError, match=r"level 0: expected maps of \(8, 6, 10\) .*got \(8, 6, 9\): use one image size"
    ):
        loss(student=images(4, 0)[..., :9], teacher=images(4, 1)[..., :9])


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_an_impossible_momentum_is_refused(momentum: float) -> None:
    with pytest.raises(InputError, match=r"momentum: expected a number in \[0, 1\)"):
        RunningMean(momentum)


def test_each_level_has_its_own_mean_in_float32() -> None:
    center = RunningMean()
    fine, coarse = images(4, 0).half(), images(4, 1)[..., ::2]
    center([fine, coarse])
    moved = center([fine, coarse])
    assert moved[0].dtype == torch.float16
    assert center.state_dict()["level_0"].dtype == torch.float32
    assert_close(moved[1], coarse - coarse.mean(0))


# --- what the centre is for


def test_a_static_prior_satisfies_a_plain_correlation_and_not_a_centred_one() -> None:
    teacher, habits = images(8, 70), images(64, 71).mean(0).expand(8, -1, -1, -1)
    assert PearsonLoss()(student=habits, teacher=teacher) < 0.1
    centred = trained().eval()
    knowing = images(8, 70) + 0.1 * torch.randn(8, 8, 6, 10)
    assert centred(student=habits + 0.01 * torch.randn_like(teacher), teacher=teacher) > 0.8
    assert centred(student=knowing, teacher=teacher) < 0.3


def test_the_floor_is_the_loss_of_the_mean_of_the_other_images() -> None:
    teacher = images(3, 80)
    others = torch.stack([teacher[[1, 2]].mean(0), teacher[[0, 2]].mean(0), teacher[[0, 1]].mean(0)])
    for loss in (PearsonLoss(), SpearmanLoss("published")):
        assert_close(loss.floor(teacher=teacher), loss(student=others, teacher=teacher))
    assert PearsonLoss().floor(teacher=[teacher, teacher]) == 2 * PearsonLoss().floor(teacher=teacher)


def test_the_centre_lifts_the_floor() -> None:
    teacher = images(8, 81)
    assert PearsonLoss().floor(teacher=teacher) < 0.1
    assert trained().floor(teacher=teacher) > 0.9


def test_a_floor_needs_other_images() -> None:
    with pytest.raises(InputError, match="at least 2 images, got 1"):
        PearsonLoss().floor(teacher=images(1, 0))
