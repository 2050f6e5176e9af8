"""Task losses of MonoDLE: scalars, averaged over what they supervise.

Nothing to supervise gives a zero that still hangs on the graph, where the original gives NaN. A weight multiplies an
object's losses and not their number.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from monoskd.errors import InputError
from monoskd.geometry.heading import BINS
from monoskd.models.heatmap import focal_loss
from monoskd.models.monodle.structures import MonoDLETargets
from monoskd.parallel import average, normaliser

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
    depth = laplacian_loss(at["depth"], targets.depth[:, None], at["depth_log_std"])
    return {
        "offset_2d": mean((at["offset_2d"] - targets.offset_2d).abs() * weight),
        "size_2d": mean((at["size_2d"] - targets.size_2d).abs() * weight),
        "offset_3d": mean(((at["offset_3d"] - targets.offset_3d).abs() * weight)[has_3d]),
        "depth": mean((depth * weight)[has_3d]),
        "size_3d": size_loss(
            (at["size_3d"] + targets.mean_size)[has_3d], targets.dimensions[has_3d], weight=weight[has_3d]
        ),
        "heading": heading_loss(at["heading"], targets),
    }


def at_objects(heads: dict[str, Tensor], targets: MonoDLETargets) -> dict[str, Float[Tensor, "n _k"]]:
    """What is said of each object of `targets`: all heads but the heat map."""
    said = {name: head for name, head in heads.items() if name != "heatmap"}
    for name, head in said.items():
        if len(head) != len(targets.image):
            raise InputError(
                f"heads: {name}: expected a row for each of the {len(targets.image)} objects, got {len(head)}: "
                "call the network with at=targets"
            )
    return said


def size_loss(
    sizes: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"], *, weight: Float[Tensor, "n 1"]
) -> Float[Tensor, ""]:
    """Errors relative to the true size, brought to the scale of the absolute ones. Sizes in metres.

    With e = |error|: mean(e / size) times the constant mean(e) / mean(e / size), which has no gradient. So the value is
    the mean error [m], and small dimensions pull harder.
    """
    error = (sizes - true).abs() * weight
    relative = mean(error / true)
    means = average({"error": mean(error).detach(), "relative": relative.detach()})
    return relative * (means["error"] / means["relative"].clamp(min=torch.finfo(relative.dtype).tiny))


def heading_loss(heading: Float[Tensor, "n 24"], targets: MonoDLETargets) -> Float[Tensor, ""]:
    """Cross-entropy of the 12 bins plus L1 of the true bin's residual [rad], each a mean over objects."""
    logits, offsets = heading[:, :BINS], heading[:, BINS:]
    cross_entropy = functional.cross_entropy(logits, targets.heading_bin, reduction="none")
    residual = offsets.gather(1, targets.heading_bin[:, None]).squeeze(1)
    return mean(cross_entropy * targets.weight) + mean((residual - targets.heading_residual).abs() * targets.weight)


def laplacian_loss(prediction: Tensor, target: Tensor, log_std: Tensor) -> Tensor:
    """-log of a Laplacian of standard deviation exp(u), up to a constant: 1.4142 exp(-u) |error| + u."""
    return 1.4142 * torch.exp(-log_std) * (prediction - target).abs() + log_std


def mean(values: Tensor) -> Float[Tensor, ""]:
    """The mean, over all processes together; 0, with a gradient of 0, of nothing."""
    return values.sum() / normaliser(values.numel(), like=values)
