import numpy as np
import pytest

from monoskd.objects import KITTI_CLASSES, canonical_name, class_index


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, str.swapcase])
def test_class_names_are_the_same_in_any_case(change) -> None:
    assert [canonical_name(change(name)) for name in KITTI_CLASSES] == list(KITTI_CLASSES)
    classes = ("Pedestrian", "Car", "Cyclist")
    assert class_index(np.array([change("Car"), change("Van"), change("Cyclist")]), classes).tolist() == [1, -1, 2]


def test_other_names_stay_as_they_are() -> None:
    assert canonical_name("Bus") == "Bus"
    assert class_index(["bus", "BUS", "Car"], ("Bus",)).tolist() == [0, 0, -1]
