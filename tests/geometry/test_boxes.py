from typing import Any

import numpy as np
import pytest
import torch

from monoskd.geometry.boxes import Boxes3D

BOTTOM = np.array([[1.0, 1.6, 14.0], [-3.0, 1.2, 40.0]])
DIMENSIONS = np.array([[1.5, 1.6, 3.9], [1.8, 0.6, 0.8]])
YAW = np.array([0.3, -1.2])


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_boxes_around_their_own_centres_are_the_same_boxes(array: Any) -> None:
    boxes = Boxes3D(array(BOTTOM), array(DIMENSIONS), array(YAW))
    centres = boxes.centres
    np.testing.assert_allclose(centres[:, 1], BOTTOM[:, 1] - DIMENSIONS[:, 0] / 2)  # y points down
    again = Boxes3D.around(centres, boxes.dimensions, boxes.yaw)
    np.testing.assert_allclose(again.bottom, BOTTOM)
    np.testing.assert_allclose(again.centres, centres)
    assert again.dimensions is boxes.dimensions
    assert again.yaw is boxes.yaw
