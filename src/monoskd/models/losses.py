"""Task losses of the detector: small pure functions that return scalars, averaged over what they supervise.

Nothing to supervise gives a zero that still hangs on the graph, never a NaN.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from monoskd.geometry.heading import BINS
from monoskd.models.heads import at_cells
from monoskd.structures import Targets


def task_losses(heads: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
    """Every task loss by name, from the heads of a forward pass at `targets.rois`."""
    rois = targets.rois
    return {
        "heatmap": focal_loss(heads["heatmap"], targets.heatmap),
        "offset_2d": l1_loss(at_cells(heads["offset_2d"], rois), targets.offset_2d),
        "size_2d": l1_loss(at_cells(heads["size_2d"], rois), targets.size_2d),
        "offset_3d": l1_loss(heads["offset_3d"], targets.offset_3d),
        "size_3d": l1_loss(heads["size_3d"], targets.size_3d),
        "heading": heading_loss(heads["heading"], bins=targets.heading_bin, residuals=targets.heading_residual),
        "depth": depth_loss(heads, targets),
    }


def focal_loss(logits: Float[Tensor, "b c v u"], heat: Float[Tensor, "b c v u"]) -> Float[Tensor, ""]:
    """CornerNet's focal loss (Law and Deng, ECCV 2018), summed and divided by the number of peaks.

    With p = sigmoid(logits): -(1 - p)^2 log p where heat = 1, else -(1 - heat)^4 p^2 log(1 - p).
    """
    p = logits.sigmoid()
    peak = heat == 1
    at_peaks = -((1 - p) ** 2) * functional.logsigmoid(logits)
    elsewhere = -((1 - heat) ** 4) * p**2 * functional.logsigmoid(-logits)
    return torch.where(peak, at_peaks, elsewhere).sum() / peak.sum().clamp(min=1)


def l1_loss(prediction: Float[Tensor, "n k"], target: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean |prediction - target| over objects and components."""
    return _mean((prediction - target).abs())


def heading_loss(
    heading: Float[Tensor, "n 24"], *, bins: Int64[Tensor, " n"], residuals: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Cross-entropy of the 12 bins plus L1 of the true bin's residual [rad], each a mean over objects."""
    logits, offsets = heading[:, :BINS], heading[:, BINS:]
    cross_entropy = functional.cross_entropy(logits, bins, reduction="none")
    residual = offsets.gather(1, bins[:, None]).squeeze(1)
    return _mean(cross_entropy) + _mean((residual - residuals).abs())


def depth_loss(heads: dict[str, Tensor], targets: Targets) -> Float[Tensor, ""]:
    """Visual and attribute depth where a visual target exists, plus instance depth on all 49 points of each object."""
    known = targets.depth_mask
    visual = laplacian_loss(heads["visual_depth"], targets.visual_depth, heads["visual_log_variance"])
    attribute = laplacian_loss(heads["attribute_depth"], targets.attribute_depth, heads["attribute_log_variance"])
    instance = laplacian_loss(heads["depth"], targets.depth[:, None, None], heads["depth_log_variance"])
    return _masked_mean(visual, known) + _masked_mean(attribute, known) + _mean(instance)


def laplacian_loss(prediction: Tensor, target: Tensor, log_variance: Tensor) -> Tensor:
    """-log of a Laplacian of variance exp(u), up to a constant, point by point: sqrt(2) exp(-u/2) |error| + u/2."""
    return math.sqrt(2) * torch.exp(-log_variance / 2) * (prediction - target).abs() + log_variance / 2


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)


def _masked_mean(values: Tensor, mask: Bool[Tensor, "n 7 7"]) -> Tensor:
    """Mean over the mask, zero where the mask is empty."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)
