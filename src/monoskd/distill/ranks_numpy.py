"""Ranks of rows on a CPU, in numpy and scipy: sort a few rows, rank the sorted values, restore their order.

numpy sorts several times faster than `torch.sort`, and scipy pools neighbours in one pass; on a device isotonic.py does
the same for all rows at once. Nothing here loops over elements. There are no threads: they share memory and Python's
lock, and two were no faster than one on the rows of benchmarks/ranks.py.
"""

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from monoskd.geometry.arrays import ranges

Floats = NDArray[np.float32] | NDArray[np.float64]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

# strength="auto" is this many standard deviations of the row, divided by n (docs/ranks.md, measured).
AUTO_STRENGTH = 2.0
# Number of values handled at a time: what fits the cache.
_CHUNK = 2**16
# Float32 rows of range up to this times n and up to this length are summed by one running sum; beyond, rounding
# could change a rank or move the border of a block.
_SAFE_RANGE, _SAFE_LENGTH = 64.0, 2**19


def hard_ranks(x: Floats) -> Floats:
    """Ranks 1..n of each row, ties averaged; a row with a NaN has NaN ranks."""
    ranks: Floats = np.empty(x.shape, x.dtype)
    for chunk in _chunks(x):
        values, order = sort_rows(x[chunk])
        _scatter(ranks[chunk], order, ascending_ranks(values, x.dtype))
    return ranks


def ranks_in_blocks(x: Floats, strength: F64, *, hard: bool) -> tuple[Floats, I32, I32]:
    """Ranks (soft unless hard), the blocks of the values, counted through all rows, and how many values each holds.

    strength: rows x 1. The blocks are those of the soft ranks in either case.
    """
    ranks: Floats = np.empty(x.shape, x.dtype)
    block: I32 = np.empty(x.shape, np.int32)
    counts: list[F64] = []
    before = 0
    for chunk in _chunks(x):
        values, order = sort_rows(x[chunk])
        y, _ = reduced(values, strength[chunk])
        borders, sizes, sums = pool(y, exact=x.dtype == np.float64)
        inside = members(borders)
        if hard:
            _scatter(ranks[chunk], order, ascending_ranks(values, x.dtype))
        else:
            y -= (sums.between(borders) / sizes).take(inside).reshape(y.shape)
            y += _counting(x.shape[-1], np.float64)
            y[with_nan(values)] = np.nan
            _scatter(ranks[chunk], order, y.astype(x.dtype, copy=False))
        inside += before
        _scatter(block[chunk], order, inside.reshape(values.shape))
        counts.append(sizes)
        before += len(sizes)
    return ranks, block, np.concatenate(counts, dtype=np.int32, casting="unsafe")


@np.errstate(over="ignore")  # a slope over a tiny strength may be beyond float32
def spearman_rows(
    student: Floats, teacher: Floats, strength: float | None, *, sloped: bool
) -> tuple[F64, Floats | None]:
    """Spearman's coefficient of each pair of rows and, if asked, its slope in the student's values.

    strength: of the soft ranks whose gradient the slope uses, None for `auto_strength`. The slope is the deviation from
    the mean of a block, divided by the strength. Sums run in the order of the values.
    """
    coefficients = np.empty(len(student))
    slopes: Floats | None = np.empty(student.shape, student.dtype) if sloped else None
    exact = student.dtype == np.float64 or strength is not None  # a given strength may be tiny and magnify rounding
    for chunk in _chunks(student):
        values, order = sort_rows(student[chunk])
        if sloped:  # first, while there is little else in memory
            given = None if strength is None else np.full((len(values), 1), strength)
            borders, sizes, strengths = blocks(values, given)
        u = ascending_ranks(values, np.float64)
        v = _gather(hard_ranks(teacher[chunk]), order).astype(np.float64)
        coefficients[chunk], slope = correlate(u, v)
        if slopes is not None:
            undefined = np.isnan(coefficients[chunk])
            slope[undefined] = 0  # a NaN would spoil the sums of the rows after it
            flat = slope.ravel()
            flat -= (Sums(flat, exact=exact).between(borders) / sizes).take(members(borders))
            slope /= strengths
            slope[undefined] = np.nan
            _scatter(slopes[chunk], order, slope.astype(student.dtype, copy=False))
    return coefficients, slopes


def correlate(u: F64, v: F64) -> tuple[F64, F64]:
    """Pearson's r of rows of ranks 1..n, and its slope in u, (v - (uv / uu) u) / |u| |v|. Where a side is constant, 0.

    Works in place: v becomes the slope.
    """
    for side in (u, v):
        side -= (side.shape[-1] + 1) / 2  # the mean of ranks, ties or not
    squares, product = _dot(u, u), _dot(u, v)
    lengths = np.sqrt(squares * _dot(v, v))
    constant = lengths == 0
    u *= (product / np.where(constant, 1, squares))[:, None]
    v -= u
    v /= np.where(constant, np.inf, lengths)[:, None]
    return product / np.where(constant, 1, lengths), v


