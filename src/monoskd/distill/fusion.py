"""Top-down attention fusion: what MonoDistill puts between the student's backbone and the imitation loss."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from monoskd.errors import InputError


class AttentionFusion(nn.Module):
    """Each map combined with the coarser ones (Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021).

    From the coarsest map up, with x_l the map of level l and P, S a 1x1 and a 3x3 convolution with batch norm:

        y_l = P_l x_l                              on the coarsest level
        y_l = g_l0 * P_l x_l + g_l1 * up(y_l+1)    on the others; g_l = sigmoid(1x1 conv of [P_l x_l, up(y_l+1)])
        out_l = S_l y_l                            with as many channels as x_l

    where up is nearest-neighbour upsampling to the size of level l and both gates are maps of one channel.

    channels: those of the maps, finest first; MonoDistill's are DLA-34's at strides 8, 16, 32. width: channels of y.
    Used in training only: at inference the student runs without it.
    """

    def __init__(self, channels: Sequence[int] = (128, 256, 512), *, width: int = 512) -> None:
        super().__init__()
        if len(channels) < 1:
            raise InputError("AttentionFusion: expected the channels of at least one map, got none")
        self.channels = tuple(channels)
        coarse_first = list(reversed(channels))
        self.project = nn.ModuleList(_conv_norm(count, width, kernel=1) for count in coarse_first)
        self.gate = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in pairwise(coarse_first))
        self.smooth = nn.ModuleList(_conv_norm(width, count, kernel=3) for count in coarse_first)

    def forward(self, maps: Sequence[Float[Tensor, "b _c _h _w"]]) -> list[Tensor]:
        """Maps of the same shapes as `maps`, both finest first."""
        if len(maps) != len(self.project):
            raise InputError(f"AttentionFusion: expected {len(self.project)} maps, finest first, got {len(maps)}")
        if (got := tuple(x.shape[1] for x in maps)) != self.channels:
            raise InputError(f"AttentionFusion: expected maps of {self.channels} channels, got {got}; set `channels`")
        coarse_first = [project(x) for project, x in zip(self.project, reversed(maps), strict=True)]
        fused = coarse_first[:1]
        for gate, x in zip(self.gate, coarse_first[1:], strict=True):
            above = interpolate(fused[-1], size=x.shape[-2:], mode="nearest")
            own, coarser = gate(torch.cat([x, above], 1)).sigmoid().split(1, 1)
            fused.append(own * x + coarser * above)
        return [smooth(y) for smooth, y in zip(self.smooth, fused, strict=True)][::-1]


def _conv_norm(channels: int, out_channels: int, *, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
