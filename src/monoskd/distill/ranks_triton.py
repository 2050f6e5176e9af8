"""Spearman's coefficient of rows on a GPU, in few launches, which cost more there than what they compute.

The same steps as `ranks_numpy.spearman_rows`: sort, rank the sorted values, pool their soft ranks into blocks, and put
the slopes back where the values came from.
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import pad

from monoskd.distill.isotonic_triton import blocks_of_means, jit, row_and_part

_POINTS = 1024  # to a program


@jit  # type: ignore[untyped-decorator]
def _rank(values, ranks, n, steps, POINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of ascending rows the ranks less their mean, ties averaged."""
    row, part = row_and_part(tl.cdiv(n, POINTS))
    row *= n
    at = part * POINTS + tl.arange(0, POINTS)
    there = at < n
    value = tl.load(values + row + at, mask=there, other=0)
    low, first = tl.zeros_like(at), at
    last, high = at, tl.where(there, n - 1, at)
    for _ in range(steps):  # of equal values, the first and the last
        middle = (low + first) >> 1
        tied = tl.load(values + row + middle, mask=there, other=0) == value
        low, first = tl.where(tied, low, tl.minimum(middle + 1, first)), tl.where(tied, middle, first)
        middle = (last + high + 1) >> 1
        tied = tl.load(values + row + middle, mask=there, other=0) == value
        last, high = tl.where(tied, middle, last), tl.where(tied, high, tl.maximum(middle - 1, last))
    tl.store(ranks + row + at, (first + last - n + 1).to(tl.float64) / 2, mask=there)


@jit  # type: ignore[untyped-decorator]
def _gap(values, strength, gaps, n, POINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """How far each of the ascending values is from the one before it, in strengths; what no block bridges, narrowed."""
    row, part = row_and_part(tl.cdiv(n, POINTS))
    at = part * POINTS + tl.arange(0, POINTS)
    there = at < n
    value = tl.load(values + row * n + at, mask=there, other=0).to(tl.float64)
    before = tl.load(values + row * n + tl.maximum(at - 1, 0), mask=there, other=0).to(tl.float64)
    gap = (value - before) / tl.load(strength + row)
    tl.store(gaps + row * n + at, tl.minimum(gap, (n // 2 + 2).to(tl.float64)), mask=there)


@jit  # type: ignore[untyped-decorator]
def _deviate(slope, sums, start, stop, strength, place, out, n, POINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The deviation of each slope from the mean of its block, over the strength; each goes to its place."""
    row, part = row_and_part(tl.cdiv(n, POINTS))
    at = part * POINTS + tl.arange(0, POINTS)
    there = at < n
    border = row * (n + 1)
    first = tl.load(start + border + at, mask=there, other=0)
    last = tl.load(stop + border + at, mask=there, other=1)
    total = tl.load(sums + border + last, mask=there, other=0) - tl.load(sums + border + first, mask=there, other=0)
    own = tl.load(slope + row * n + at, mask=there, other=0)
    mean = tl.where(last - first == 1, own, total / (last - first).to(tl.float64))
    away = (own - mean) / tl.load(strength + row)
    to = tl.load(place + row * n + at, mask=there, other=0)
    tl.store(out + row * n + to, away.to(out.dtype.element_ty), mask=there)


def spearman_rows(
    student: Float[Tensor, "rows n"],
    teacher: Float[Tensor, "rows n"],
    strength: Float64[Tensor, "rows 1"],
    *,
    sloped: bool,
) -> tuple[Float64[Tensor, " rows"], Float[Tensor, "rows n"] | None]:
    """As `ranks_numpy.spearman_rows`; the strength is given for each row."""
    values, order = student.contiguous().sort(dim=-1)
    others, other_order = teacher.contiguous().sort(dim=-1)
    u, v = _ranks(values), _ranks(others)
    v = torch.empty_like(v).scatter_(-1, other_order, v).gather(-1, order)
    squares, product = torch.linalg.vecdot(u, u), torch.linalg.vecdot(u, v)
    lengths = (squares * torch.linalg.vecdot(v, v)).sqrt()
    lengths = torch.where(lengths > 0, lengths, math.inf)  # of a constant: a coefficient and a slope of 0
    lengths = torch.where(values[:, -1].isnan() | others[:, -1].isnan(), math.nan, lengths)
    if not sloped:
        return product / lengths, None
    start, stop = _blocks(values, strength)
    slope = v.addcmul_(u, (product / squares.clamp(min=0.5))[:, None], value=-1).div_(lengths[:, None])
    slopes = torch.empty_like(values)
    sums = pad(slope.cumsum(-1), (1, 0))
    n = values.shape[-1]
    _deviate[_grid(values)](slope, sums, start, stop, strength.contiguous(), order, slopes, n, POINTS=_POINTS)
    return product / lengths, slopes


def _ranks(values: Float[Tensor, "rows n"]) -> Float64[Tensor, "rows n"]:
    """The ranks of ascending rows less (n + 1) / 2."""
    n = values.shape[-1]
    ranks = torch.empty_like(values, dtype=torch.float64)
    _rank[_grid(values)](values, ranks, n, n.bit_length(), POINTS=_POINTS)
    return ranks


def _blocks(values: Float[Tensor, "rows n"], strength: Float64[Tensor, "rows 1"]) -> tuple[Tensor, Tensor]:
    """The blocks of the soft ranks of ascending rows, as in `isotonic.project`."""
    n, limit = values.shape[-1], torch.finfo(values.dtype).max
    gaps = torch.empty_like(values, dtype=torch.float64)
    _gap[_grid(values)](values.clamp(-limit, limit), strength.contiguous(), gaps, n, POINTS=_POINTS)
    counting = torch.arange(1, n + 1, dtype=torch.float64, device=values.device)
    return blocks_of_means(pad((counting - gaps.cumsum(-1)).cumsum(-1), (1, 0)))


def _grid(values: Tensor) -> tuple[int]:
    return (len(values) * triton.cdiv(values.shape[-1], _POINTS),)
