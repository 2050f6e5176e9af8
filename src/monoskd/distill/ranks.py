"""Ranks and differentiable ranks of plain tensors, and their correlation. The mathematics is in docs/ranks.md."""

import math
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.autograd.function import once_differentiable

from monoskd.distill.correlation import Group, correlation, rank_correlation
from monoskd.distill.isotonic import HAS_TRITON, project
from monoskd.distill.ranks_numpy import (
    AUTO_STRENGTH,
    hard_ranks,
    largest_of_rows,
    ranks_in_blocks,
    spearman_rows,
)
from monoskd.errors import InputError

__all__ = [
    "Group",
    "Regularization",
    "correlation",
    "degeneracy",
    "rank",
    "rank_with_soft_gradient",
    "soft_rank",
    "spearman",
]

Regularization: TypeAlias = Literal["l2", "kl"]

# strength="auto" is this many standard deviations of the row, divided by n for "l2" (docs/ranks.md, measured).
_AUTO_STRENGTH: dict[str, float] = {"l2": AUTO_STRENGTH, "kl": 0.5}
# Gradients are summed in float64, this many at a time: in a CPU's cache, or in few launches.
_PART, _DEVICE_PART = 2**16, 2**22


def _as_rows(x: Tensor, name: str) -> Tensor:
    """Rows x n in float32 at least: half types cannot hold a rank above 2048."""
    if not x.is_floating_point() or x.ndim == 0:
        raise InputError(f"{name}: expected floats with at least one axis, got {x.dtype} of shape {tuple(x.shape)}")
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))


def _on_host(x: Tensor) -> bool:
    """Whether numpy may read the memory of x."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _has_kernels(x: Tensor) -> bool:
    """Whether Triton's kernels run on the device of x."""
    return x.is_cuda and HAS_TRITON and not torch.compiler.is_compiling()


