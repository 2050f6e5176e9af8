"""Dense heads on one map of stride 4: conv3x3, attentive normalisation, ReLU, conv1x1; three are for training only.

A picture's normalisation sees its whole map, so a head's hidden layer is always evaluated everywhere.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.geometry.heading import BINS
from monoskd.models.dense import in_metres
from monoskd.models.heads import PreciseConv2d, PreciseMap, full_precision
from monoskd.models.heatmap import HEAT_PRIOR_LOGIT, AtCells, at_cells
from monoskd.models.monocon.normalisation import AttentiveNorm
from monoskd.models.monocon.structures import CORNERS, KEYPOINTS, MonoConTargets

PREDICTING = ("offset_2d", "size_2d", "offset_3d", "depth", "size_3d", "heading")
AUXILIARY = ("corners", "keypoint_heatmap", "keypoint_offset")
_WEIGHT_STD = 0.001


class Head(nn.Module):
    """One head: a hidden layer, and the last one. bias: what the last layer starts with, or None: 0."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        mixture: int,
        last: type[nn.Conv2d] = PreciseConv2d,
        bias: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        norm = AttentiveNorm(hidden, mixture=mixture)
        self.hidden = nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), norm, nn.ReLU(inplace=True))
        self.last = last_layer(hidden, outputs, kind=last)
        if bias is not None:
            self.last.bias.data.copy_(torch.tensor(bias))  # type: ignore[union-attr]

    def forward(self, shared: Float[Tensor, "b c v u"]) -> Float[Tensor, "b k v u"]:
        """What it says everywhere."""
        said: Tensor = self.last(self.hidden(shared))
        return said

    def hidden_at(self, shared: Float[Tensor, "b c v u"], where: AtCells) -> Float[Tensor, "n m 1 1"]:
        """What the hidden layer says at n cells, each as a map of its own."""
        return at_cells(self.hidden(shared), where)[:, :, None, None]


class Heads(nn.Module):
    """What each cell says of the object the centre of whose 2D box lies in it.

    heatmap: logits. offset_2d, size_2d: 2D box = cell + offset -/+ size / 2 [cells]. offset_3d: projected 3D centre
    minus cell [cells]. size_3d: (h, w, l) minus the mean size [m]. heading: 12 logits, 12 residuals [rad]. depth: see
    `depth_m`, and the log of its standard deviation.

    Auxiliary: corners: 8 projected corners minus cell, x and y in turns [cells], from the hidden layer of offset_3d.
    keypoint_heatmap: logits of the corners and the 3D centre. keypoint_offset: keypoint minus cell, at its own cell.
    """

    heatmap: Head
    keypoint_heatmap: Head
    keypoint_offset: Head

    def __init__(
        self, *, inputs: int, hidden: int, mixture: int, classes: int, biases: Mapping[str, Sequence[float]]
    ) -> None:
        """biases: what the last layers of some heads start with; the others start with 0."""
        super().__init__()
        widths = {"heatmap": classes, "offset_2d": 2, "size_2d": 2, "offset_3d": 2, "depth": 2, "size_3d": 3}
        widths |= {"heading": 2 * BINS, "keypoint_heatmap": KEYPOINTS, "keypoint_offset": 2}
        for name, outputs in widths.items():
            bias = [HEAT_PRIOR_LOGIT] * outputs if "heatmap" in name else biases.get(name)
            last = PreciseMap if "heatmap" in name else PreciseConv2d
            self.add_module(name, Head(inputs, hidden, outputs, mixture=mixture, last=last, bias=bias))
        self.corners = last_layer(hidden, 2 * CORNERS)

    def forward(self, shared: Float[Tensor, "b c v u"], k: Float[Tensor, " b"]) -> dict[str, Tensor]:
        """The heads as whole maps, b x outputs x v x u. k: the images' magnification, depth = k exp(-raw)."""
        hidden = {name: head.hidden(shared) for name, head in self._heads().items()}
        raw = {name: head.last(hidden[name]) for name, head in self._heads().items()}
        return in_metres(raw | {"corners": self.corners(hidden["offset_3d"])}, k[:, None, None, None])

    def heat(self, shared: Float[Tensor, "b c v u"]) -> Float[Tensor, "b classes v u"]:
        """`heatmap` alone."""
        return full_precision(self.heatmap(shared))

    def at(
        self,
        shared: Float[Tensor, "b c v u"],
        k: Float[Tensor, " b"],
        where: AtCells,
        *,
        names: Sequence[str] = PREDICTING,
    ) -> dict[str, Tensor]:
        """Those that predict, at n cells, n x outputs; or some of them, `depth` among these."""
        raw = {name: head.last(head.hidden_at(shared, where)) for name, head in self._heads(names).items()}
        return in_metres({name: said.flatten(1) for name, said in raw.items()}, k[where.image][:, None])

    def learning(
        self, shared: Float[Tensor, "b c v u"], k: Float[Tensor, " b"], targets: MonoConTargets
    ) -> dict[str, Tensor]:
        """All but the heat map at n objects. corners: n x 16; keypoint_heatmap: a map; keypoint_offset: n x 9 x 2."""
        hidden = {name: head.hidden_at(shared, targets) for name, head in self._heads(PREDICTING).items()}
        raw = {name: head.last(hidden[name]).flatten(1) for name, head in self._heads(PREDICTING).items()}
        raw["corners"] = self.corners(hidden["offset_3d"]).flatten(1)
        offset = self.keypoint_offset.last(self.keypoint_offset.hidden_at(shared, targets.keypoints))
        raw["keypoint_offset"] = offset.reshape(-1, KEYPOINTS, 2)
        raw["keypoint_heatmap"] = self.keypoint_heatmap(shared)
        return in_metres(raw, k[targets.image][:, None])

    def _heads(self, names: Sequence[str] | None = None) -> dict[str, Head]:
        heads = {name: head for name, head in self.named_children() if isinstance(head, Head)}
        return {name: head for name, head in heads.items() if names is None or name in names}


def last_layer(hidden: int, outputs: int, *, kind: type[nn.Conv2d] = PreciseConv2d) -> nn.Conv2d:
    """conv1x1 that says next to nothing when training begins."""
    layer = kind(hidden, outputs, 1)
    nn.init.normal_(layer.weight, std=_WEIGHT_STD)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
