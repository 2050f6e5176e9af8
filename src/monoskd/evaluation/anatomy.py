"""What a detector's errors cost: its detections with one part replaced by the truth.

After the error analysis of MonoDLE (Ma et al., "Delving into Localization Errors for Monocular 3D Object Detection",
CVPR 2021).
"""

from dataclasses import replace

import numpy as np

from monoskd.evaluation.matching import take_turns
from monoskd.evaluation.pairs import Float, PairedFrames, Pairs, Rows
from monoskd.objects import Objects

LEAST_OVERLAP_2D = 0.5
"""How much the 2D boxes of a detection and an object must overlap for the detection to be assigned to the object."""


def corrected_detections(paired: PairedFrames) -> dict[str, Rows]:
    """All detections, with one part of those that are assigned to an object replaced by that object's.

    "location": the 3D centre. "depth": the distance along the viewing ray through the detection's 3D centre, as if
    a better depth had been estimated for the same pixel. "dimensions": about the 3D centre. "yaw": alpha included.
    "box_2d". "score": of every detection, its best 3D overlap with an object of its class: the ceiling that a
    perfect ranking of the same boxes could reach.

    A detection is assigned to the object of its class that its 2D box overlaps most; by falling score, each object
    once.
    """
    assigned = _assigned(paired)
    truth = paired.truth.objects[assigned.truth]
    rows = assigned.detection
    before = paired.detections.objects

    def corrected(**columns: Float) -> Objects:
        whole = {name: getattr(before, name).copy() for name in columns}
        for name, values in columns.items():
            whole[name][rows] = values
        return replace(before, **whole)

    centre, true_centre = before.boxes_3d.centres[rows], truth.boxes_3d.centres
    parts = {
        "location": corrected(bottom=_bottom(true_centre, before.dimensions[rows])),
        "depth": corrected(bottom=_bottom(_at_depth(centre, true_centre[:, 2]), before.dimensions[rows])),
        "dimensions": corrected(dimensions=truth.dimensions, bottom=_bottom(centre, truth.dimensions)),
        "yaw": corrected(yaw=truth.yaw, alpha=truth.alpha),
        "box_2d": corrected(boxes_2d=truth.boxes_2d),
        "score": replace(before, scores=_best_overlap_3d(paired)),
    }
    return {name: replace(paired.detections, objects=objects) for name, objects in parts.items()}


def _assigned(paired: PairedFrames) -> Pairs:
    pairs = _of_one_class(paired, paired.pairs["bbox"])
    pairs = pairs[pairs.overlap > LEAST_OVERLAP_2D]
    rank = np.empty(len(paired.scores), np.int64)
    rank[np.argsort(-paired.scores, kind="stable")] = np.arange(len(rank))
    frame = paired.truth.frame[pairs.truth]
    return pairs[take_turns(frame, rank[pairs.detection], pairs.truth, preference=-pairs.overlap)]


def _of_one_class(paired: PairedFrames, pairs: Pairs) -> Pairs:
    return pairs[paired.truth.names[pairs.truth] == paired.detections.names[pairs.detection]]


def _best_overlap_3d(paired: PairedFrames) -> Float:
    """For each detection the best overlap with an object of its class; 0 up to `LEAST_OVERLAP`."""
    pairs = _of_one_class(paired, paired.pairs["3d"])
    best = np.zeros(len(paired.detections))
    np.maximum.at(best, pairs.detection, pairs.overlap)
    return best


def _at_depth(centre: Float, depth_m: Float) -> Float:
    """n x 3 points moved along their rays from the camera to the depth; those behind the camera to the depth alone."""
    in_front = centre[:, 2] > 0
    scale = np.divide(depth_m, centre[:, 2], out=np.ones_like(depth_m), where=in_front)
    moved = centre * scale[:, None]
    moved[:, 2] = depth_m
    return moved


def _bottom(centre: Float, dimensions: Float) -> Float:
    """n x 3 [m]: the bottom centres of boxes with these 3D centres."""
    bottom = centre.copy()
    bottom[:, 1] += dimensions[:, 0] / 2
    return bottom
