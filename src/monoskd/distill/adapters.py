"""Small networks that bring a student's map to its teacher's channels; trained with the student, unused at inference.

Their channels are known when the first map arrives, yet an optimiser made before that has to hold their weights. So
the weights exist from the start as torch's `UninitializedParameter` and take shape in place, as in torch's lazy
modules: the optimiser keeps the very same objects.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.parameter import UninitializedParameter, is_lazy

from monoskd.distill.taps import AdapterKind
from monoskd.errors import InputError


def make_adapter(adapter: AdapterKind | nn.Module, *, used: bool) -> nn.Module:
    """The adapter that a tap asks for; an identity where no term uses the tap, since it would never be trained."""
    if not used:
        return Adapter("none")
    return adapter if isinstance(adapter, nn.Module) else Adapter(adapter)


class LazyConv(nn.Module):
    """A k x k convolution (stride 1, same size) whose channels are given on first use; then as `nn.Conv2d`."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = UninitializedParameter()
        self.bias = UninitializedParameter()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def build(self, *, channels_in: int, channels_out: int, like: Tensor) -> None:
        """Give the weights their shape, on the device of `like`, initialised as `nn.Conv2d` does."""
        if not is_lazy(self.weight):
            return
        dtype = self.weight.dtype if torch.is_autocast_enabled(like.device.type) else like.dtype
        with torch.inference_mode(False), torch.no_grad():  # a weight made in inference mode could never be trained
            fresh = nn.Conv2d(channels_in, channels_out, self.kernel, device=like.device, dtype=dtype)
            for name, start in fresh.named_parameters():
                parameter: UninitializedParameter = getattr(self, name)
                parameter.materialize(start.shape, device=like.device, dtype=dtype)
                parameter.copy_(start)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Convolve."""
        return conv2d(x, self.weight, self.bias, padding=self.kernel // 2)

    def extra_repr(self) -> str:
        """The shape, once known."""
        return f"kernel={self.kernel}, " + ("built on first use" if is_lazy(self.weight) else f"{self.weight.shape}")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if not is_lazy(self.weight):
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take the shape from the file. A file written before first use has none; then nothing is built."""
        if is_lazy(self.weight):
            if prefix + "weight" not in state_dict:
                return
            self.weight.materialize(state_dict[prefix + "weight"].shape)
            self.bias.materialize(state_dict[prefix + "bias"].shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Adapter(nn.Module):
    """One adapter of a kind that `Tap` lists."""

    def __init__(self, kind: AdapterKind) -> None:
        super().__init__()
        self.kind = kind
        self._built = False
        self.layers: nn.Module = nn.Identity()
        if kind == "conv":
            self.layers = nn.Sequential(LazyConv(3), nn.ReLU(), LazyConv(1))
        elif kind in ("linear", "auto"):
            self.layers = LazyConv(1)
        elif kind not in ("identity", "none"):
            raise InputError(f"adapter={kind!r}: expected auto, conv, linear, identity, none or a module")

    def bring(
        self, student: Float[Tensor, "b c h w"], *, channels: int, grid: bool, where: str
    ) -> Float[Tensor, "b k h w"]:
        """The student's map in the teacher's `channels`; the layers for it are built on first use."""
        if self.kind == "conv" and not grid:
            raise InputError(
                f'{where}: adapter="conv" mixes neighbours and got tokens or vectors: use "linear", or make '
                "a map of tokens with Outlet(path, view=TokensAsMap())"
            )
        if self.kind == "identity" and student.shape[1] != channels:
            raise InputError(
                f"{where}: the student has {student.shape[1]} channels and the teacher {channels}; "
                'expected the same with adapter="identity": use "auto", "linear" or "conv"'
            )
        if not self._built:
            self._build(student, channels)
        return student if type(self._modules["layers"]) is nn.Identity else self(student)

    def _build(self, student: Tensor, channels: int) -> None:
        """Give the layers their channels."""
        if self.kind == "auto" and student.shape[1] == channels and any(is_lazy(p) for p in self.parameters()):
            self.layers = nn.Identity()
        channels_in = student.shape[1]
        for layer in self.layers.modules():
            if isinstance(layer, LazyConv):
                layer.build(channels_in=channels_in, channels_out=channels, like=student)
                channels_in = channels
        self._built = True

    def forward(self, student: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """The student's map in the teacher's channels."""
        adapted: Tensor = self.layers(student)
        return adapted
