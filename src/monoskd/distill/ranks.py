"""Ranks, differentiable ranks and correlations of plain tensors. The mathematics is in docs/ranks.md."""

import math
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monoskd.distill.isotonic import LogMasses, MeanMasses, block_starts
from monoskd.errors import InputError

Regularization: TypeAlias = Literal["l2", "kl"]
Group: TypeAlias = Literal["sample", "channel", "batch"]

# strength="auto" is this many standard deviations of the row, divided by n for "l2" (docs/ranks.md, measured).
_AUTO_STRENGTH: dict[str, float] = {"l2": 2.0, "kl": 1.0}


def _rank_dtype(x: Tensor) -> torch.dtype:
    """Half types cannot hold a rank above 2048: they are ranked in float32."""
    if not x.is_floating_point():
        raise InputError(f"ranks: expected a tensor of floats, got {x.dtype}: convert it with x.float()")
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _finite(x: Tensor) -> Tensor:
    """Infinities as the largest finite numbers; NaN stays."""
    limit = torch.finfo(x.dtype).max
    return x.clamp(-limit, limit)


def rank(x: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """Exact ranks 1..n of the last axis, ascending, equal values sharing the mean of their ranks.

    As `scipy.stats.rankdata(x, axis=-1, nan_policy="propagate")`: a row with a NaN has NaN ranks. Float32 for half
    types and float32, in which ranks are exact below 2^23; float64 for float64. No gradient.
    """
    dtype = _rank_dtype(x)
    if x.numel() == 0:
        return torch.zeros_like(x, dtype=dtype)
    with torch.no_grad():
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        values = rows.sort(dim=-1).values
        below = torch.searchsorted(values, rows)
        up_to = torch.searchsorted(values, rows, right=True)
        ranks = (below + up_to + 1).to(dtype) / 2
        return torch.where(values[:, -1:].isnan(), torch.nan, ranks).view(x.shape)


def _spread(x: Tensor, regularization: Regularization) -> Tensor:
    """The strength that `auto` stands for, one a row; infinite (no gradient) for a constant row."""
    std = x.double().std(dim=-1, correction=0, keepdim=True)
    strength = std * _AUTO_STRENGTH[regularization] / (x.shape[-1] if regularization == "l2" else 1)
    return torch.where(strength > 0, strength, torch.inf)


def _blocks(
    s: Float[Tensor, "rows n"], strength: Tensor | float, regularization: Regularization
) -> Int64[Tensor, "rows n"]:
    """For each element of ascending rows, the position at which its pooled block starts."""
    rows, n = s.shape
    points = torch.arange(n + 1, device=s.device).expand(rows, n + 1)
    target = points[:, 1:].double()  # ranks of an ascending row
    # A gap that no block can bridge may as well be this wide: the rest keeps its digits.
    widest = n / 2 + 1 if regularization == "l2" else math.log(n) + 1
    steps = (s.diff() / strength).clamp(max=widest)
    theta = torch.nn.functional.pad(steps, (1, 0)).cumsum(-1)
    if regularization == "l2":
        sums = torch.nn.functional.pad((target - theta).cumsum(-1), (1, 0))
        return block_starts(MeanMasses(sums), points)
    sums = torch.nn.functional.pad(target.cumsum(-1), (1, 0))
    logs = torch.nn.functional.pad(theta.logcumsumexp(-1), (1, 0), value=-torch.inf)
    return block_starts(LogMasses(sums, logs), points)


def soft_rank(
    x: Float[Tensor, "... n"],
    strength: float | Literal["auto"] = 1.0,
    regularization: Regularization = "l2",
) -> Float[Tensor, "... n"]:
    """Differentiable ranks of the last axis (Blondel et al., ICML 2020, arXiv 2002.08871), as torchsort's `soft_rank`.

    The projection of x / strength onto the permutahedron of (1, ..., n), Euclidean ("l2") or by relative entropy of
    exponentials ("kl"). Towards strength 0 these are the ranks; towards infinity x / strength, centred on (n + 1) / 2.
    "auto": a strength in proportion to each row's standard deviation, without gradient. Float32 for half types; a row
    with a NaN has NaN ranks; infinities count as the largest finite number.
    """
    dtype = _rank_dtype(x)
    if strength != "auto" and not 0 < strength < float("inf"):
        raise InputError(f'soft_rank: expected strength > 0 or "auto", got {strength!r}')
    if regularization not in ("l2", "kl"):
        raise InputError(f'soft_rank: expected regularization "l2" or "kl", got {regularization!r}')
    if x.numel() == 0:
        return x.to(dtype)
    rows = _finite(x.reshape(-1, x.shape[-1]).to(dtype)).double()
    n = rows.shape[-1]
    with torch.no_grad():
        scale = _spread(rows, regularization) if strength == "auto" else torch.full_like(rows[:, :1], strength)
        s, order = rows.sort(dim=-1)
        start = _blocks(s, scale, regularization)
        offset = torch.arange(len(rows), device=x.device)[:, None] * n
        block = torch.empty_like(start).scatter_(-1, order, start + offset).flatten()
        ones = torch.ones_like(block, dtype=torch.float64)
        size = torch.zeros_like(ones).index_add_(0, block, ones).clamp(min=1)
        lowest = torch.arange(n, device=x.device).repeat(len(rows)) + 1
        target = lowest + (size - 1) / 2
        target = torch.where(s[:, -1:].isnan(), torch.nan, target.view_as(s)).flatten()
        anchor = s.flatten()
    deviation = ((rows.flatten() - anchor[block]).view_as(rows) / scale).flatten()
    zeros = torch.zeros_like(deviation)
    if regularization == "l2":
        mean = zeros.index_add(0, block, deviation) / size
        ranks = deviation + (target - mean)[block]
    else:
        mass = deviation.exp()
        total = zeros.index_add(0, block, mass).clamp(min=1)
        ranks = mass * (target * size / total)[block]
    return ranks.to(dtype).view(x.shape)


def degeneracy(
    x: Float[Tensor, "... n"],
    strength: float | Literal["auto"] = 1.0,
    regularization: Regularization = "l2",
) -> Float[Tensor, "..."]:
    """The share of the values that lie in the largest pooled block of `soft_rank`: 1 = Pearson, 1 / n = a hard rank."""
    rows = _finite(x.detach().reshape(-1, x.shape[-1]).to(_rank_dtype(x))).double()
    scale = _spread(rows, regularization) if strength == "auto" else torch.full_like(rows[:, :1], strength)
    start = _blocks(rows.sort(dim=-1).values, scale, regularization)
    size = torch.zeros_like(rows).scatter_add_(-1, start, torch.ones_like(rows))
    return (size.amax(-1) / rows.shape[-1]).to(_rank_dtype(x)).view(x.shape[:-1])


_KEPT_AXES: dict[str, int] = {"batch": 0, "sample": 1, "channel": 2}


def _standardised(x: Float[Tensor, "... n"], weight: Tensor | None) -> Float[Tensor, "... n"]:
    """Centred (with the weights) and scaled to a largest deviation of 1; a constant row is exactly 0."""
    seen = x[..., :1] if weight is None else x.gather(-1, weight.argmax(dim=-1, keepdim=True))
    shifted = x - seen.detach()  # exact 0 for a constant, and no digits lost to an offset
    if weight is None:
        centred = shifted - shifted.mean(dim=-1, keepdim=True)
    else:
        shifted = torch.where(weight > 0, shifted, 0)
        total = weight.sum(dim=-1, keepdim=True)
        mean = (weight * shifted).sum(dim=-1, keepdim=True) / torch.where(total > 0, total, 1)
        centred = torch.where(weight > 0, shifted - mean, 0)
    largest = centred.detach().abs().amax(dim=-1, keepdim=True)
    return centred / torch.where(largest > 0, largest, 1)


def correlation(
    a: Float[Tensor, "b ..."],
    b: Float[Tensor, "b ..."],
    group: Group = "sample",
    *,
    weight: Tensor | None = None,
) -> Float[Tensor, "..."]:
    """Pearson correlation of a and b within each group: shape b per sample, b x c per channel, () over the batch.

    weight: non-negative, broadcastable to a (a mask B x 1 x H x W, say); places of weight 0 do not count, whatever
    stands there. Where a side is constant, or nothing has weight, the correlation is 0 and so is its gradient.
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
    left, right = (_standardised(side.to(dtype).reshape(shape), weights) for side in (a, b))
    weighted = right if weights is None else weights * right
    covariance = (left * weighted).sum(dim=-1)
    left_square = (left * (left if weights is None else weights * left)).sum(dim=-1)
    right_square = (right * weighted).sum(dim=-1)
    norm = left_square * right_square
    defined = norm > 0
    return torch.where(defined, covariance / torch.where(defined, norm, 1).sqrt(), 0)
