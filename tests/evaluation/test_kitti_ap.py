from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monoskd.errors import InputError
from monoskd.evaluation.kitti_ap import Evaluation, evaluate_kitti
from monoskd.evaluation.results import DIFFICULTIES
from monoskd.kitti.io import parse_objects
from monoskd.objects import Objects

Street = tuple[list[Objects], list[Objects]]

CAR = "Car 0.00 0 0.00 100.00 100.00 200.00 200.00 1.50 1.60 4.00 0.00 1.60 20.00 0.00"
EMPTY, NOTHING = Objects.empty(), Objects.empty(scored=True)


def frame(*lines: str) -> Objects:
    return parse_objects("\n".join(lines), source="test")


def value(evaluation: Evaluation, name: str, metric: str, recall: str = "R40", difficulty: str = "moderate") -> float:
    result = next(r for r in evaluation.results if (r.class_name, r.metric) == (name, metric))
    return result.average_precision(recall)[difficulty]


def test_the_table_is_complete_and_in_order(street: Street) -> None:
    rows = evaluate_kitti(*street).rows()
    per_class = ["bbox", "bbox", "aos", "aos", "bev", "bev", "bev", "bev", "3d", "3d", "3d", "3d"]
    assert [row["metric"] for row in rows] == per_class * 3
    assert list(dict.fromkeys(row["class"] for row in rows)) == ["Pedestrian", "Car", "Cyclist"]
    assert {row["iou"] for row in rows if row["class"] == "Car" and row["metric"] in ("bev", "3d")} == {0.7, 0.5}
    assert {row["iou"] for row in rows if row["class"] == "Cyclist" and row["metric"] == "bbox"} == {0.5}
    assert set(rows[0]) == {"class", "metric", "iou", "recall", "easy", "moderate", "hard"}


def test_the_truth_scores_all_there_is(street: Street) -> None:
    truth = street[0] * 3  # so that no class has fewer objects than a curve has points
    perfect = [replace(one, scores=np.linspace(0, 1, len(one))) for one in truth]
    for result in evaluate_kitti(truth, perfect).results:
        counts = result.objects
        for index, ap in enumerate(result.average_precision().values()):
            assert ap == pytest.approx(100 if counts[index] >= 41 else 100 * max(counts[index] - 1, 0) / 40)


def test_names_in_any_case_are_the_same(street: Street) -> None:
    truth, found = street
    shouted = [replace(one, names=np.strings.upper(one.names)) for one in found]
    assert evaluate_kitti(truth, shouted).rows() == evaluate_kitti(truth, found).rows()


@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1e6, 1e6))
@settings(max_examples=10, deadline=None)
def test_only_the_order_of_the_scores_matters(street: Street, scale: float, shift: float) -> None:
    truth, found = street
    ranked = [replace(one, scores=np.round(one.scores, 2)) for one in found if one.scores is not None]
    moved = [replace(one, scores=one.scores * scale + shift) for one in ranked if one.scores is not None]
    before, after = (len(np.unique(np.concatenate([one.scores for one in each]))) for each in (ranked, moved))
    if before == after:  # else rounding has made ties
        assert evaluate_kitti(truth, moved).rows() == evaluate_kitti(truth, ranked).rows()


def test_the_order_of_the_frames_does_not_matter(street: Street) -> None:
    truth, found = street
    for ours, other in zip(
        evaluate_kitti(truth, found).results, evaluate_kitti(truth[::-1], found[::-1]).results, strict=True
    ):
        np.testing.assert_allclose(ours.curves, other.curves)


def test_classes_are_independent(street: Street) -> None:
    everything = evaluate_kitti(*street)
    cars = evaluate_kitti(*street, classes=["car"])
    assert cars.rows() == [row for row in everything.rows() if row["class"] == "Car"]


def test_smaller_least_heights_count_more_objects(street: Street) -> None:
    usual, lenient = evaluate_kitti(*street), evaluate_kitti(*street, min_heights=(10, 5, 5))
    assert usual.notes == ()
    assert lenient.notes[0].startswith("objects count from 2D heights of 10, 5, 5 px on")
    with pytest.raises(InputError, match="min_heights: expected three heights of at least 0 px"):
        evaluate_kitti(*street, min_heights=(10, 5, float("nan")))
    assert all((b.objects >= a.objects).all() for a, b in zip(usual.results, lenient.results, strict=True))
    assert any((b.objects > a.objects).any() for a, b in zip(usual.results, lenient.results, strict=True))


@pytest.mark.parametrize(
    ("truth", "found"), [([EMPTY], [NOTHING]), ([frame(CAR)], [NOTHING]), ([EMPTY], [frame(f"{CAR} 0.5")])]
)
def test_nothing_to_find_and_nothing_found_is_zero(truth: list[Objects], found: list[Objects]) -> None:
    rows = evaluate_kitti(truth, found).rows()
    assert [row[name] for row in rows for name in DIFFICULTIES] == [0.0] * 3 * len(rows)


