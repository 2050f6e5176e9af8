from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monoskd.errors import InputError
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.models.did_m3d.teaching import ObjectLoss


@pytest.fixture
def answer(teacher: DidM3DOutput, targets: DidM3DTargets) -> DidM3DOutput:
    """A teacher that is right about the first object, and 5 % and 10 % off on the others."""
    off = 1 + torch.tensor([0.0, 0.05, 0.10])
    depth = (targets.depth * off)[:, None, None].repeat(1, 7, 7)
    return replace(teacher, heads={**teacher.heads, "depth": depth})


def maps(seed: int, n: int = 3, channels: int = 4) -> Tensor:
    return torch.randn(n, channels, 7, 7, generator=torch.Generator().manual_seed(seed))


def test_without_weights_it_is_half_the_squared_difference_in_the_teachers_spreads(
    targets: DidM3DTargets, answer: DidM3DOutput
) -> None:
    student, teacher = maps(0), 5 * maps(1) + 3
    loss = ObjectLoss(quality=False, importance=False)
    value = loss(student=student, teacher=teacher, targets=targets, teacher_output=answer)
    spread = teacher.var((0, 2, 3), unbiased=False)
    expected = ((student - teacher) ** 2 / (2 * spread[:, None, None])).mean()
    torch.testing.assert_close(value, expected)


def test_an_object_counts_as_far_as_the_teacher_is_right_about_it(targets: DidM3DTargets, answer: DidM3DOutput) -> None:
    student, teacher = maps(0).requires_grad_(), maps(1)
    ObjectLoss(importance=False)(student=student, teacher=teacher, targets=targets, teacher_output=answer).backward()
    pull = (student.grad / (student.detach() - teacher)).mean((1, 2, 3))
    torch.testing.assert_close(pull / pull[0], torch.tensor([0.0, -1.0, -2.0]).exp())


def test_on_frames_without_labels_the_score_is_the_quality(targets: DidM3DTargets, answer: DidM3DOutput) -> None:
    soft = replace(targets, weight=torch.tensor([0.9, 0.6, 0.3]), labelled=torch.zeros(3, dtype=torch.bool))
    student, teacher = maps(0).requires_grad_(), maps(1)
    ObjectLoss(importance=False)(student=student, teacher=teacher, targets=soft, teacher_output=answer).backward()
    pull = (student.grad / (student.detach() - teacher)).mean((1, 2, 3))
    torch.testing.assert_close(pull / pull[0], soft.weight / 0.9)


def test_the_channel_that_carries_the_depth_counts_most(targets: DidM3DTargets, answer: DidM3DOutput) -> None:
    teacher = maps(1)
    carried = answer.heads["depth"][:, 0, 0].log()
    teacher[:, 2] = carried[:, None, None] + 0.01 * teacher[:, 2]
    loss = ObjectLoss(quality=False)
    student = maps(0).requires_grad_()
    loss(student=student, teacher=teacher, targets=targets, teacher_output=answer).backward()
    spread = teacher.var((0, 2, 3), unbiased=False)
    pull = (student.grad / (student.detach() - teacher)).mean((0, 2, 3)) * spread
    correlation = torch.stack(
        [torch.corrcoef(torch.stack([teacher[:, c].mean((1, 2)), carried]))[0, 1].abs() for c in range(4)]
    )
    assert correlation.argmax() == 2
    torch.testing.assert_close(pull / pull.sum(), correlation / correlation.sum(), rtol=1e-2, atol=1e-3)


def test_moments_are_learned_in_training_alone(targets: DidM3DTargets, answer: DidM3DOutput) -> None:
    loss = ObjectLoss()
    loss(student=maps(0), teacher=maps(1), targets=targets, teacher_output=answer)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()(student=maps(0), teacher=maps(2), targets=targets, teacher_output=answer)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    loss.train()(student=maps(0), teacher=maps(2), targets=targets, teacher_output=answer)
    assert not torch.equal(loss.state_dict()["moments.level_0"], before["moments.level_0"])


def test_no_objects_cost_nothing(targets: DidM3DTargets, answer: DidM3DOutput) -> None:
    none = targets.of(torch.tensor([False, False, True]))
    assert not len(none.label)
    student = maps(0)[:0].requires_grad_()
    nothing = replace(answer, heads={name: head[:0] for name, head in answer.heads.items()})
    loss = ObjectLoss()(student=student, teacher=maps(1)[:0], targets=none, teacher_output=nothing)
    assert loss.item() == 0
    loss.backward()


def test_dead_channels_and_single_objects_give_finite_losses(targets: DidM3DTargets, answer: DidM3DOutput) -> None:
    first = torch.tensor([True, False, False])
    one = targets.of(first).of(torch.ones(1, dtype=torch.bool))
    teacher = torch.zeros(len(one.label), 4, 7, 7)
    heads = {"depth": answer.heads["depth"][: len(one.label)]}
    loss = ObjectLoss()(
        student=maps(0, n=len(one.label)), teacher=teacher, targets=one, teacher_output=replace(answer, heads=heads)
    )
    assert loss.isfinite()


def test_maps_of_images_instead_of_objects_are_an_error(targets: DidM3DTargets, answer: DidM3DOutput) -> None:
    with pytest.raises(InputError, match=r"expected two maps of 3 objects, n x c x h x w, got .2, 4, 7, 7.*tap a reg"):
        ObjectLoss()(student=maps(0, n=2), teacher=maps(1, n=2), targets=targets, teacher_output=answer)
    with pytest.raises(InputError, match="tolerance: expected more than 0, a share of the depth, got 0"):
        ObjectLoss(tolerance=0)