def largest_of_rows(x: Floats, strength: F64) -> F64:
    """How many values the largest block of each row holds. strength: rows x 1."""
    largest: list[F64] = []
    for chunk in _chunks(x):
        values: Floats = np.sort(x[chunk], axis=-1)  # type: ignore[assignment]
        borders, sizes, _ = blocks(values, strength[chunk])
        first_of_row = np.searchsorted(borders, np.arange(0, values.size, values.shape[-1]))
        largest.append(np.maximum.reduceat(sizes, first_of_row))
    return np.concatenate(largest)


def sort_rows(x: Floats) -> tuple[Floats, I64]:
    """Each row ascending, and where in the row each value came from. Rows with a NaN end or begin with one."""
    if x.dtype != np.float32:
        order = x.argsort(axis=-1)
    else:
        bits = np.ascontiguousarray(x).view(np.int32)
        ascending = bits >> 31
        ascending &= 0x7FFFFFFF
        ascending ^= bits  # with the float32
        order = _order_packed(ascending) if _sorts_wide_integers_fast() else _order_by_radix(ascending)
    return _gather(x, order), order


def _order_packed(bits: I32) -> I64:
    """The order of int32 rows, by sorting them with their indices in the lower half of an int64."""
    packed = bits.astype(np.int64)
    packed <<= 32
    packed |= np.arange(packed.shape[-1])
    packed.sort(axis=-1)
    packed &= 0xFFFFFFFF
    return packed


def _order_by_radix(bits: I32) -> I64:
    """The order of int32 rows, by the lower, then the upper 16 bits: numpy sorts these by radix if stable."""
    by_low = bits.astype(np.uint16).argsort(axis=-1, kind="stable")
    by_high = _gather((bits >> 16).astype(np.int16), by_low).argsort(axis=-1, kind="stable")
    return _gather(by_low, by_high)


def _gather(x: NDArray[Any], order: I64) -> NDArray[Any]:
    """Each row's values in that order."""
    gathered: NDArray[Any] = torch.from_numpy(x).gather(1, torch.from_numpy(order)).numpy()
    return gathered


def _scatter(out: NDArray[Any], order: I64, values: NDArray[Any]) -> None:
    """The inverse: each row of `out` in that order becomes these values."""
    torch.from_numpy(out).scatter_(1, torch.from_numpy(order), torch.from_numpy(values))


@cache
def _sorts_wide_integers_fast() -> bool:
    """Whether numpy sorts int64 by AVX-512, which beats its radix sort; with less it is three times slower."""
    extensions = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return any(name.startswith("AVX512") or name == "X86_V4" for name in extensions)


def ascending_ranks(values: Floats, dtype: Any) -> NDArray[Any]:
    """The ranks of ascending rows in that type, ties averaged; a row with a NaN has NaN ranks."""
    rows, n = values.shape
    ranks = np.empty((rows, n), dtype)
    ranks[:] = _counting(n, dtype)
    flat = values.ravel()
    at = np.flatnonzero(flat[:-1] == flat[1:])  # values tied with the next
    at = at[at % n != n - 1]  # in the same row
    if len(at):
        breaks = np.flatnonzero(np.diff(at) != 1)
        first, last = at[np.append(0, breaks + 1)], at[np.append(breaks, len(at) - 1)] + 1
        width = last - first + 1
        inside = np.repeat(first, width) + ranges(width)
        shared = (first % n + last % n) / 2 + 1
        ranks.ravel()[inside] = np.repeat(shared, width)
    ranks[with_nan(values)] = np.nan
    return ranks


def blocks(values: Floats, strength: F64 | None) -> tuple[I64, F64, F64]:
    """Borders and lengths of the blocks of ascending rows, as `pool`'s, and the strength, as `reduced`'s."""
    theta, strength = reduced(values, strength)
    borders, sizes, _ = pool(theta, exact=values.dtype == np.float64)
    return borders, sizes, strength


