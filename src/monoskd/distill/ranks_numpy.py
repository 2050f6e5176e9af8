"""Ranks of rows on a CPU, in numpy: sort a few rows, rank what is sorted, put it back; rows are shared among threads.

numpy sorts long rows by radix, several times faster than `torch.sort`. Nothing here loops over elements.
Only numpy runs in the threads: torch's own operations would start threads each.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from monoskd.distill.isotonic_numpy import F64, I32, I64, Floats, largest_blocks, members, pool, reduced, with_nan

_T = TypeVar("_T")

# So many values are handled at a time: what fits the cache.
_CHUNK = 2**16
# From this length on a row is sorted by radix.
_RADIX_FROM = 1024


def hard_ranks(x: Floats) -> Floats:
    """Ranks 1..n of each row, ties averaged; a row with a NaN has NaN ranks."""
    ranks: Floats = np.empty(x.shape, x.dtype)

    def fill(chunk: slice) -> None:
        values, order = sort_rows(x[chunk])
        ranks[chunk].ravel()[order] = ascending_ranks(values)

    _for_chunks(fill, x)
    return ranks


def ranks_in_blocks(x: Floats, strength: F64, *, hard: bool) -> tuple[Floats, I32, I32]:
    """Ranks (soft unless hard), the blocks of the values, counted through all rows, and how many values each holds.

    strength: rows x 1. The blocks are those of the soft ranks in either case.
    """
    ranks: Floats = np.empty(x.shape, x.dtype)
    block: I32 = np.empty(x.shape, np.int32)

    def fill(chunk: slice) -> I64:
        values, order = sort_rows(x[chunk])
        if hard:
            ranks[chunk].ravel()[order] = ascending_ranks(values)
        ends, lengths, shift = pool(reduced(values, strength[chunk]))
        inside = members(ends, values.shape)
        block[chunk].ravel()[order] = inside
        if not hard:
            soft = reduced(values, strength[chunk])
            soft += shift.take(inside, mode="clip")
            soft[with_nan(values)] = np.nan
            ranks[chunk].ravel()[order] = soft
        return lengths

    sizes = _for_chunks(fill, x)
    before, step = 0, rows_at_once(x.shape)
    for index, size in enumerate(sizes):
        block[index * step : (index + 1) * step] += before
        before += len(size)
    return ranks, block, np.concatenate(sizes, dtype=np.int32, casting="same_kind")


def largest_of_rows(x: Floats, strength: F64) -> I64:
    """How many values the largest block of each row holds. strength: rows x 1."""

    return np.concatenate(_for_chunks(lambda chunk: largest_blocks(x[chunk], strength[chunk]), x))


def sort_rows(x: Floats) -> tuple[Floats, I64]:
    """Each row ascending, and where each value came from, counted through the rows: values = x.ravel()[order].

    Rows with a NaN end or begin with one.
    """
    offsets = np.arange(0, x.size, x.shape[-1])[:, None]
    order: I64
    if x.dtype == np.float32 and x.shape[-1] >= _RADIX_FROM:
        # The bits of a float32 as an integer that ascends with it; numpy sorts 16-bit integers by radix if "stable".
        bits = np.ascontiguousarray(x).view(np.int32)
        bits = bits ^ (bits >> 31 & 0x7FFFFFFF)
        by_low = bits.astype(np.uint16).argsort(axis=-1, kind="stable") + offsets
        order = (bits >> 16).astype(np.int16).take(by_low).argsort(axis=-1, kind="stable") + offsets
        order = by_low.take(order)
    else:
        order = x.argsort(axis=-1) + offsets
    return x.take(order), order


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


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many rows of a matrix of that shape are handled at a time."""
    return max(1, min(shape[0], _CHUNK // shape[1]))


def _for_chunks(work: Callable[[slice], _T], x: Floats) -> list[_T]:
    """What `work` makes of each few rows, in as many threads as torch uses."""
    step = rows_at_once(x.shape)
    chunks = [slice(first, first + step) for first in range(0, len(x), step)]
    workers = min(torch.get_num_threads(), len(chunks))
    if workers == 1:
        return [work(chunk) for chunk in chunks]
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(work, chunks))
