"""Task losses of MonoDLE: scalars, averaged over what they supervise.

Nothing to supervise gives a zero that still hangs on the graph, where the original gives NaN. A weight multiplies an
object's losses and not their number.
"""

import math

from torch import Tensor

from monoskd.models.dense import at_objects, heading_loss, size_loss
from monoskd.models.heads import laplacian_loss, mean
from monoskd.models.heatmap import focal_loss
from monoskd.models.monodle.structures import MonoDLETargets

_LEAST_HEAT = 1e-4


def task_losses(heads: dict[str, Tensor], targets: MonoDLETargets, *, clamped_heat: bool) -> dict[str, Tensor]:
    """Every task loss by name, from the heads of a forward pass at `targets`.

    clamped_heat: probabilities stay within 1e-4 .. 1 - 1e-4, as in the original.
    """
    limit = math.log((1 - _LEAST_HEAT) / _LEAST_HEAT)
    logits = heads["heatmap"].clamp(-limit, limit) if clamped_heat else heads["heatmap"]
    return {"heatmap": focal_loss(logits, targets.heatmap), **object_losses(heads, targets)}


def object_losses(heads: dict[str, Tensor], targets: MonoDLETargets) -> dict[str, Tensor]:
    """The losses of what is said of each object: all but the heat map's."""
    at = at_objects(heads, targets)
    weight, has_3d = targets.weight[:, None], targets.has_3d
    depth = laplacian_loss(at["depth"] - targets.depth[:, None], at["depth_log_std"])
    return {
        "offset_2d": mean((at["offset_2d"] - targets.offset_2d).abs() * weight),
        "size_2d": mean((at["size_2d"] - targets.size_2d).abs() * weight),
        "offset_3d": mean((at["offset_3d"] - targets.offset_3d).abs() * weight, has_3d),
        "depth": mean(depth * weight, has_3d),
        "size_3d": size_loss(at["size_3d"] + targets.mean_size, targets.dimensions, weight=weight, where=has_3d),
        "heading": heading_loss(at["heading"], targets),
    }
