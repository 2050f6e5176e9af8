from dataclasses import replace

import numpy as np
import pytest

from monoskd.errors import InputError
from monoskd.evaluation import pairs as pairs_module
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.pairs import LEAST_OVERLAP, PairedFrames
from monoskd.geometry.iou import iou_2d, iou_3d, iou_bev
from monoskd.objects import Objects

Street = tuple[list[Objects], list[Objects]]


@pytest.mark.parametrize("geometry", ["bbox", "bev", "3d"])
def test_pairs_are_those_of_a_loop_over_frames(street: Street, geometry: str) -> None:
    paired = PairedFrames.of(*street)
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
    pairs = paired.pairs[geometry]
    np.testing.assert_allclose(np.stack([pairs.truth, pairs.detection, pairs.overlap], 1), expected)
    assert len(expected) > 50


def test_rows_know_their_frame(street: Street) -> None:
    paired = PairedFrames.of(*street)
    for index, truth in enumerate(street[0]):
        np.testing.assert_array_equal(paired.truth.objects[paired.truth.frame == index].yaw, truth.yaw)


def test_pairs_do_not_depend_on_how_many_are_looked_at_at_once(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PairedFrames.of(*street)
    monkeypatch.setattr(pairs_module, "PAIRS_AT_ONCE", 7)
    parts = PairedFrames.of(*street)
    np.testing.assert_array_equal(parts.dont_care_share, whole.dont_care_share)
    for geometry, pairs in whole.pairs.items():
        for name in ("truth", "detection", "overlap"):
            np.testing.assert_array_equal(getattr(parts.pairs[geometry], name), getattr(pairs, name))


def test_a_crowd_in_one_place_is_refused_before_it_fills_the_memory(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs_module, "MOST_PAIRS", 3)
    with pytest.raises(InputError, match=r"frame \d+: expected objects apart from each other, got more than 3 pairs"):
        PairedFrames.of(*street)


def test_labels_of_2d_boxes_only_count_in_2d_and_divide_by_nothing(street: Street) -> None:
    for value in (0.0, -1.0):
        flat = [
            replace(truth, dimensions=np.full((len(truth), 3), value), bottom=np.zeros((len(truth), 3)))
            for truth in street[0]
        ]
        paired = PairedFrames.of(flat, street[1])
        assert len(paired.pairs["bbox"]) == len(PairedFrames.of(*street).pairs["bbox"]) > 50
        assert len(paired.pairs["bev"]) == len(paired.pairs["3d"]) == 0
        evaluation = evaluate_kitti(flat, street[1], distances=True, anatomy=True)
        assert all(result.curves.max() == 0 for result in evaluation.results if result.metric == "3d")
