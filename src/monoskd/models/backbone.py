"""Image features at strides 4, 8, 16 and 32 from any backbone that timm knows."""

import difflib
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.errors import InputError, first_line
from monoskd.models.checkpoints import read_checkpoint

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """timm's features of `name`, one map a stride.

    The maps pass through identities called "4", "8", "16" and "32", so that a forward hook on the module path
    `backbone.8` sees the map of stride 8.

    name: any timm model with features at strides 4 to 32; arguments: further arguments of timm's constructor, such as
    `channels` of a DLA; early_stride: let the first layer halve the image instead of a later one;
    pretrained: True for timm's ImageNet weights, or a file that holds them; input_channels: other than three get
    those weights as timm spreads them.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str | Path = False,
        arguments: Mapping[str, Any] | None = None,
        early_stride: bool = False,
        input_channels: int = 3,
    ) -> None:
        super().__init__()
        self.net = _timm_features(name, pretrained, arguments or {}, input_channels)
        if early_stride:
            _halve_early(self.net, name)
        info: Any = self.net.feature_info
        strides: list[int] = info.reduction()
        if not set(STRIDES) <= set(strides):
            raise InputError(
                f"backbone {name}: expected features at strides 4, 8, 16 and 32, got {strides}; choose another backbone"
            )
        self._places = [strides.index(stride) for stride in STRIDES]
        widths: list[int] = info.channels()
        self.channels = tuple(widths[place] for place in self._places)
        for stride in STRIDES:
            self.add_module(str(stride), nn.Identity())

    def forward(self, image: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """The maps by stride: "4" is b x channels[0] x h/4 x w/4, and so on to "32"."""
        maps = self.net(image)
        return {
            str(stride): self.get_submodule(str(stride))(maps[place])
            for stride, place in zip(STRIDES, self._places, strict=True)
        }


def maps_by_name(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The maps of a network's parts, each by stride, under names such as `backbone.4`."""
    return {f"{part}.{stride}": x for part, maps in parts.items() for stride, x in maps.items()}


def _timm_features(
    name: str, pretrained: bool | str | Path, arguments: Mapping[str, Any], input_channels: int
) -> nn.Module:
    """timm's feature extractor. Raises InputError in one line for bad names and missing weights."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean {near[0]}?" if near else "`timm.list_models()` lists them"
        raise InputError(f"backbone: expected the name of a timm model, got {name!r}; {hint}")
    own = {"features_only", "in_chans", *inspect.signature(timm.create_model).parameters} - {"kwargs"}
    if refused := sorted(own & set(arguments)):
        raise InputError(
            f"backbone_arguments: expected arguments of the model itself such as `channels`, got {refused[0]!r}; "
            "weights come through `pretrained`"
        )
    overlay = None if isinstance(pretrained, bool) else {"state_dict": _weights(name, Path(pretrained), arguments)}
    try:
        with _quiet_hub():
            net: nn.Module = timm.create_model(
                name,
                features_only=True,
                pretrained=bool(pretrained),
                pretrained_cfg_overlay=overlay,
                in_chans=input_channels,
                **arguments,
            )
    except (OSError, RuntimeError) as error:
        if pretrained is not True:
            raise
        raise InputError(
            f"backbone weights of {name}: expected timm to download them, got: {first_line(error)}; "
            "give a local file (`pretrained: FILE`) or start from scratch (`pretrained: false`)"
        ) from error
    return net


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silence the hub's line on each failed attempt at a download; the error after the last one says it once."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _weights(name: str, file: Path, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """timm's weights for this backbone from a local file.

    timm itself takes what fits and leaves the rest random, so this function checks every shape.
    """
    state: dict[str, Tensor] = read_checkpoint(file)
    with torch.device("meta"):
        wanted = timm.create_model(name, num_classes=0, **arguments).state_dict()
    for key, tensor in wanted.items():
        shape = tuple(state[key].shape) if key in state else "nothing"
        if shape != tuple(tensor.shape) and not key.endswith("num_batches_tracked"):
            raise InputError(
                f"{file}: expected timm's weights for {name}, with {key} of shape {tuple(tensor.shape)}, got {shape}"
            )
    return state


def _halve_early(net: nn.Module, name: str) -> None:
    """Swap the strides of the first convolution and the first halving one: those in between see fewer pixels."""
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    first, halving = convolutions[0], next((conv for conv in convolutions if conv.stride == (2, 2)), None)
    if first.stride != (1, 1) or halving is None:
        raise InputError(
            f"backbone {name}: expected a first layer of stride 1 to stride early, got stride {first.stride[0]}; "
            "leave `backbone_early_stride` out"
        )
    first.stride, halving.stride = halving.stride, first.stride