def test_a_frame_without_detections_still_counts() -> None:
    alone = evaluate_kitti([frame(CAR)] * 40, [frame(f"{CAR} 0.5")] * 40)
    among = evaluate_kitti([frame(CAR)] * 80, [frame(f"{CAR} 0.5")] * 40 + [Objects.empty()] * 40)
    assert value(alone, "Car", "3d") == pytest.approx(97.5)
    assert value(among, "Car", "3d") == pytest.approx(50, abs=2.5)
    assert among.frames == 80


def test_without_an_angle_there_is_no_orientation() -> None:
    blind = frame(f"{CAR} 0.5".replace(" 0.00 100.00 ", " -10 100.00 ", 1))
    evaluation = evaluate_kitti([frame(CAR)], [blind])
    assert {row["easy"] for row in evaluation.rows() if row["metric"] == "aos"} == {None}
    assert value(evaluation, "Car", "bbox", "R11") == pytest.approx(100 / 11)


def test_lengths_must_agree() -> None:
    with pytest.raises(InputError, match="expected one entry for each of 2 labelled frames, got 1"):
        evaluate_kitti([EMPTY, EMPTY], [NOTHING])


def test_there_must_be_a_frame() -> None:
    with pytest.raises(InputError, match="frames: expected at least one"):
        evaluate_kitti([], [])


def test_detections_must_be_ranked() -> None:
    with pytest.raises(InputError, match="detections of frame 1: expected scores"):
        evaluate_kitti([EMPTY, frame(CAR)], [NOTHING, frame(CAR)])


@pytest.mark.parametrize("column", ["scores", "alpha", "boxes_2d", "bottom", "dimensions", "yaw"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_must_be_finite(column: str, bad: float) -> None:
    good = frame(f"{CAR} 0.5", f"{CAR} 0.4")
    spoilt = getattr(good, column).copy()
    spoilt[1] = bad
    with pytest.raises(InputError, match=f"detections of frame 1, object 1, {column}: expected finite numbers"):
        evaluate_kitti([frame(CAR)] * 2, [good, replace(good, **{column: spoilt})])
    with pytest.raises(InputError, match=f"ground truth of frame 0, object 1, {column}: expected finite numbers"):
        evaluate_kitti([replace(good, **{column: spoilt})], [good])


def test_classes_must_be_kittis() -> None:
    with pytest.raises(InputError, match="expected some of Pedestrian, Car, Cyclist, got 'Tram'"):
        evaluate_kitti([EMPTY], [NOTHING], classes=["Tram"])


def test_distances_split_the_objects(street: Street) -> None:
    evaluation = evaluate_kitti(*street, distances=True)
    assert list(evaluation.by_distance) == ["0-20 m", "20-40 m", "40+ m"]
    for index, whole in enumerate(evaluation.results):
        parts = [part.results[index].objects for part in evaluation.by_distance.values()]
        assert np.sum(parts, axis=0).tolist() == whole.objects.tolist()


def test_a_range_does_not_see_the_errors_of_another() -> None:
    far = CAR.replace(" 20.00 ", " 60.00 ")
    wrong = far.replace("100.00 100.00 200.00 200.00", "600.00 100.00 700.00 200.00").replace(
        "60.00 0.00", "45.00 0.00"
    )
    evaluation = evaluate_kitti([frame(CAR, far)], [frame(f"{CAR} 0.5", f"{wrong} 0.9")], distances=True)
    assert value(evaluation.by_distance["0-20 m"], "Car", "3d", "R11") != value(evaluation, "Car", "3d", "R11")
    near = evaluate_kitti([frame(CAR)], [frame(f"{CAR} 0.5")], distances=True)
    assert value(evaluation.by_distance["20-40 m"], "Car", "3d", "R11") == value(near, "Car", "3d", "R11")
    assert np.isnan(value(near.by_distance["40+ m"], "Car", "3d"))


def test_intervals_surround_the_value_and_can_be_repeated(street: Street) -> None:
    first, again, other = (evaluate_kitti(*street, bootstrap=60, seed=seed) for seed in (1, 1, 2))
    assert first.to_json() == again.to_json()
    assert first.to_json() != other.to_json()
    cars = next(row for row in first.rows() if (row["class"], row["metric"], row["iou"]) == ("Car", "3d", 0.5))
    low, high = cars["interval"]["moderate"]
    assert low < cars["moderate"] < high


def test_resampling_frames_that_are_all_alike_changes_nothing() -> None:
    evaluation = evaluate_kitti([frame(CAR)] * 50, [frame(f"{CAR} 0.5")] * 50, bootstrap=5)
    row = next(row for row in evaluation.rows() if row["class"] == "Car")
    assert row["interval"]["easy"] == [row["easy"], row["easy"]]


def test_a_bootstrap_needs_samples() -> None:
    with pytest.raises(InputError, match="bootstrap: expected a positive number of resamplings, got 0"):
        evaluate_kitti([EMPTY], [NOTHING], bootstrap=0)