@torch.no_grad()
def rank(x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """Exact ranks 1..n of the last axis, ascending, equal values sharing the mean of their ranks.

    As `scipy.stats.rankdata(x, axis=-1)`: a row with a NaN has NaN ranks. float64 stays; every other type is ranked in
    float32, in which ranks are exact up to 2^23. No gradient.
    """
    rows = _as_rows(x.detach(), "rank")
    if rows.numel() == 0:
        return torch.zeros_like(rows).view(x.shape)
    if _on_host(rows):
        return torch.from_numpy(hard_ranks(rows.numpy())).view(x.shape)
    values, queries = rows.sort(dim=-1).values.contiguous(), rows.contiguous()
    below = torch.searchsorted(values, queries)
    up_to = torch.searchsorted(values, queries, right=True)
    ranks = (below + up_to + 1).to(rows.dtype) / 2
    return torch.where(values[:, -1:].isnan(), torch.nan, ranks).view(x.shape)


@torch.no_grad()
def _strengths(
    rows: Float[Tensor, "rows n"], strength: float | Literal["auto"], regularization: Regularization
) -> Float64[Tensor, "rows 1"]:
    """The strength of each row; under "auto" infinite, and so without gradient, for a constant row."""
    if strength != "auto":
        return rows.new_full((len(rows), 1), float(strength), dtype=torch.float64)
    limit = min(torch.finfo(rows.dtype).max, torch.finfo(torch.float64).max / 2)  # as `largest_counted`
    away = rows.clamp(-limit, limit).double()
    away -= away[:, :1].clone()  # exactly 0 for a constant
    unit: Tensor | float = 1.0
    if rows.dtype == torch.float64:  # squares of float32 are in its range as they are
        unit = away.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        away /= unit
    mean = away.mean(dim=-1, keepdim=True)
    square = torch.linalg.vector_norm(away, dim=-1, keepdim=True).square() / rows.shape[-1]
    span = (square - mean.square()).clamp(min=0).sqrt() * unit
    scaled = span * _AUTO_STRENGTH[regularization] / (rows.shape[-1] if regularization == "l2" else 1)
    return torch.where(scaled > 0, scaled, math.inf)


class _SoftRank(torch.autograd.Function):
    """Ranks of rows; almost everywhere a block keeps its members, and the gradient is that of its few formulas."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, strength: Tensor, regularization: Regularization, hard: bool) -> Tensor:
        """Soft ranks, or hard ones with the gradient of the soft ones (straight-through)."""
        rows = rows.detach()  # numpy refuses tensors that require a gradient
        weights: list[Tensor] = []
        if regularization == "l2" and _on_host(rows):
            arrays = ranks_in_blocks(rows.numpy(), strength.numpy(), hard=hard)
            ranks, block, size = (torch.from_numpy(array) for array in arrays)
        else:
            ranks, block, size = _rank_device(rows, strength, regularization)
            weights = [ranks] if regularization == "kl" else []
            ranks = rank(rows) if hard else ranks
        ctx.save_for_backward(block, size, strength, *weights)
        return ranks

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """The deviation of the gradient from its mean over the block (for KL weighted by the ranks)."""
        block, size, strength, *weights = ctx.saved_tensors
        weighted = grad * weights[0] if weights else grad
        flat = block.flatten()
        total = size.new_zeros(size.shape, dtype=torch.float64)
        count = _PART if flat.device.type == "cpu" else _DEVICE_PART
        for at, part in zip(flat.split(count), weighted.flatten().split(count), strict=True):
            total = total.scatter_add_(0, at.long(), part.double())
        minus_mean = (total / -size).to(grad.dtype).index_select(0, flat).view_as(grad)
        centred = (weights[0] * minus_mean if weights else minus_mean).add_(weighted)
        tiny = torch.finfo(grad.dtype).tiny  # the strength of a row of tiny values is below it: divide in two steps
        rest = (strength / tiny).clamp(max=1).to(grad.dtype)
        return centred.div_(strength.clamp(min=tiny).to(grad.dtype)).div_(rest), None, None, None


def _rank_device(rows: Tensor, strength: Tensor, regularization: Regularization) -> tuple[Tensor, Tensor, Tensor]:
    """Soft ranks, the blocks of the values, and what a block holds: values ("l2") or ranks ("kl").

    A block is known by its first position among the sorted values of all rows; other positions hold a dummy 1.
    """
    values, order = rows.sort(dim=-1)
    ascending, start = project(values, strength, kl=regularization == "kl")
    ascending = torch.where(values[:, -1:].isnan(), math.nan, ascending).to(rows.dtype)
    ranks = torch.empty_like(ascending).scatter_(-1, order, ascending)
    offset = torch.arange(0, rows.numel(), rows.shape[-1], device=rows.device)[:, None]
    block = torch.empty_like(order).scatter_(-1, order, start + offset)
    held = ranks if regularization == "kl" else torch.ones_like(ranks)
    size = torch.zeros_like(held).flatten().index_add_(0, block.flatten(), held.flatten())
    return ranks, block, torch.where(size > 0, size, 1)


def soft_rank(
    x: Float[Tensor, "*rows n"],
    strength: float | Literal["auto"] = 1.0,
    regularization: Regularization = "l2",
) -> Float[Tensor, "*rows n"]:
    """Differentiable ranks of the last axis (Blondel et al., ICML 2020, arXiv 2002.08871), as torchsort's `soft_rank`.

    The projection of x / strength onto the permutahedron of (1, ..., n), Euclidean ("l2") or by relative entropy of
    exponentials ("kl"). Towards strength 0 these are the ranks; for large strengths "l2" is x / strength, centred on
    (n + 1) / 2. "auto": in proportion to each row's standard deviation, as a constant without gradient
    (docs/ranks.md). float64 stays; every other type is ranked in float32. A row with a NaN has NaN ranks; infinities
    count as the largest finite number.

    Never waits for the device, with one exception: with a strength given as a number it reads from the device whether
    all values form one block.
    """
    _check(strength, regularization)
    rows = _as_rows(x, "soft_rank")
    if rows.numel() == 0:
        return rows.view(x.shape)
    strengths = _strengths(rows, strength, regularization)
    if strength != "auto" and regularization == "l2" and _all_pooled(rows, strengths):
        centred = rows.double() - rows.mean(dim=-1, keepdim=True, dtype=torch.float64)
        return (centred / strengths + (rows.shape[-1] + 1) / 2).to(rows.dtype).view(x.shape)
    ranks: Tensor = _SoftRank.apply(rows, strengths, regularization, False)
    return ranks.view(x.shape)


def rank_with_soft_gradient(
    x: Float[Tensor, "*rows n"],
    strength: float | Literal["auto"] = "auto",
    regularization: Regularization = "l2",
) -> Float[Tensor, "*rows n"]:
    """`rank(x)` with the gradient of `soft_rank(x, strength, regularization)` (straight-through), from one sort."""
    _check(strength, regularization)
    rows = _as_rows(x, "rank_with_soft_gradient")
    if rows.numel() == 0:
        return rows.view(x.shape)
    ranks: Tensor = _SoftRank.apply(rows, _strengths(rows, strength, regularization), regularization, True)
    return ranks.view(x.shape)


class _Spearman(torch.autograd.Function):
    """Spearman's coefficient of rows. The forward pass also computes the slope: the teacher is a constant."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, strength: float | Literal["auto"]) -> Tensor:
        """The coefficient of each pair of rows."""
        compute = _spearman_on_host if student.device.type == "cpu" else _spearman_on_device
        coefficients, slopes = compute(student.detach(), teacher, strength, sloped=ctx.needs_input_grad[0])
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return coefficients.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The slope, scaled."""
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None], None, None


def _spearman_on_host(
    student: Tensor, teacher: Tensor, strength: float | Literal["auto"], *, sloped: bool
) -> tuple[Tensor, Tensor | None]:
    """Coefficients and slopes by numpy."""
    given = None if strength == "auto" else float(strength)
    coefficients, slopes = spearman_rows(student.numpy(), teacher.numpy(), given, sloped=sloped)
    return torch.from_numpy(coefficients), None if slopes is None else torch.from_numpy(slopes)


def _spearman_on_device(
    student: Tensor, teacher: Tensor, strength: float | Literal["auto"], *, sloped: bool
) -> tuple[Tensor, Tensor | None]:
    """Coefficients and slopes by kernels."""
    from monoskd.distill import ranks_triton

    return ranks_triton.spearman_rows(student, teacher, _strengths(student, strength, "l2"), sloped=sloped)


def spearman(
    student: Float[Tensor, "*rows n"],
    teacher: Float[Tensor, "*rows n"],
    strength: float | Literal["auto"] = "auto",
    regularization: Regularization = "l2",
) -> Float[Tensor, "*rows"]:
    """Spearman's coefficient along the last axis, ties averaged, with a gradient to the student alone.

    The value is Pearson's correlation of `rank(student)` and `rank(teacher)`; the gradient goes through
    `soft_rank(student, strength, regularization)`. 0, without gradient, where a side is constant. Of the student's
    type, in float32 at least. The slope is computed with the value, if the student requires a gradient; there is no
    second derivative.
    """
    _check(strength, regularization)
    if student.shape != teacher.shape:
        raise InputError(f"spearman: expected one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}")
    rows, others = _as_rows(student, "spearman"), _as_rows(teacher.detach(), "spearman")
    if rows.numel() == 0:
        return rows.sum(dim=-1).view(student.shape[:-1])
    if regularization == "l2" and rows.device == others.device and (_on_host(rows) or _has_kernels(rows)):
        coefficients: Tensor = _Spearman.apply(rows, others, strength)
    else:
        ranks = rank_with_soft_gradient(rows, strength, regularization)
        coefficients = rank_correlation(ranks, rank(others).to(ranks.dtype))
    return coefficients.view(student.shape[:-1])


def _check(strength: object, regularization: str) -> None:
    if strength != "auto" and not (isinstance(strength, int | float) and 0 < strength < math.inf):
        raise InputError(f'soft rank: expected a strength above 0 or "auto", got {strength!r}')
    if regularization not in _AUTO_STRENGTH:
        raise InputError(f'soft rank: expected regularization "l2" or "kl", got {regularization!r}')


@torch.no_grad()
def _all_pooled(rows: Tensor, strength: Tensor) -> bool:
    """Whether every row's range is at most strength n / 2: then it is one block (docs/ranks.md); no sort is needed."""
    if torch.compiler.is_compiling() or rows.device.type == "meta":
        return False
    low, high = rows.amin(dim=-1, keepdim=True), rows.amax(dim=-1, keepdim=True)  # far faster than aminmax
    return bool((high.double() - low.double() <= strength * (rows.shape[-1] / 2)).all())


@torch.no_grad()
def degeneracy(
    x: Float[Tensor, "*rows n"],
    strength: float | Literal["auto"] = 1.0,
    regularization: Regularization = "l2",
) -> Float[Tensor, "*rows"]:
    """The share of each row's values that lie in the largest pooled block of `soft_rank`.

    1: the soft rank is the value itself, shifted, and its correlation Pearson's. 1 / n: it is the hard rank, and has
    no gradient.
    """
    _check(strength, regularization)
    rows = _as_rows(x.detach(), "degeneracy")
    if rows.numel() == 0:
        return rows.new_zeros(x.shape[:-1])
    strengths = _strengths(rows, strength, regularization)
    if strength != "auto" and regularization == "l2" and _all_pooled(rows, strengths):
        return rows.new_ones(x.shape[:-1])
    if regularization == "l2" and _on_host(rows):
        largest = torch.from_numpy(largest_of_rows(rows.numpy(), strengths.numpy())).to(rows.dtype)
    else:
        _, start = project(rows.sort(dim=-1).values, strengths, kl=regularization == "kl")
        largest = torch.zeros_like(rows).scatter_add_(-1, start, torch.ones_like(rows)).amax(dim=-1)
    return (largest / rows.shape[-1]).view(x.shape[:-1])