def pool(theta: F64, *, exact: bool) -> tuple[I64, F64, "Sums"]:
    """The blocks of rows that `reduced` gives, laid end to end: the borders of all from 0 on, and their lengths.

    Subtracts 1..n from theta, in place; the sums of the difference come third. Its non-decreasing regression has these
    blocks, and its mean over a block is theta minus the soft rank. exact: see `Sums`.
    """
    rows, n = theta.shape
    highest = theta[:, -1].max()
    y = np.subtract(theta, _counting(n, np.float64), out=theta)
    flat = y.ravel()
    starts = np.empty(y.size + 1, np.bool_)  # of values that do not increase, which are one block
    np.less(flat[:-1], flat[1:], out=starts[1:-1])
    starts[::n] = True
    borders = np.flatnonzero(starts)
    sums = Sums(flat, exact=exact or highest > _SAFE_RANGE * n or n > _SAFE_LENGTH)
    sizes = np.diff(borders).astype(np.float64)
    means = sums.between(borders) / sizes
    if rows > 1:  # no block reaches into the next row
        of_row = np.diff(np.searchsorted(borders, np.arange(0, y.size + 1, n)))
        means += np.repeat((highest + n) * np.arange(rows), of_row)
    borders = borders.take(isotonic_regression(means, weights=sizes).blocks)
    return borders, np.diff(borders).astype(np.float64), sums


class Sums:
    """Sums of the stretches of an array between borders: each on its own if `exact`, else from one running sum, whose
    rounding matters in float64 only.
    """

    def __init__(self, y: F64, *, exact: bool) -> None:
        self.y, self.exact = y, exact
        if not exact:
            self.y = np.empty(len(y) + 1)
            self.y[0] = 0
            torch.cumsum(torch.from_numpy(y), 0, out=torch.from_numpy(self.y)[1:])  # several times faster than numpy's

    def between(self, borders: I64) -> F64:
        """One sum for each pair of neighbouring borders."""
        return np.add.reduceat(self.y, borders[:-1]) if self.exact else np.diff(self.y.take(borders))


@lru_cache(maxsize=2)
def _counting(n: int, dtype: Any) -> NDArray[Any]:
    """1..n, cached: making it takes numpy as long as one pass over many rows."""
    numbers = np.arange(1, n + 1, dtype=dtype)
    numbers.flags.writeable = False
    return numbers


def members(borders: I64) -> I32:
    """The block of each value."""
    first = np.zeros(borders[-1], np.bool_)
    first[borders[1:-1]] = True
    return np.cumsum(first, dtype=np.int32)


def auto_strength(away: F64, *, exact: bool) -> F64:
    """`AUTO_STRENGTH` standard deviations of ascending rows that begin with 0, divided by n; infinite for a constant
    row. exact: the squares of float64 may be out of range.
    """
    unit: F64 | float = 1.0
    if exact:
        unit = away[:, -1:].clip(min=np.finfo(np.float64).tiny)
        away = away / unit
    variance = _dot(away, away) / away.shape[-1] - away.mean(axis=-1) ** 2
    strength = np.sqrt(variance.clip(min=0))[:, None] * unit * (AUTO_STRENGTH / away.shape[-1])
    return np.where(strength > 0, strength, np.inf)


@np.errstate(over="ignore")  # only gaps that are narrowed overflow
def reduced(values: Floats, strength: F64 | None) -> tuple[F64, F64]:
    """Ascending values / strength, from 0, with gaps that no block bridges narrowed (docs/ranks.md); and the
    strength, rows x 1, which is `auto_strength` if None is given.

    A row with a NaN becomes constant.
    """
    n = values.shape[-1]
    limit = largest_counted(values.dtype)
    if not (np.abs(values[:, [0, -1]]) <= limit).all():
        values = values.clip(-limit, limit)
        values[with_nan(values)] = 0  # a NaN would spoil the sums of the rows after it
    theta: F64 = np.subtract(values, values[:, :1], dtype=np.float64)
    if strength is None:
        strength = auto_strength(theta, exact=values.dtype == np.float64)
    narrow = (theta[:, -1:] / strength <= _SAFE_RANGE * n).all()
    if not narrow:
        np.subtract(values[:, 1:], values[:, :-1], out=theta[:, 1:], dtype=np.float64)
    theta /= strength
    if not narrow:
        np.minimum(theta, n / 2 + 1, out=theta)
        np.cumsum(theta, axis=1, out=theta)
    return theta, strength


def largest_counted(dtype: Any) -> float:
    """What infinities count as: the largest finite number; in float64 half of it, so that ranges are finite, too."""
    return float(min(np.finfo(dtype).max, np.finfo(np.float64).max / 2))


def _dot(a: F64, b: F64) -> F64:
    """The product of each pair of rows, without BLAS, whose threads slow torch's down."""
    products: F64 = np.einsum("ij,ij->i", a, b)
    return products


def with_nan(values: Floats) -> NDArray[np.bool_]:
    """Which sorted rows hold a NaN: it comes last or, with its sign set, may come first."""
    return np.isnan(values[:, 0]) | np.isnan(values[:, -1])


def _chunks(x: Floats) -> Iterator[slice]:
    """A few rows at a time."""
    step = max(1, min(len(x), _CHUNK // x.shape[1]))
    return (slice(first, first + step) for first in range(0, len(x), step))
