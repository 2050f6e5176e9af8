"""DLAUp: a backbone's maps merged step by step into a fine one (Yu et al., Deep Layer Aggregation, CVPR 2018)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch import cat as concatenate

from monoskd.models.backbone import STRIDES, Backbone


class DLAUp(nn.Module):
    """Three rounds of merging; the last map after each round is one of the neck's features.

    Round i (0, 1, 2) takes the last i + 2 maps and brings all of them to the width and stride of the first. The neck's
    features are the stride-32 map unchanged, then the last map after each round: strides 16, 8 and 4. They pass through
    identities called "32", "16", "8" and "4", for hooks on module paths such as `neck.8`.

    channels: the widths of the backbone's maps at strides 4, 8, 16 and 32; the features have the same. kaiming: start
    the convolutions so (He et al., ICCV 2015), by the outputs, in place of torch's way.
    """

    def __init__(self, channels: Sequence[int], *, kaiming: bool = False) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(
            _Round(coarse=channels[first + 1], fine=channels[first], merges=len(channels) - 1 - first)
            for first in reversed(range(len(channels) - 1))
        )
        for stride in STRIDES:
            self.add_module(str(stride), nn.Identity())
        for layer in self.modules() if kaiming else ():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The neck's features by stride, from the backbone's maps by stride."""
        names = [str(stride) for stride in STRIDES]
        features = {names[-1]: self.get_submodule(names[-1])(maps[names[-1]])}
        merged = [features[names[-1]]]
        for name, merge in zip(reversed(names[:-1]), self.rounds, strict=True):
            merged = merge([maps[name], *merged])
            features[name] = self.get_submodule(name)(merged[-1])
            merged[-1] = features[name]
        return features


def backbone_and_neck(config: Any, *, input_channels: int, kaiming: bool = False) -> tuple[Backbone, DLAUp]:
    """Both as a detector's config says: its `backbone`, `pretrained` and `backbone_...`. kaiming: see `DLAUp`."""
    backbone = Backbone(
        config.backbone,
        pretrained=config.pretrained,
        arguments=config.backbone_arguments,
        early_stride=config.backbone_early_stride,
        input_channels=input_channels,
    )
    return backbone, DLAUp(backbone.channels, kaiming=kaiming)


class _Round(nn.Module):
    """Bring all maps to the first one's width and stride.

    y[0] = x[0], y[j] = node(cat[y[j - 1], up(project(x[j]))]).
    """

    def __init__(self, *, coarse: int, fine: int, merges: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(_conv_bn_relu(coarse, fine) for _ in range(merges))
        self.up = nn.ModuleList(_bilinear_up(fine) for _ in range(merges))
        self.node = nn.ModuleList(_conv_bn_relu(2 * fine, fine) for _ in range(merges))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """As many maps as given: the first unchanged, then each coarser map merged with the one before it."""
        merged = [maps[0]]
        for coarse, project, up, node in zip(maps[1:], self.project, self.up, self.node, strict=True):
            merged.append(node(concatenate([merged[-1], up(project(coarse))], 1)))
        return merged


def _conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _bilinear_up(channels: int) -> nn.ConvTranspose2d:
    """A learned upsampling by 2, channel by channel, that starts as bilinear interpolation."""
    up = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, groups=channels, bias=False)
    tent = up.weight.new_tensor([0.25, 0.75, 0.75, 0.25])
    nn.init.zeros_(up.weight).data.add_(tent[:, None] * tent)
    return up
