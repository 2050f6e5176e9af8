"""Ranks of rows on a CPU, in numpy and scipy: sort a few rows, rank what is sorted, put it back.

numpy sorts several times faster than `torch.sort`, and scipy pools neighbours in one pass; on a device isotonic.py does
the same side by side. Nothing here loops over elements. There are no threads: they share memory and Python's lock, and
two were no faster than one on the rows of benchmarks/ranks.py.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Floats = NDArray[np.float32] | NDArray[np.float64]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

# So many values are handled at a time: what fits the cache.
_CHUNK = 2**16
# A float32 row of range up to this times n is summed by one running sum; beyond, rounding could show in a rank.
_SAFE_RANGE = 64.0


def hard_ranks(x: Floats) -> Floats:
    """Ranks 1..n of each row, ties averaged; a row with a NaN has NaN ranks."""
    ranks: Floats = np.empty(x.shape, x.dtype)
    for chunk in _chunks(x):
        values, order = sort_rows(x[chunk])
        ranks[chunk].ravel()[order] = ascending_ranks(values)
    return ranks


def ranks_in_blocks(x: Floats, strength: F64, *, hard: bool) -> tuple[Floats, I32, I32]:
    """Ranks (soft unless hard), the blocks of the values, counted through all rows, and how many values each holds.

    strength: rows x 1. The blocks are those of the soft ranks in either case.
    """
    ranks: Floats = np.empty(x.shape, x.dtype)
    block: I32 = np.empty(x.shape, np.int32)
    sizes: list[I64] = []
    before = 0
    for chunk in _chunks(x):
        values, order = sort_rows(x[chunk])
        lengths, shift = pool(values, strength[chunk])
        inside = members(lengths)
        if hard:
            ranks[chunk].ravel()[order] = ascending_ranks(values)
        else:
            soft = reduced(values, strength[chunk])
            soft += shift.take(inside).reshape(soft.shape)
            soft[with_nan(values)] = np.nan
            ranks[chunk].ravel()[order] = soft
        inside += before
        block[chunk].ravel()[order.ravel()] = inside
        sizes.append(lengths)
        before += len(lengths)
    return ranks, block, np.concatenate(sizes, dtype=np.int32, casting="same_kind")


def largest_of_rows(x: Floats, strength: F64) -> I64:
    """How many values the largest block of each row holds. strength: rows x 1."""
    found: list[I64] = []
    for chunk in _chunks(x):
        values: Floats = np.sort(x[chunk], axis=-1)  # type: ignore[assignment]
        lengths, _ = pool(values, strength[chunk])
        first_of_row = np.searchsorted(lengths.cumsum() - lengths, np.arange(0, values.size, values.shape[-1]))
        found.append(np.maximum.reduceat(lengths, first_of_row))
    return np.concatenate(found)


def sort_rows(x: Floats) -> tuple[Floats, I64]:
    """Each row ascending, and where each value came from, counted through the rows: values = x.ravel()[order].

    Rows with a NaN end or begin with one.
    """
    if x.dtype != np.float32:
        order = _through_rows(x.argsort(axis=-1))
    else:
        bits = np.ascontiguousarray(x).view(np.int32)
        bits = bits ^ (bits >> 31 & 0x7FFFFFFF)  # an integer that ascends with the float32
        order = _order_packed(bits) if _sorts_wide_integers_fast() else _order_by_radix(bits)
    return x.take(order), order


def _order_packed(bits: I32) -> I64:
    """The order of int32 rows, by sorting them with their indices in the lower half of an int64."""
    packed = bits.astype(np.int64)
    packed <<= 32
    packed |= np.arange(packed.size).reshape(packed.shape)
    packed.sort(axis=-1)
    packed &= 0xFFFFFFFF
    return packed


def _order_by_radix(bits: I32) -> I64:
    """The order of int32 rows, by half and half: numpy sorts 16-bit integers by radix if it is to be stable."""
    by_low = _through_rows(bits.astype(np.uint16).argsort(axis=-1, kind="stable"))
    by_high = (bits >> 16).astype(np.int16).take(by_low).argsort(axis=-1, kind="stable")
    return by_low.take(_through_rows(by_high))


def _through_rows(order: I64) -> I64:
    """Indices into each row as indices into all rows, laid end to end."""
    order += np.arange(0, order.size, order.shape[-1])[:, None]
    return order


@cache
def _sorts_wide_integers_fast() -> bool:
    """Whether numpy sorts int64 by AVX-512, which beats its radix sort; with less it is three times slower."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return any(name.startswith("AVX512") or name == "X86_V4" for name in found)


