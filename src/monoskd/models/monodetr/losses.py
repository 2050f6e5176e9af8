"""Task losses of MonoDETR: sums over matched pairs (or queries), divided by the number of pairs; all scalars.

Numbers are counted over all processes together, see `monoskd.parallel`.

A weight multiplies an object's losses and not their number. Nothing to supervise gives zeros with a gradient of 0.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from monoskd.models.heads import heading_errors, laplacian_loss
from monoskd.models.monodetr.matching import ALPHA, GAMMA, corners, generalised_overlap, match
from monoskd.models.monodetr.structures import MonoDETROutput, MonoDETRTargets
from monoskd.parallel import average, normaliser

WEIGHTS = {
    "classes": 2.0,
    "centre": 10.0,
    "edges": 5.0,
    "overlap": 2.0,
    "depth": 1.0,
    "size_3d": 1.0,
    "heading": 1.0,
    "depth_map": 1.0,
}
_FOREGROUND_WEIGHT = 13.0
_ONE_HOT_EPSILON = 1e-6
Heads = dict[str, Tensor]
Pairs = tuple[Tensor, Tensor]
Count = int | Tensor


def task_losses(output: MonoDETROutput, targets: MonoDETRTargets, *, least_count: int = 0) -> dict[str, Tensor]:
    """The losses of all decoder layers and of the depth map by name, each times its weight.

    least_count: sums over queries are divided by the number of objects, or by this where they are fewer; a group each.
    """
    count = normaliser(len(targets.image), like=output.heads["logits"], least=least_count) * output.groups
    layers = [
        layer_losses(heads, targets, pairs=match(heads, targets, groups=output.groups), count=count)
        for heads in (*output.earlier.values(), output.heads)
    ]
    losses = {name: torch.stack([layer[name] for layer in layers]).sum() for name in layers[0]}
    losses["depth_map"] = depth_map_loss(output.heads["depth_map"], targets)
    return {name: WEIGHTS[name] * loss for name, loss in losses.items()}


def layer_losses(heads: Heads, targets: MonoDETRTargets, *, pairs: Pairs, count: Count) -> dict[str, Tensor]:
    """The losses of one decoder layer, unweighted. pairs: query and object, from `match`; count: what sums are over."""
    query, row = pairs
    wanted = torch.zeros_like(heads["logits"])
    wanted[targets.image[row], query, targets.label[row]] = targets.weight[row].to(wanted)
    return {
        "classes": class_loss(heads["logits"], wanted) / count,
        **pair_losses({name: heads[name][targets.image[row], query] for name in _OF_PAIRS}, targets, row, count=count),
    }


_OF_PAIRS = ("boxes", "size_3d", "heading", "depth", "depth_log_std")


def pair_losses(said: Heads, targets: MonoDETRTargets, row: Tensor, *, count: Count) -> dict[str, Tensor]:
    """The losses of what the m matched queries say of their objects, the rows of the targets.

    centre, edges: L1. overlap: 1 - GIoU of the 2D boxes. depth: Laplacian of the apparent depth [m]. size_3d: see
    `size_loss`. heading: cross-entropy of 12 bins, and L1 of the true bin's residual [rad].
    """
    weight, box = targets.weight[row], targets.box[row].to(said["boxes"])
    apart = (said["boxes"] - box).abs() * weight[:, None]
    overlap = generalised_overlap(corners(said["boxes"]), corners(box))
    error = (said["depth"][:, 0] - targets.depth[row]) / targets.magnification[targets.image[row]]
    return {
        "centre": apart[:, :2].sum() / count,
        "edges": apart[:, 2:].sum() / count,
        "overlap": ((1 - overlap) * weight).sum() / count,
        "depth": (laplacian_loss(error, said["depth_log_std"][:, 0]) * weight).sum() / count,
        "size_3d": size_loss(said["size_3d"], targets.dimensions[row], weight=weight[:, None]) / count,
        "heading": heading_loss(said["heading"], targets, row) / count,
    }


def class_loss(logits: Float[Tensor, "b q c"], wanted: Float[Tensor, "b q c"]) -> Float[Tensor, ""]:
    """Focal loss (Lin et al., ICCV 2017), summed: a_t |wanted - p|^2 times the cross-entropy, a_t = 0.25 at 1.

    Soft where `wanted` is a score between 0 and 1 (quality focal loss): least where p equals it.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    alpha = torch.where(wanted > 0, ALPHA, 1 - ALPHA)
    return (alpha * (wanted - logits.sigmoid()).abs() ** GAMMA * cross_entropy).sum()


def size_loss(
    sizes: Float[Tensor, "m 3"], true: Float[Tensor, "m 3"], *, weight: Float[Tensor, "m 1"]
) -> Float[Tensor, ""]:
    """Errors relative to the true size, brought to the scale of the absolute ones, summed. Sizes in metres.

    With e = |error|: sum(e / size) times the constant sum(e) / sum(e / size), which has no gradient.
    """
    error = (sizes - true).abs() * weight
    relative = (error / true).sum()
    sums = average({"error": error.sum().detach(), "relative": relative.detach()})
    return relative * (sums["error"] / sums["relative"].clamp(min=torch.finfo(relative.dtype).tiny))


def heading_loss(heading: Float[Tensor, "m 24"], targets: MonoDETRTargets, row: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of the bins plus L1 of the true bin's residual [rad], summed."""
    of_bins, of_residual = heading_errors(
        heading, bins=targets.heading_bin[row], residuals=targets.heading_residual[row]
    )
    return ((of_bins + of_residual) * targets.weight[row]).sum()


def depth_map_loss(logits: Float[Tensor, "b d v u"], targets: MonoDETRTargets) -> Float[Tensor, ""]:
    """Focal loss of the depth bins, a mean over cells; cells inside 2D boxes weigh 13.

    -0.25 (1 - p)^2 log p of the target bin, plus 1e-6 times the same summed over all bins.
    """
    log_p = logits.log_softmax(1)
    focal = -ALPHA * (1 - log_p.exp()) ** GAMMA * log_p
    of_bin = focal.gather(1, targets.depth_bin[:, None]).squeeze(1) + _ONE_HOT_EPSILON * focal.sum(1)
    weighted = of_bin * torch.where(targets.foreground, _FOREGROUND_WEIGHT, 1.0)
    return weighted.sum() / normaliser(weighted.numel(), like=logits)
