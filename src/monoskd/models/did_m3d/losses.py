"""Task losses of the detector: small pure functions that return scalars, averaged over what they supervise.

Without objects a loss is 0 with a gradient of 0, never NaN. A weight multiplies an object's losses but not the number
of objects in the mean: half the weight gives half the gradient. With several processes the mean is over the objects of
all (`normaliser`).
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.models.heads import heading_errors, mean
from monoskd.models.heatmap import at_cells, focal_loss


def task_losses(heads: dict[str, Tensor], targets: DidM3DTargets) -> dict[str, Tensor]:
    """Every task loss by name, from the heads of a forward pass at `targets.rois`."""
    return {"heatmap": focal_loss(heads["heatmap"], targets.heatmap), **object_losses(heads, targets)}


def object_losses(heads: dict[str, Tensor], targets: DidM3DTargets) -> dict[str, Tensor]:
    """The task losses at the objects: all but the heat map's, each object's times its weight."""
    rois, weight = targets.rois, targets.weight
    return {
        "offset_2d": l1_loss(at_cells(heads["offset_2d"], rois), targets.offset_2d, weight=weight),
        "size_2d": l1_loss(at_cells(heads["size_2d"], rois), targets.size_2d, weight=weight),
        "offset_3d": l1_loss(heads["offset_3d"], targets.offset_3d, weight=weight),
        "size_3d": l1_loss(heads["size_3d"], targets.size_3d, weight=weight),
        "heading": heading_loss(
            heads["heading"], bins=targets.heading_bin, residuals=targets.heading_residual, weight=weight
        ),
        "depth": depth_loss(heads, targets),
    }


def l1_loss(
    prediction: Float[Tensor, "n k"], target: Float[Tensor, "n k"], *, weight: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Mean |prediction - target| over objects and components."""
    return mean((prediction - target).abs() * weight[:, None])


def heading_loss(
    heading: Float[Tensor, "n 24"],
    *,
    bins: Int64[Tensor, " n"],
    residuals: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the 12 bins plus L1 of the true bin's residual [rad], each a mean over objects."""
    of_bins, of_residual = heading_errors(heading, bins=bins, residuals=residuals)
    return mean(of_bins * weight) + mean(of_residual * weight)


def depth_loss(heads: dict[str, Tensor], targets: DidM3DTargets) -> Float[Tensor, ""]:
    """Visual and attribute depth where a visual target exists, plus instance depth on all 49 points of each object."""
    known, weight = targets.depth_mask, targets.weight[:, None, None]
    visual = laplacian_loss(heads["visual_depth"], targets.visual_depth, heads["visual_log_variance"])
    attribute = laplacian_loss(heads["attribute_depth"], targets.attribute_depth, heads["attribute_log_variance"])
    instance = laplacian_loss(heads["depth"], targets.depth[:, None, None], heads["depth_log_variance"])
    return mean(visual * weight, known) + mean(attribute * weight, known) + mean(instance * weight)


def laplacian_loss(prediction: Tensor, target: Tensor, log_variance: Tensor) -> Tensor:
    """-log of a Laplacian of variance exp(u), up to a constant, point by point: sqrt(2) exp(-u/2) |error| + u/2."""
    return math.sqrt(2) * torch.exp(-log_variance / 2) * (prediction - target).abs() + log_variance / 2
