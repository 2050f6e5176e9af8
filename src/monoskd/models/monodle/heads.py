"""Seven dense heads on one map of stride 4: conv3x3, ReLU, conv1x1 each, without normalisation."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.geometry.heading import BINS
from monoskd.models.dense import in_metres
from monoskd.models.heads import PreciseConv2d, PreciseMap, full_precision
from monoskd.models.heatmap import HEAT_PRIOR_LOGIT, AtCells, heads_at_cells

_WEIGHT_STD = 0.001


class Heads(nn.Module):
    """What each cell says of the object whose projected 3D centre lies in it.

    heatmap: logits. offset_2d, size_2d: 2D box = cell + offset -/+ size / 2 [cells]. offset_3d: 3D centre minus cell
    [cells]. size_3d: (h, w, l) minus the mean size [m]. heading: 12 logits, 12 residuals [rad]. depth: see `depth_m`,
    and the log of its standard deviation.
    """

    def __init__(self, *, inputs: int, hidden: int, classes: int, biases: dict[str, list[float]]) -> None:
        """biases: what the last layers of some heads start with; the others start with 0."""
        super().__init__()
        self.heatmap = _head(inputs, hidden, classes, kind=PreciseMap)
        nn.init.constant_(self.heatmap[-1].bias, HEAT_PRIOR_LOGIT)  # type: ignore[arg-type]
        widths = {"offset_2d": 2, "size_2d": 2, "depth": 2, "offset_3d": 2, "size_3d": 3, "heading": 2 * BINS}
        for name, outputs in widths.items():
            head = _head(inputs, hidden, outputs, kind=PreciseConv2d)
            for layer in (head[0], head[-1]):
                nn.init.normal_(layer.weight, std=_WEIGHT_STD)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            if name in biases:
                head[-1].bias.data.copy_(torch.tensor(biases[name]))  # type: ignore[operator]
            self.add_module(name, head)

    def forward(self, shared: Float[Tensor, "b c v u"], k: Float[Tensor, " b"]) -> dict[str, Tensor]:
        """The heads as whole maps, b x outputs x v x u. k: the images' magnification, depth = k exp(-raw)."""
        raw = {name: head(shared) for name, head in self.named_children()}
        return in_metres(raw, k[:, None, None, None])

    def heat(self, shared: Float[Tensor, "b c v u"]) -> Float[Tensor, "b classes v u"]:
        """`heatmap` alone."""
        return full_precision(self.heatmap(shared))

    def at(self, shared: Float[Tensor, "b c v u"], k: Float[Tensor, " b"], where: AtCells) -> dict[str, Tensor]:
        """All but the heat map at n cells, where alone they are evaluated: n x outputs."""
        heads = {name: head for name, head in self.named_children() if name != "heatmap"}
        return in_metres(heads_at_cells(heads, shared, where), k[where.image][:, None])


def _head(inputs: int, hidden: int, outputs: int, *, kind: type[nn.Conv2d]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(inplace=True), kind(hidden, outputs, 1))
