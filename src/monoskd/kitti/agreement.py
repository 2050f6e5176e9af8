"""Whether depth and labels agree: the distance of the LiDAR returns from the labelled 3D boxes."""

from collections.abc import Sequence

import numpy as np

from monoskd.kitti.depth import DepthMap
from monoskd.objects import Objects, has_3d_box

# Of a data set's median object. Correct data has 0.0, a LiDAR turned by 5 degrees about its upright axis 2 and more.
MOST_ERROR_M = 1.5

# Which labels are compared: objects far away or behind others have few returns of their own in their 2D boxes.
_FARTHEST_M = 30.0
_HIDDEN = (1, 2)  # occlusion: partly, largely; unknown (3, -1) counts as visible
_MOST_TRUNCATED = 0.3
_LEAST_PIXELS = 5


def depth_errors(depth_m: DepthMap, objects: Objects) -> list[float]:
    """For each near, visible object the median distance [m] of the depths inside its 2D box from its 3D box.

    depth_m: height x width, sparse or dense, 0 where unknown. Distances are along z. A 3D box reaches from its centre
    by (l |sin yaw| + w |cos yaw|) / 2 both ways, so that surfaces of long vehicles count as right wherever they are.
    """
    compared = objects[
        has_3d_box(objects)
        & (objects.names != "DontCare")
        & ~np.isin(objects.occlusion, _HIDDEN)
        & (objects.truncation <= _MOST_TRUNCATED)
    ]
    _, width_m, length_m = compared.dimensions.T
    reach_m = (length_m * np.abs(np.sin(compared.yaw)) + width_m * np.abs(np.cos(compared.yaw))) / 2
    errors = []
    for box, z, reach in zip(compared.boxes_2d, compared.bottom[:, 2], reach_m, strict=True):
        left, top, right, bottom = np.rint(np.maximum(box, 0)).astype(int)
        inside = depth_m[top : bottom + 1, left : right + 1]
        known = inside[inside > 0]
        # Near by the label or by the returns, so that labels in wrong units are compared, too.
        if known.size >= _LEAST_PIXELS and min(z, float(np.median(known))) <= _FARTHEST_M:
            errors.append(float(np.median(np.maximum(np.abs(known - z) - reach, 0))))
    return errors


def disagreement(errors_m: Sequence[float], *, of: str = "LiDAR returns") -> str | None:
    """What is wrong if the errors of a data set's objects are too large: what was expected and what was measured.

    of: what was compared with the objects.
    """
    if not len(errors_m) or (error_m := float(np.median(errors_m))) <= MOST_ERROR_M:
        return None
    return f"expected {of} on the labelled objects, got a median of {error_m:.1f} m beside their 3D boxes"
