import numpy as np
import pytest

from monoskd.objects import KITTI_CLASSES, Objects, canonical_name, class_index, is_supervised


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, str.swapcase])
def test_class_names_are_the_same_in_any_case(change) -> None:
    assert [canonical_name(change(name)) for name in KITTI_CLASSES] == list(KITTI_CLASSES)
    classes = ("Pedestrian", "Car", "Cyclist")
    assert class_index(np.array([change("Car"), change("Van"), change("Cyclist")]), classes).tolist() == [1, -1, 2]


def test_other_names_stay_as_they_are() -> None:
    assert canonical_name("Bus") == "Bus"
    assert class_index(["bus", "BUS", "Car"], ("Bus",)).tolist() == [0, 0, -1]


@pytest.mark.parametrize(
    ("box", "expected"), [((10, 10, 60, 90), True), ((60, 10, 10, 90), False), ((10, 10, 10, 90), False)]
)
def test_a_2d_box_with_swapped_corners_is_not_trained_on(box: tuple[int, ...], expected: bool) -> None:
    car = Objects(
        names=np.array(["Car"]),
        truncation=np.zeros(1),
        occlusion=np.zeros(1, np.int64),
        alpha=np.zeros(1),
        boxes_2d=np.array([box], np.float64),
        dimensions=np.array([[1.5, 1.6, 4]]),
        bottom=np.array([[0.0, 1.6, 20]]),
        yaw=np.zeros(1),
    )
    assert is_supervised(car, ["Car"]).tolist() == [expected]
