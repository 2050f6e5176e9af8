"""Pearson's correlation of plain tensors, with masks, and 0 where it is not defined."""

import math
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from monoskd.errors import InputError

Group: TypeAlias = Literal["sample", "channel", "batch"]

_KEPT_AXES: dict[str, int] = {"batch": 0, "sample": 1, "channel": 2}


def _directions(x: Float[Tensor, "*groups n"], weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Deviations from the weighted mean as vectors of length 1, and their lengths; a constant has 0 for both."""
    if weight is not None:
        x = torch.where(weight > 0, x, 0)
    reference = x[..., :1] if weight is None else x.gather(-1, weight.argmax(dim=-1, keepdim=True))
    x = x - reference  # exactly 0 for a constant, and no digits lost to an offset
    if weight is not None:
        x = torch.where(weight > 0, x, 0)
    largest = torch.maximum(-x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True))  # aminmax is far slower
    x /= torch.where(largest > 0, largest, 1)  # squares stay in range
    if weight is None:
        x -= x.mean(dim=-1, keepdim=True)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    else:
        total = weight.sum(dim=-1, keepdim=True)
        x -= torch.linalg.vecdot(weight, x)[..., None] / torch.where(total > 0, total, 1)
        length = torch.linalg.vecdot(weight, x * x)[..., None].sqrt()
    x /= torch.where(length > 0, length, 1)
    return x, length * largest


class _Correlation(torch.autograd.Function):
    """r = sum w u v of the directions u of a and v of b; dr/da = w (v - r u) / |a|, which needs no centring."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor | None) -> Tensor:
        """The correlation of each group."""
        (u, a_length), (v, b_length) = _directions(a, weight), _directions(b, weight)
        r: Tensor = torch.linalg.vecdot(u, v if weight is None else weight * v)
        ctx.save_for_backward(u, v, a_length, b_length, r, weight)
        return r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Nothing where either side is constant."""
        u, v, a_length, b_length, r, weight = ctx.saved_tensors
        defined = (a_length > 0) & (b_length > 0)

        def towards(other: Tensor, own: Tensor, length: Tensor) -> Tensor:
            pull = torch.where(defined, grad[..., None] / length, 0)
            change = torch.addcmul(other, own, r[..., None], value=-1).mul_(pull)
            return change if weight is None else change.mul_(weight)

        return (
            towards(v, u, a_length) if ctx.needs_input_grad[0] else None,
            towards(u, v, b_length) if ctx.needs_input_grad[1] else None,
            None,
        )


class _RankCorrelation(torch.autograd.Function):
    """r = uv / |u| |v| of ranks less their mean, which is (n + 1) / 2 with ties and without; a gradient to a alone."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """The correlation of each row, summed in float64, and its slope in a: (v - (uv / uu) u) / |u| |v|."""
        middle = (a.shape[-1] + 1) / 2
        u, v = a - middle, b - middle
        uu, vv, uv = ((p * q).sum(dim=-1, keepdim=True, dtype=torch.float64) for p, q in ((u, u), (v, v), (u, v)))
        lengths = (uu * vv).sqrt()
        slope = torch.addcmul(v, u, torch.where(uu > 0, uv / uu, 0).to(u.dtype), value=-1)
        ctx.save_for_backward(slope / torch.where(lengths > 0, lengths, math.inf).to(u.dtype))
        r: Tensor = torch.where(lengths == 0, 0, uv / lengths).to(u.dtype).squeeze(-1)
        return r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The slope, scaled; nothing where either side is constant."""
        (slope,) = ctx.saved_tensors
        return slope * grad[..., None], None


def rank_correlation(student: Float[Tensor, "*rows n"], teacher: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
    """Pearson correlation of ranks 1..n along the last axis, ties averaged; a gradient to the first alone.

    0, without gradient, where a side is constant. As `correlation`, but faster, since the mean of ranks is known.
    """
    result: Tensor = _RankCorrelation.apply(student, teacher)
    return result


def correlation(
    a: Float[Tensor, "b ..."],
    b: Float[Tensor, "b ..."],
    group: Group = "sample",
    *,
    weight: Tensor | None = None,
) -> Float[Tensor, "..."]:
    """Pearson correlation of a and b within each group: shape b per sample, b x c per channel, () over the batch.

    weight: non-negative, broadcastable to a (a mask B x 1 x H x W, say); places of weight 0 do not count, not even
    NaN there. Where a side is constant, or nothing has weight, the correlation is 0 and so is its gradient.
    Computed in float32 at least.
    """
    if a.shape != b.shape:
        raise InputError(f"correlation: expected two tensors of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if group not in _KEPT_AXES:
        raise InputError(f'correlation: expected group "sample", "channel" or "batch", got {group!r}')
    kept = _KEPT_AXES[group]
    if a.ndim < kept + (group != "batch"):
        raise InputError(f'correlation: group "{group}" needs at least {kept + 1} axes, got shape {tuple(a.shape)}')
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    shape = (*a.shape[:kept], math.prod(a.shape[kept:]))
    if math.prod(shape) == 0:
        return (a.to(dtype) * b.to(dtype)).reshape(shape).sum(dim=-1)
    weights = None if weight is None else weight.to(dtype).expand(a.shape).reshape(shape)
    left, right = (side.to(dtype).reshape(shape) for side in (a, b))
    result: Tensor = _Correlation.apply(left, right, weights)
    return result
