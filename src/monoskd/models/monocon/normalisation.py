"""Attentive normalisation (Li, Sun and Wu, "Attentive Normalization", ECCV 2020)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from monoskd.models.heads import full_precision

_EPSILON = 1e-3
_MOMENTUM = 0.03
_SPREAD = 0.1  # of the mixture's components when training begins


class AttentiveNorm(nn.Module):
    """Batch normalisation whose scale and shift each picture mixes for itself from K learned ones.

    With m and s the mean and the standard deviation of a picture's channels over the map, BN without scale and shift:

        w = hard sigmoid(BN(A m / s))       K weights a picture, each in 0 .. 1
        y = (sum of w_k g_k) BN(x) + sum of w_k b_k

    A: K x channels; g, b: K x channels, which begin as N(1, 0.1) and N(0, 0.1).
    """

    def __init__(self, channels: int, *, mixture: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=_EPSILON, momentum=_MOMENTUM, affine=False)
        self.attention = nn.Linear(channels, mixture, bias=False)
        self.attention_norm = nn.BatchNorm1d(mixture)
        self.scale = nn.Parameter(1 + _SPREAD * torch.randn(mixture, channels))
        self.shift = nn.Parameter(_SPREAD * torch.randn(mixture, channels))
        nn.init.kaiming_normal_(self.attention.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c v u"]) -> Float[Tensor, "b c v u"]:
        """y."""
        weight = self._mixture(x).to(self.scale.dtype)
        scale, shift = weight @ self.scale, weight @ self.shift
        normalised: Tensor = self.norm(x)
        return normalised * scale[:, :, None, None] + shift[:, :, None, None]

    def _mixture(self, x: Float[Tensor, "b c v u"]) -> Float[Tensor, "b k"]:
        """w. A batch of one picture has no statistics of its own: there the running ones serve."""
        variance, mean = torch.var_mean(full_precision(x), (2, 3), correction=0)
        logits = self.attention(mean * torch.rsqrt(variance + _EPSILON))
        norm = self.attention_norm
        if self.training and len(x) == 1:
            return functional.hardsigmoid(
                functional.batch_norm(logits, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            )
        return functional.hardsigmoid(norm(logits))
