"""Task losses of MonoCon: scalars, averaged over what they supervise.

Nothing to supervise gives a zero that still hangs on the graph. A weight multiplies an object's losses and not their
number.
"""

import torch
from torch import Tensor

from monoskd.models.dense import at_objects, heading_loss, size_loss
from monoskd.models.heads import laplacian_loss, mean
from monoskd.models.heatmap import focal_loss
from monoskd.models.monocon.structures import KEYPOINTS, MonoConTargets

SIZE_2D_WEIGHT = 0.1  # all others are 1


def task_losses(heads: dict[str, Tensor], targets: MonoConTargets) -> dict[str, Tensor]:
    """Every task loss by name, from the heads of a forward pass at `targets`."""
    of_objects = object_losses(heads, targets)
    return {
        "heatmap": focal_loss(heads["heatmap"], targets.heatmap),
        "keypoint_heatmap": focal_loss(heads["keypoint_heatmap"], targets.keypoint_heatmap),
        **of_objects,
    }


def object_losses(heads: dict[str, Tensor], targets: MonoConTargets) -> dict[str, Tensor]:
    """The losses of what is said of each object: all but those of the heat maps.

    keypoints: L1 of the corners and of the 3D centre, an equal ninth each. keypoint_offset: L1 at the keypoints' cells.
    """
    at = at_objects(heads, targets)
    weight = targets.weight[:, None]
    depth = laplacian_loss(at["depth"] - targets.depth[:, None], at["depth_log_std"])
    said = torch.cat([heads["corners"], at["offset_3d"]], 1).reshape(-1, KEYPOINTS, 2)
    true = torch.cat([targets.corners, targets.offset_3d[:, None]], 1)
    known = torch.cat([targets.has_corner, torch.ones_like(targets.has_corner[:, :1])], 1)
    offset_error = (heads["keypoint_offset"] - targets.keypoint_offset).abs() * weight[..., None]
    return {
        "offset_2d": mean((at["offset_2d"] - targets.offset_2d).abs() * weight),
        "size_2d": SIZE_2D_WEIGHT * mean((at["size_2d"] - targets.size_2d).abs() * weight),
        "keypoints": mean((said - true).abs() * weight[..., None], known),
        "keypoint_offset": mean(offset_error, targets.has_keypoint),
        "depth": mean(depth * weight),
        "size_3d": size_loss(at["size_3d"] + targets.mean_size, targets.dimensions, weight=weight),
        "heading": heading_loss(at["heading"], targets),
    }
