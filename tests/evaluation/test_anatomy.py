from dataclasses import replace

import numpy as np
import pytest

from monoskd.evaluation.anatomy import corrected_detections
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.pairs import PairedFrames
from monoskd.objects import Objects

Street = tuple[list[Objects], list[Objects]]


def car(*, z_m: float = 20.0, score: float | None = None, shift_px: float = 0.0) -> Objects:
    left = 500.0 + shift_px
    return Objects(
        names=np.array(["Car"]),
        truncation=np.zeros(1),
        occlusion=np.zeros(1, np.int64),
        alpha=np.array([0.1]),
        boxes_2d=np.array([[left, 100, left + 120, 180]]),
        dimensions=np.array([[1.5, 1.6, 4.0]]),
        bottom=np.array([[z_m / 10, 1.65, z_m]]),
        yaw=np.array([0.2]),
        scores=None if score is None else np.array([score]),
    )


def joined(*objects: Objects) -> Objects:
    return Objects(**{name: np.concatenate([vars(one)[name] for one in objects]) for name in vars(objects[0])})


def test_each_part_is_replaced_and_nothing_else() -> None:
    truth = car()
    found = replace(
        car(z_m=25, score=0.5, shift_px=3),
        dimensions=np.array([[1.7, 1.7, 4.4]]),
        yaw=np.array([0.5]),
        alpha=np.array([0.4]),
    )
    corrected = {name: rows.objects for name, rows in corrected_detections(PairedFrames.of([truth], [found])).items()}
    np.testing.assert_array_equal(corrected["yaw"].yaw, truth.yaw)
    np.testing.assert_array_equal(corrected["yaw"].alpha, truth.alpha)
    np.testing.assert_array_equal(corrected["yaw"].bottom, found.bottom)
    np.testing.assert_array_equal(corrected["box_2d"].boxes_2d, truth.boxes_2d)
    np.testing.assert_array_equal(corrected["box_2d"].dimensions, found.dimensions)
    np.testing.assert_array_equal(corrected["dimensions"].dimensions, truth.dimensions)
    np.testing.assert_allclose(corrected["dimensions"].boxes_3d.centres, found.boxes_3d.centres)
    np.testing.assert_allclose(corrected["location"].boxes_3d.centres, truth.boxes_3d.centres)
    np.testing.assert_array_equal(corrected["location"].dimensions, found.dimensions)


def test_a_better_depth_leaves_the_pixel() -> None:
    found = car(z_m=25, score=0.5)
    depth = corrected_detections(PairedFrames.of([car(z_m=20)], [found]))["depth"].objects
    before, after = found.boxes_3d.centres, depth.boxes_3d.centres
    assert after[0, 2] == 20
    np.testing.assert_allclose(after[0] / after[0, 2], before[0] / before[0, 2])


def test_an_object_is_given_once_to_the_best_scored() -> None:
    found = joined(car(z_m=30, score=0.4), car(z_m=31, score=0.9, shift_px=2), car(z_m=32, score=0.8, shift_px=400))
    location = corrected_detections(PairedFrames.of([car()], [found]))["location"].objects
    assert location.bottom[:, 2].tolist() == [30, 20, 32]


def test_a_detection_is_not_assigned_another_class() -> None:
    found = replace(car(z_m=30, score=0.4), names=np.array(["Cyclist"]))
    corrected = corrected_detections(PairedFrames.of([car()], [found]))
    assert corrected["location"].objects.bottom[0, 2] == 30
    assert corrected["score"].objects.scores.tolist() == [0]


def test_scores_become_the_overlap() -> None:
    found = joined(car(score=0.1), car(score=0.9), car(z_m=60, score=1))
    found = replace(found, yaw=np.zeros(3), bottom=found.bottom + np.array([[0, 0, 0], [1.0, 0, 0], [0, 0, 0]]))
    scores = corrected_detections(PairedFrames.of([replace(car(), yaw=np.zeros(1))], [found]))["score"].objects.scores
    assert scores == pytest.approx([1, 3 / 5, 0])  # 4 m long and 1 m off: 3 of 5 metres are shared


def test_mending_helps(street: Street) -> None:
    evaluation = evaluate_kitti(*street, anatomy=True)

    def strict_3d(part: str | None) -> float:
        results = (evaluation.anatomy[part] if part else evaluation).results
        cars = next(r for r in results if (r.class_name, r.metric, r.least_overlap) == ("Car", "3d", 0.7))
        return cars.average_precision()["moderate"]

    assert strict_3d("location") > strict_3d("depth") > strict_3d(None)
    assert strict_3d("score") > strict_3d(None)


def test_detections_in_place_are_left_alone(street: Street) -> None:
    truth, found = street
    paired = PairedFrames.of(truth, found)
    before = {name: np.array(column) for name, column in vars(paired.detections.objects).items()}
    corrected_detections(paired)
    for name, column in before.items():
        np.testing.assert_array_equal(getattr(paired.detections.objects, name), column)
