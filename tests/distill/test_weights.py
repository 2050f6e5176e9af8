"""Weights that training sets itself: shares of the gradient, and uncertainty."""

import math

import pytest
import torch
from torch import Tensor, nn

from monoskd.distill import Distiller, EmaTeacher, FlightRecorder, PearsonLoss, Ramp, Tap, Term
from monoskd.distill.weights import PATIENCE
from monoskd.errors import InputError


def pull(strength: float):
    """A loss whose gradient at a map of n values has the norm `strength` sqrt(n)."""

    def loss(*, student: Tensor, teacher: Tensor) -> Tensor:
        return 1 + strength * (student - student.detach()).sum()

    return loss


def distiller(**terms: Term) -> Distiller:
    torch.manual_seed(0)
    return Distiller(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), taps=[Tap("")], terms=terms)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def step(distil: Distiller, recorder: FlightRecorder, images: Tensor, *, task: float = 1.0) -> dict[str, float]:
    out = distil(images)
    return recorder.record(out, task=pull(task)(student=out.student, teacher=out.student))


def test_a_share_is_reached_whatever_the_size_of_the_loss(images: Tensor) -> None:
    distil = distiller(a=Term(pull(1e-4), share=0.3), b=Term(pull(50.0), share=0.2), c=Term(pull(3.0), weight=2.0))
    recorder = FlightRecorder(distil, every=1)
    step(distil, recorder, images)
    reading = step(distil, recorder, images)
    shares = {name: reading[f"flight/{name}/gradient_share"] for name in ("a", "b", "c", "task")}
    assert shares == pytest.approx({"a": 0.3, "b": 0.2, "c": 0.5 * 6 / 7, "task": 0.5 / 7}, rel=1e-4)
    assert reading["flight/a/weight"] == pytest.approx(distil(images).weights["a"])
    assert "flight/c/weight" not in reading


def test_norms_are_smoothed(images: Tensor) -> None:
    distil = distiller(a=Term(pull(1.0), share=0.5))
    recorder = FlightRecorder(distil, every=1)
    rest, expected = 0.0, []
    for t, task in enumerate([1.0, 3.0, 8.0], start=1):
        step(distil, recorder, images, task=task)
        rest += (task - rest) * max(1 / t, 0.1)
        expected.append(distil(images).weights["a"] == pytest.approx(rest))
    assert all(expected)


def test_a_schedule_multiplies_the_share(images: Tensor) -> None:
    distil = distiller(a=Term(pull(1.0), share=0.5, schedule=Ramp()))
    recorder = FlightRecorder(distil, every=1)
    step(distil, recorder, images, task=4.0)  # the weight is 0 now, and the gradient is measured all the same
    distil.progress = 0.5
    assert distil(images).weights["a"] == pytest.approx(2.0)


def test_the_first_step_is_read_and_then_one_in_so_many(images: Tensor) -> None:
    distil = distiller(a=Term(pull(1.0), share=0.5))
    recorder = FlightRecorder(distil, every=50)
    out = distil(images)
    assert recorder.record(out, task=out.student.sum(), step=1234)
    assert not recorder.record(out, task=out.student.sum(), step=1235)


def test_shares_survive_a_checkpoint(images: Tensor) -> None:
    distil = distiller(a=Term(pull(1e-3), share=0.5))
    step(distil, FlightRecorder(distil, every=1), images)
    other = distiller(a=Term(pull(1e-3), share=0.5))
    other.load_state_dict(distil.state_dict())
    assert other(images).weights == distil(images).weights
    assert not other.balance.needs_reading
    with pytest.raises(InputError, match="expected a checkpoint with 2 of them, got 1"):
        distiller(a=Term(pull(1), share=0.5), b=Term(pull(1), share=0.1)).load_state_dict(distil.state_dict())
    assert not any("balance" in name for name in distiller(a=Term(pull(1))).state_dict())


def test_a_term_without_gradient_keeps_its_weight(images: Tensor) -> None:
    distil = distiller(a=Term(pull(0.0), share=0.5))
    step(distil, FlightRecorder(distil), images)
    assert distil(images).weights["a"] == 1.0


def test_the_rounding_of_a_gradient_of_zero_sets_no_weight(images: Tensor) -> None:
    student = nn.Conv2d(3, 4, 3)
    terms = {"a": Term(PearsonLoss(), share=0.5)}
    distil = Distiller(student, EmaTeacher(student), taps=[Tap("")], terms=terms)
    step(distil, FlightRecorder(distil, every=1), images)
    assert distil(images).weights["a"] == 1


def test_shares_without_readings_are_an_error(images: Tensor) -> None:
    distil = distiller(a=Term(pull(1.0), share=0.5))
    for _ in range(PATIENCE):
        distil(images)
    with pytest.raises(InputError, match=r"terms a ask for a share .* call FlightRecorder\(distiller\)\.record"):
        distil(images)
    with pytest.raises(InputError, match="expected other gradients at the tapped maps, got none: give the task loss"):
        FlightRecorder(distil).record(distil.eval()(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "share: expected more than 0 and less than 1, got 1.0"),
        ({"share": 0.0}, "share: expected more than 0"),
        ({"share": 0.3, "weight": 2.0}, "share sets the weight: drop weight=2.0"),
        ({"share": 0.3, "uncertainty": True}, "share sets the weight"),
        ({"weight": math.nan}, "weight: expected a finite number, got nan"),
        ({"weight": "2"}, "weight: expected a finite number, got '2'"),
    ],
)
def test_a_wrong_weight_is_an_error(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distiller(a=Term(pull(1.0), **options))


def test_shares_leave_a_part_to_the_task() -> None:
    with pytest.raises(InputError, match="shares: expected a sum below 1"):
        distiller(a=Term(pull(1.0), share=0.5), b=Term(pull(1.0), share=0.5))


def test_uncertainty_is_kendalls_formula(images: Tensor) -> None:
    distil = distiller(a=Term(pull(1.0), weight=3.0, uncertainty=True), b=Term(pull(1.0)))
    s = distil.balance.log_variance["a"]
    with torch.no_grad():
        s.fill_(0.7)
    out = distil(images)
    a, b = out.terms["a"], out.terms["b"]
    torch.testing.assert_close(out.total, 3.0 * (a / (2 * math.exp(0.7)) + math.log(math.sqrt(math.exp(0.7)))) + b)
    out.total.backward()
    torch.testing.assert_close(s.grad, torch.tensor([3.0 * (0.5 - a.item() * math.exp(-0.7) / 2)]))
    assert FlightRecorder(distil).record(distil(images))["flight/a/weight"] == pytest.approx(1.5 * math.exp(-0.7))


def test_the_uncertainty_finds_the_size_of_its_loss(images: Tensor) -> None:
    """At the minimum over s, exp(s) = L."""
    distil = distiller(a=Term(lambda *, student, teacher: student.sum() * 0 + 5.0, uncertainty=True))
    optimizer = torch.optim.Adam(distil.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        distil(images).total.backward()
        optimizer.step()
    assert distil.balance.log_variance["a"].exp().item() == pytest.approx(5.0, rel=1e-2)
