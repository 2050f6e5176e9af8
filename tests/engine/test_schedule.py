import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monoskd.engine.schedule import LearningRateSchedule, TaskWeights
from monoskd.errors import InputError
from monoskd.models.did_m3d import DidM3D

GRAPH = DidM3D.task_graph


def falling(epoch: int) -> dict[str, float]:
    """Losses that fall fast at first."""
    return {task: math.exp(-epoch / 3) for task in GRAPH}


def test_the_rate_rises_over_the_warm_up_and_falls_at_each_milestone() -> None:
    schedule = LearningRateSchedule()
    assert schedule.rate(0) == 1e-5
    assert schedule.rate(2.5) == pytest.approx((1e-5 + 1e-3) / 2)
    assert schedule.rate(5) == schedule.rate(89.99) == 1e-3
    assert schedule.rate(90) == pytest.approx(1e-4)
    assert schedule.rate(120) == pytest.approx(1e-5)


def test_published_quirks_are_late_and_stepwise() -> None:
    late = LearningRateSchedule(milestones_after_warmup=True)
    assert late.rate(94.9) == 1e-3
    assert late.rate(95) == pytest.approx(1e-4)
    steps = LearningRateSchedule(once_an_epoch=True)
    assert steps.rate(0.99) == 1e-5
    assert steps.rate(2.9) == steps.rate(2)


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        ({}, 121, None),
        ({}, 120, "no drop of the rate at 120 in a run of 120 epochs"),
        ({}, 30, "no drop of the rate at 90, 120 in a run of 30 epochs"),
        ({"milestones_after_warmup": True}, 125, "no drop of the rate at 120 in"),
        ({"milestones_after_warmup": True}, 126, None),
        ({"cosine": True}, 30, None),
        ({"cosine": True, "warmup_epochs": 30}, 30, "a warm-up of 30 epochs in a run of 30"),
        ({"milestones": ()}, 6, None),
    ],
)
def test_a_run_that_ends_before_its_schedule_is_told(
    schedule: dict[str, Any], epochs: int, expected: str | None
) -> None:
    said = LearningRateSchedule(**schedule).unreached(epochs)
    assert said is None if expected is None else said is not None and expected in said


def test_the_cosine_is_torchs_after_the_warm_up() -> None:
    schedule = LearningRateSchedule(base=0.01, warmup_epochs=2, cosine=True)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    for epoch in range(2, 11):
        assert schedule.rate(epoch, epochs=10) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert schedule.rate(1, epochs=10) == LearningRateSchedule(base=0.01, warmup_epochs=2).rate(1)


@given(epochs=st.lists(st.floats(0, 5), min_size=2, max_size=10))
def test_the_warm_up_never_falls(epochs: list[float]) -> None:
    rates = [LearningRateSchedule().rate(epoch) for epoch in sorted(epochs)]
    assert rates == sorted(rates)


@pytest.mark.parametrize("wrong", [{"base": 0.0}, {"warmup_start": -1.0}, {"decay": 0.0}, {"warmup_epochs": -1}])
def test_a_schedule_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="schedule: expected rates and decay above 0"):
        LearningRateSchedule(**wrong)  # type: ignore[arg-type]


def test_tasks_wait_for_what_they_need() -> None:
    weights = TaskWeights(GRAPH, epochs=10, history=3)
    by_epoch = [weights.start(), *(weights.advance(falling(epoch), epoch + 1) for epoch in range(12))]
    for task, needed in GRAPH.items():
        course = [row[task] for row in by_epoch]
        if not needed:
            assert course == [1.0] * len(course)
            continue
        assert course[:4] == [0.0] * 4
        assert course == sorted(course), "losses settle, so nothing loses weight again"
        assert course[-1] == 1.0
        assert 0 < course[6] < 1


def test_a_task_that_never_settles_counts_in_the_end() -> None:
    weights = TaskWeights(GRAPH, epochs=8, history=3)
    steady = [weights.advance(dict.fromkeys(GRAPH, 100.0 - epoch), epoch + 1) for epoch in range(8)]
    assert steady[3]["depth"] == pytest.approx(1 / 5)  # c is 0: the share of the training that has passed
    assert steady[-1]["depth"] == 1.0


def test_the_state_goes_through_json() -> None:
    straight, stopped = TaskWeights(GRAPH, epochs=10, history=3), TaskWeights(GRAPH, epochs=10, history=3)
    for epoch in range(5):
        straight.advance(falling(epoch), epoch + 1)
        stopped.advance(falling(epoch), epoch + 1)
    resumed = TaskWeights(GRAPH, epochs=10, history=3)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    for epoch in range(5, 9):
        assert resumed.advance(falling(epoch), epoch + 1) == straight.advance(falling(epoch), epoch + 1)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_a_number_above_zero(rate: float) -> None:
    with pytest.raises(InputError, match="schedule: expected rates and decay above 0"):
        LearningRateSchedule(base=rate)
