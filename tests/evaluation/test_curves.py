import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monoskd.evaluation.curves import Tally, average_precision, precision_curve, threshold_positions


def official_positions(hits: int, objects: int) -> list[int]:
    """The official walk, hit by hit."""
    positions, current = [], 0.0
    for i in range(hits):
        left = (i + 1) / objects
        right = (i + 2) / objects if i < hits - 1 else left
        if right - current < current - left and i < hits - 1:
            continue
        positions.append(i)
        current += 1 / 40.0
    return positions


@given(st.integers(0, 700), st.integers(0, 700))
def test_thresholds_are_the_official_ones(hits: int, missed: int) -> None:
    positions = threshold_positions(hits, hits + missed)
    assert positions.tolist() == official_positions(hits, hits + missed)
    assert len(positions) <= 41


@pytest.mark.parametrize("objects", [1, 39, 40, 41, 42, 79, 80, 81, 1000, 13455])
def test_perfect_recall_gives_a_threshold_for_every_point(objects: int) -> None:
    assert threshold_positions(objects, objects).tolist() == official_positions(objects, objects)
    assert len(threshold_positions(objects, objects)) == min(objects, 41)


def tally(hit_scores: list[float], alarms: list[float], *, objects: int) -> Tally:
    """Each hit and each false alarm in a frame of its own, hits first."""
    scores = np.array(hit_scores + alarms)
    order = np.argsort(-scores, kind="stable")
    is_hit = np.arange(len(scores)) < len(hit_scores)
    return Tally(
        objects=np.arange(objects),
        hit_scores=np.array(sorted(hit_scores, reverse=True)),
        hit_frames=np.argsort(-np.array(hit_scores), kind="stable"),
        change_scores=scores[order],
        change_frames=order,
        hits=is_hit[order].astype(np.int64),
        false_alarms=(~is_hit[order]).astype(np.int64),
        agreement=is_hit[order] * 0.5,
    )


def test_one_object_found_perfectly_is_one_point() -> None:
    curve = precision_curve(tally([0.9], [], objects=1), np.ones(1, np.int64))
    assert curve.precision.tolist() == [1, *[0] * 40]
    assert average_precision(curve.precision, "R11") == pytest.approx(100 / 11)
    assert average_precision(curve.precision, "R40") == 0


def test_precision_is_raised_to_the_best_that_follows() -> None:
    curve = precision_curve(tally([0.8, 0.7, 0.6], [0.9, 0.65], objects=3), np.ones(5, np.int64))
    assert curve.precision[:4] == pytest.approx([2 / 3, 2 / 3, 3 / 5, 0])
    assert curve.similarity[:4] == pytest.approx([1 / 3, 1 / 3, 3 / 10, 0])


def test_a_threshold_without_counted_detections_has_no_value() -> None:
    nothing = tally([0.5], [], objects=1)
    ignored = Tally(**{**vars(nothing), "hits": np.zeros(1, np.int64)})
    curve = precision_curve(ignored, np.ones(1, np.int64))
    assert np.isnan(curve.precision[0])
    assert curve.precision[1:].tolist() == [0] * 40
    assert np.isnan(average_precision(curve.precision, "R11"))
    assert average_precision(curve.precision, "R40") == 0


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_a_weight_is_a_number_of_copies(weights: list[int]) -> None:
    hits, alarms = [0.9, 0.5, 0.3], [0.7, 0.4, 0.2]
    weighted = precision_curve(tally(hits, alarms, objects=3), np.array(weights))
    copies = [copy for score, weight in zip(hits + alarms, weights, strict=True) for copy in [score] * weight]
    count = sum(weights[:3])
    copied = precision_curve(tally(copies[:count], copies[count:], objects=count), np.ones(len(copies), np.int64))
    np.testing.assert_allclose(weighted.precision, copied.precision)
    np.testing.assert_allclose(weighted.similarity, copied.similarity)
