"""What a query says after each decoder layer: class, box, size, heading and depth, each by a small network."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.geometry.heading import BINS
from monoskd.models.heads import PreciseLinear, depth_m
from monoskd.models.monodetr.bilinear import read_maps

CLASS_PRIOR = 0.01  # a query is an object of a class with this probability before anything is learned
EDGE_LOGIT = -2.0  # of the distances from the centre to the 2D box before anything is learned
_INVERSE_EPSILON = 1e-5


@dataclass(frozen=True)
class BoxScale:
    """What turns an object's height and its box's into an apparent depth, b each.

    focal_px: through which an object at that depth is height_px x (top + bottom) pixels high.
    """

    focal_px: Float[Tensor, " b"]
    height_px: Float[Tensor, " b"]


class QueryHeads(nn.Module):
    """The heads of all decoder layers.

    logits: of each class. boxes: centre (x, y), left, right, top, bottom, in [0, 1]. size_3d: (h, w, l) [m]. heading:
    12 logits, 12 residuals [rad]. depth: apparent [m]; depth_log_std: the log of its standard deviation.
    """

    def __init__(self, width: int, *, classes: int, layers: int) -> None:
        super().__init__()
        self.logits = nn.ModuleList(PreciseLinear(width, classes) for _ in range(layers))
        self.boxes = nn.ModuleList(_perceptron(width, 6, hidden_layers=2) for _ in range(layers))
        self.size_3d = nn.ModuleList(_perceptron(width, 3) for _ in range(layers))
        self.heading = nn.ModuleList(_perceptron(width, 2 * BINS) for _ in range(layers))
        self.depth = nn.ModuleList(_perceptron(width, 2) for _ in range(layers))
        for linear in self.logits:
            nn.init.constant_(linear.bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))  # type: ignore[arg-type]
        nn.init.constant_(self.boxes[0][-1].bias[2:], EDGE_LOGIT)  # type: ignore[index]

    def start_at(self, *, depth_m: float, size: Tensor) -> None:
        """Begin with this depth [m] and this size (h, w, l) [m] instead of 1 m and 0 m."""
        for layer in self.depth:
            layer[-1].bias.data[0] = -math.log(depth_m)  # type: ignore[index]
        for layer in self.size_3d:
            layer[-1].bias.data.copy_(size)  # type: ignore[index]

    def forward(
        self, number: int, x: Float[Tensor, "b q w"], *, reference: Tensor, mean_depth: Tensor, scale: BoxScale
    ) -> dict[str, Tensor]:
        """What layer `number` says, in float32 or better: positions need more than half precision.

        reference: the place or the box that the layer looked at; the box head says what to change, as logits.
        mean_depth: b x v x u, the depth map. The depth is the mean of three: the depth head's; that at which an object
        as high as predicted fills the predicted box; and the depth map's at the centre.
        """
        said = {name: getattr(self, name)[number](x) for name in ("logits", "boxes", "size_3d", "heading")}
        change = said["boxes"]
        known = inverse_sigmoid(reference)
        if known.shape[-1] == 2:
            known = torch.cat([known, torch.zeros_like(change[..., 2:])], -1)
        said["boxes"] = (change + known).sigmoid()
        raw, said["depth_log_std"] = self.depth[number](x).tensor_split(2, -1)
        said["depth"] = (depth_m(raw) + box_depth(said, scale) + depth_at(mean_depth, said["boxes"])) / 3
        return said


def box_depth(said: dict[str, Tensor], scale: BoxScale) -> Float[Tensor, "b q 1"]:
    """The depth [m] at which an object of the predicted height is as high as its predicted 2D box, at least 1 px."""
    height_px = (said["boxes"][..., 4:5] + said["boxes"][..., 5:6]) * scale.height_px[:, None, None]
    return said["size_3d"][..., :1] * scale.focal_px[:, None, None] / height_px.clamp(min=1)


def depth_at(mean_depth: Float[Tensor, "b v u"], boxes: Float[Tensor, "b q 6"]) -> Float[Tensor, "b q 1"]:
    """The depth map's value [m] at the centres, which get no gradient; the map spans corner to corner."""
    grid = (2 * boxes[..., :2].detach() - 1)[:, :, None]
    return read_maps(mean_depth[:, None], grid.to(mean_depth), align_corners=True)[:, 0]


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)), with both clamped at 1e-5."""
    x = x.clamp(0.0, 1.0)
    return (x.clamp(min=_INVERSE_EPSILON) / (1 - x).clamp(min=_INVERSE_EPSILON)).log()


def _perceptron(width: int, outputs: int, *, hidden_layers: int = 1) -> nn.Sequential:
    hidden = [layer for _ in range(hidden_layers) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, PreciseLinear(width, outputs))
