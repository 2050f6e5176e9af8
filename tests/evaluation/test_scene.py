import numpy as np
import pytest

from monoskd.evaluation.scene import LEAST_OVERLAP, Scene
from monoskd.geometry.iou import iou_2d, iou_3d, iou_bev
from monoskd.objects import Objects

Street = tuple[list[Objects], list[Objects]]


@pytest.mark.parametrize("geometry", ["bbox", "bev", "3d"])
def test_pairs_are_those_of_a_loop_over_frames(street: Street, geometry: str) -> None:
    scene = Scene.of(*street)
    expected, first_truth, first_found = [], 0, 0
    for truth, found in zip(*street, strict=True):
        for t in range(len(truth)):
            for d in range(len(found)):
                a, b = found[d : d + 1], truth[t : t + 1]
                overlap = {
                    "bbox": iou_2d(a.boxes_2d, b.boxes_2d),
                    "bev": iou_bev(a.boxes_3d, b.boxes_3d),
                    "3d": iou_3d(a.boxes_3d, b.boxes_3d),
                }[geometry][0]
                if overlap > LEAST_OVERLAP:
                    expected.append((first_truth + t, first_found + d, overlap))
        first_truth, first_found = first_truth + len(truth), first_found + len(found)
    pairs = scene.pairs[geometry]
    np.testing.assert_allclose(np.stack([pairs.truth, pairs.detection, pairs.overlap], 1), expected)
    assert len(expected) > 50


def test_rows_know_their_frame(street: Street) -> None:
    scene = Scene.of(*street)
    for index, truth in enumerate(street[0]):
        np.testing.assert_array_equal(scene.truth.objects[scene.truth.frame == index].yaw, truth.yaw)
