"""The depth predictor: how far away the nearest labelled object is at each cell of stride 16, and features that know.

Depths here are apparent depths, depth / k; see `MonoDETR.magnification`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from monoskd.models.heads import PreciseConv2d
from monoskd.models.monodetr.transformer import FeedForward, SelfAttention, position_code

NEAREST_M, FARTHEST_M = 1e-3, 60.0


def bin_size_m(bins: int) -> float:
    """s: bin i, counted from 0, is s (i + 1) wide and begins at nearest + s i (i + 1) / 2."""
    return 2 * (FARTHEST_M - NEAREST_M) / (bins * (bins + 1))


def bin_depths(bins: int, *, near_edges: bool) -> Float[Tensor, " bins_and_1"]:
    """The depth [m] that each bin stands for: its middle, or its near edge as published; the background's is 60 m."""
    start = torch.arange(bins + 1, dtype=torch.float64)
    edges = NEAREST_M + bin_size_m(bins) * start * (start + 1) / 2
    values = edges if near_edges else torch.cat([(edges[:-1] + edges[1:]) / 2, edges[-1:]])
    return values.float()


class DepthPredictor(nn.Module):
    """Three maps become features of depth, the logits of depth bins, their mean, and an embedding of all of it."""

    depths: Tensor

    def __init__(
        self, width: int, *, bins: int, heads: int, hidden: int, dropout: float, groups: int, near_edges: bool
    ) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GroupNorm(groups, width))
        self.same = nn.Sequential(nn.Conv2d(width, width, 1), nn.GroupNorm(groups, width))
        self.up = nn.Sequential(nn.Conv2d(width, width, 1), nn.GroupNorm(groups, width))
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
        )
        self.classifier = PreciseConv2d(width, bins + 1, 1)
        self.attention = SelfAttention(width, heads, dropout)
        self.feed = FeedForward(width, hidden, dropout)
        self.embedding = nn.Embedding(int(FARTHEST_M) + 1, width)  # of whole metres
        self.register_buffer("depths", bin_depths(bins, near_edges=near_edges), persistent=False)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """`features` b w v u; `logits` b bins+1 v u; `mean` b v u [m]; `tokens` b (v u) w.

        maps: at strides 8, 16 and 32, b x w x ... each.
        """
        fine, middle, coarse = maps
        raised = functional.interpolate(coarse, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        features = self.mix((self.down(fine) + self.same(middle) + self.up(raised)) / 3)
        logits = self.classifier(features)
        mean = (logits.softmax(1) * self.depths[:, None, None].to(logits)).sum(1)
        rows, columns = middle.shape[-2:]
        position = position_code(rows, columns, width=features.shape[1], like=features)
        tokens = self.feed(self.attention(features.flatten(2).transpose(1, 2), position.to(features)))
        tokens = tokens + self.embedded(mean.flatten(1)).to(tokens)
        return {"features": features, "logits": logits, "mean": mean, "tokens": tokens}

    def embedded(self, depth_m: Float[Tensor, "b t"]) -> Float[Tensor, "b t w"]:
        """The embedding of a depth: those of the whole metres below and above it, linearly mixed."""
        table = self.embedding.weight
        depth_m = depth_m.clamp(0.0, FARTHEST_M)
        below = depth_m.floor()
        part = (depth_m - below)[..., None].to(table)
        above = (below + 1).clamp(max=FARTHEST_M)
        return table[below.long()] * (1 - part) + table[above.long()] * part
