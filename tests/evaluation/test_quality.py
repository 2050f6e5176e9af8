from dataclasses import replace

import numpy as np
import pytest

from monoskd.evaluation.quality import LabelQuality, best_score, label_quality
from monoskd.objects import Objects


def objects(*rows: tuple[str, float, float], scored: bool = False) -> Objects:
    """Boxes 40 px wide and tall at (name, left [px], depth [m]), the surest first."""
    left = np.array([row[1] for row in rows])
    depth = np.array([row[2] for row in rows])
    zero, n = np.zeros(len(rows)), len(rows)
    return Objects(
        names=np.array([row[0] for row in rows], np.str_),
        truncation=zero,
        occlusion=np.zeros(n, np.int64),
        alpha=zero,
        boxes_2d=np.stack([left, zero, left + 40, zero + 40], -1),
        dimensions=np.ones((n, 3)),
        bottom=np.stack([zero, zero, depth], -1),
        yaw=zero,
        scores=np.linspace(0.9, 0.5, n) if scored else None,
    )


def overall(truth: Objects, found: Objects, name: str = "Car") -> LabelQuality:
    return label_quality([truth], [found], classes=[name])[0]


def test_right_wrong_and_missed() -> None:
    truth = objects(("Car", 0, 10), ("Car", 100, 25), ("Car", 200, 50))
    found = objects(("Car", 5, 11), ("Car", 105, 27), ("Car", 400, 60), scored=True)
    rows = {row.distance_m: row for row in label_quality([truth], [found], classes=["Car"])}
    whole = rows["all"]
    assert (whole.right, whole.wrong, whole.missed, whole.depth_error_m) == (2, 1, 1, 1.5)
    assert whole.precision == whole.recall == pytest.approx(2 / 3)
    assert (rows["0-20"].right, rows["20-40"].right, rows["40+"].right) == (1, 1, 0)
    assert (rows["40+"].wrong, rows["40+"].missed, rows["40+"].recall) == (1, 1, 0)
    assert rows["0-20"].depth_error_m == 1


def test_one_object_makes_one_detection_right_the_surer_one() -> None:
    row = overall(objects(("Car", 0, 10)), objects(("Car", 8, 14), ("Car", 0, 10), scored=True))
    assert (row.right, row.wrong, row.missed, row.depth_error_m) == (1, 1, 0, 4)


def test_neighbours_regions_nobody_labelled_and_hidden_objects_are_neither_right_nor_wrong() -> None:
    truth = objects(("Van", 0, 10), ("DontCare", 100, 10), ("Car", 200, 10), ("Pedestrian", 300, 10))
    truth = replace(truth, occlusion=np.array([0, -1, 3, 0]))
    found = objects(("Car", 0, 10), ("Car", 100, 10), ("Car", 200, 10), ("Car", 300, 10), scored=True)
    row = overall(truth, found)
    assert (row.right, row.wrong, row.missed) == (0, 1, 0)
    assert row.recall is None


def test_small_objects_need_not_be_found() -> None:
    assert (
        label_quality([objects(("Car", 0, 10))], [objects(scored=True)], classes=["Car"], min_height_px=41)[0].missed
        == 0
    )


def test_small_detections_are_left_out_as_they_are_in_training() -> None:
    found = objects(("Car", 100, 10), scored=True)
    rows = [label_quality([objects()], [found], classes=["Car"], min_height_px=least)[0].wrong for least in (40, 41)]
    assert rows == [1, 0]


def test_a_class_that_is_not_kittis_has_no_neighbour() -> None:
    row = overall(objects(("Truck", 0, 10)), objects(("Truck", 0, 10), scored=True), name="Truck")
    assert (row.right, row.wrong, row.missed) == (1, 0, 0)


def test_no_frames_say_nothing() -> None:
    assert label_quality([], [], classes=["Car"])[0] == LabelQuality("Car", "all", 0, 0, 0, None)


def test_names_are_compared_in_any_case() -> None:
    truth, found = objects(("CAR", 0, 10), ("vAN", 100, 25)), objects(("car", 5, 11), ("car", 105, 27), scored=True)
    whole = overall(truth, found, name="car")
    assert (whole.name, whole.right, whole.wrong, whole.missed) == ("car", 1, 0, 0)


def test_the_best_score_is_that_of_the_highest_f1_of_all_scores() -> None:
    rng = np.random.default_rng(0)

    def street(n: int, *, scored: bool) -> Objects:
        names = rng.choice(["Car", "Pedestrian", "Van"], n)
        made = objects(*((name, 30.0 * rng.integers(12), rng.uniform(5, 50)) for name in names), scored=scored)
        return replace(made, scores=rng.uniform(0, 0.3, n).round(2)) if scored else made

    classes = ["Car", "Pedestrian"]
    truth, found = [street(6, scored=False) for _ in range(8)], [street(9, scored=True) for _ in range(8)]

    def f1(least: float) -> float:
        kept = [one[one.scores >= least] for one in found if one.scores is not None]
        rows = [row for row in label_quality(truth, kept, classes=classes) if row.distance_m == "all"]
        right, wrong, missed = (sum(getattr(row, name) for row in rows) for name in ("right", "wrong", "missed"))
        return 2 * right / (2 * right + wrong + missed)

    best = best_score(truth, found, classes=classes)
    scores = {float(score) for one in found for score in np.ravel(one.scores)}
    assert best in scores
    assert f1(best) == pytest.approx(max(map(f1, scores)))


def test_where_nothing_is_right_no_score_is_best() -> None:
    assert best_score([], [], classes=["Car"]) is None
    assert best_score([objects(("Car", 0, 10))], [objects(("Car", 400, 10), scored=True)], classes=["Car"]) is None