def ascending_ranks(values: Floats) -> Floats:
    """The ranks of ascending rows, ties averaged; a row with a NaN has NaN ranks."""
    rows, n = values.shape
    ranks: Floats = np.empty((rows, n), values.dtype)
    ranks[:] = np.arange(1, n + 1)
    tied = np.zeros((rows, n), np.bool_)  # with the next
    np.equal(values[:, :-1], values[:, 1:], out=tied[:, :-1])
    at = np.flatnonzero(tied)
    if len(at):
        breaks = np.flatnonzero(np.diff(at) != 1)
        first, last = at[np.append(0, breaks + 1)], at[np.append(breaks, len(at) - 1)] + 1
        width = last - first + 1
        inside = np.arange(width.sum()) + np.repeat(first - width.cumsum() + width, width)
        shared = (first % n + last % n) / 2 + 1
        ranks.ravel()[inside] = np.repeat(shared, width)
    ranks[with_nan(values)] = np.nan
    return ranks


def pool(values: Floats, strength: F64) -> tuple[I64, F64]:
    """The blocks of ascending rows, laid end to end: how many values each holds, and what its soft ranks are above
    `reduced(values, strength)`. strength: rows x 1.

    These are the blocks of the non-increasing regression of (1..n) minus that; its negative is regressed here, which
    scipy need not turn around.
    """
    rows, n = values.shape
    y = reduced(values, strength)
    running = values.dtype == np.float32 and bool((y[:, -1] <= _SAFE_RANGE * n).all())
    y -= np.arange(1.0, n + 1)
    starts_run = np.ones((rows, n), np.bool_)  # of values that do not increase, which are one block
    np.less(y[:, :-1], y[:, 1:], out=starts_run[:, 1:])
    ends = np.append(np.flatnonzero(starts_run)[1:], y.size) - 1
    span, flat = (np.ptp(y) + 1 if rows > 1 else 0.0), y.ravel()
    if running:
        torch.from_numpy(flat).cumsum_(0)  # several times faster than numpy's
    lengths, means = _measure(flat, ends, running=running)
    means /= lengths
    if rows > 1:
        means += span * (ends // n)  # so that no block reaches into the next row
    ends = ends.take(isotonic_regression(means, weights=lengths).blocks[1:] - 1)
    lengths, sums = _measure(flat, ends, running=running)
    return lengths, sums / -lengths


def members(lengths: I64) -> I32:
    """The block of each value."""
    first = np.zeros(lengths.sum(), np.bool_)
    first[lengths[:-1].cumsum()] = True
    return np.cumsum(first, dtype=np.int32)


@np.errstate(over="ignore")  # what overflows is a gap that is narrowed
def reduced(values: Floats, strength: F64) -> F64:
    """Ascending values / strength, from 0, without the width of gaps that no block bridges (docs/ranks.md).

    A row with a NaN becomes constant.
    """
    n = values.shape[-1]
    if not np.isfinite(values[:, [0, -1]]).all():
        limit = np.finfo(values.dtype).max
        values = values.clip(-limit, limit)
        values[with_nan(values)] = 0  # a NaN would spoil the sums of the rows after it
    theta: F64 = np.subtract(values, values[:, :1], dtype=np.float64)
    scale = 1 / strength
    if not (theta[:, -1:] * scale <= _SAFE_RANGE * n).all():
        np.subtract(values[:, 1:], values[:, :-1], out=theta[:, 1:], dtype=np.float64)
        theta *= scale
        np.minimum(theta, n / 2 + 1, out=theta)
        return np.cumsum(theta, axis=1, out=theta)
    theta *= scale
    return theta


def with_nan(values: Floats) -> NDArray[np.bool_]:
    """Which sorted rows hold a NaN: it comes last or, with its sign set, may come first."""
    return np.isnan(values[:, 0]) | np.isnan(values[:, -1])


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many rows of a matrix of that shape are handled at a time."""
    return max(1, min(shape[0], _CHUNK // shape[1]))


def _chunks(x: Floats) -> Iterator[slice]:
    """A few rows at a time."""
    step = rows_at_once(x.shape)
    return (slice(first, first + step) for first in range(0, len(x), step))


def _measure(y: F64, ends: I64, *, running: bool) -> tuple[I64, F64]:
    """The lengths and sums of the stretches of y that end there; `running`: y is its own running sum."""
    lengths = np.diff(ends, prepend=-1)
    if running:
        return lengths, np.diff(y.take(ends), prepend=0.0)
    return lengths, np.add.reduceat(y, ends + 1 - lengths)
