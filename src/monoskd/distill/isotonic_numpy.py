"""Sorting and pooling of rows on a CPU: the steps of isotonic.py in numpy, on what is still undecided only.

numpy sorts plain integers with vector instructions, several times faster than `torch.sort` sorts numbers and indices.
Everything here works on a few rows at a time that fit the cache, without a loop over elements.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from monoskd.distill.isotonic import MeanMasses, join

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Whole passes over the blocks, before passes over the borders that still violate, before joins.
_PASSES = 2
_BORDER_PASSES = 24
# Sums up to (this times n) n are taken from one running sum; beyond, rounding would show in a rank.
_SAFE_RANGE = 64.0


def sort_rows(x: NDArray[np.floating]) -> tuple[NDArray[np.floating], I64]:
    """Each row ascending, and where each value came from. Rows with a NaN end or begin with one."""
    if x.dtype != np.float32 or x.shape[-1] >= 2**31:
        order = np.argsort(x, axis=-1)
        return np.take_along_axis(x, order, axis=-1), order
    # Bits of a float, the magnitude of negative ones inverted, compare as integers; the index fills the lower half.
    bits = (x + np.float32(0)).view(np.int32)  # -0 becomes 0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    packed = bits.astype(np.int64)
    packed <<= 32
    packed |= np.arange(x.shape[-1])
    packed.sort(axis=-1)
    packed &= 0xFFFFFFFF
    return np.take_along_axis(x, packed, axis=-1), packed


def pool(theta: F64) -> tuple[I64, I64, F64]:
    """Blocks of the non-increasing regression of (1..n) - theta, theta ascending in rows of n.

    Returns, for all rows laid end to end, where each block starts, its length, and its value.
    """
    rows, n = theta.shape
    y = np.arange(1.0, n + 1) - theta
    apart = np.empty((rows, n), np.bool_)
    np.greater(y[:, :-1], y[:, 1:], out=apart[:, 1:])
    apart[:, 0] = True
    starts = np.flatnonzero(apart)
    running = np.append(0.0, y.cumsum()) if theta.max() <= _SAFE_RANGE * n and n > 4096 else None
    sums = np.add.reduceat(y.ravel(), starts) if running is None else np.diff(running[starts], append=running[-1])
    lengths = np.diff(starts, append=rows * n)
    for _ in range(_PASSES):
        keep = _kept(starts, lengths, sums, n)
        starts = starts[keep]
        sums = np.add.reduceat(sums, keep) if running is None else np.diff(running[starts], append=running[-1])
        lengths = np.diff(starts, append=rows * n)
    starts, lengths, sums = _pool_borders(starts, lengths, sums, n)
    return starts, lengths, sums / lengths


def _reduced(values: NDArray[np.floating], strength: F64) -> F64:
    """Ascending values / strength, from 0, without the width of gaps that no block bridges (docs/ranks.md)."""
    if not np.isfinite(values[:, [0, -1]]).all():
        limit = np.finfo(values.dtype).max
        values = values.clip(-limit, limit)
    theta = np.zeros(values.shape)
    np.subtract(values[:, 1:], values[:, :-1], out=theta[:, 1:], dtype=np.float64)
    theta /= strength
    np.minimum(theta, values.shape[-1] / 2 + 1, out=theta)
    return np.cumsum(theta, axis=1, out=theta)


def largest_blocks(x: NDArray[np.floating], strength: F64) -> I64:
    """How many values the largest block of each row holds. strength: rows x 1."""
    starts, lengths, _ = pool(_reduced(np.sort(x, axis=-1), strength))
    largest: I64 = np.maximum.reduceat(lengths, _row_heads(starts, x.shape[-1]))
    return largest


def soft_rank_rows(
    x: NDArray[np.floating], strength: F64
) -> tuple[NDArray[np.floating], NDArray[np.int32], NDArray[np.floating]]:
    """Soft ranks of each row, the block of each value and, by block, how many values it holds.

    strength: rows x 1. Blocks are counted from 0 over all rows.
    """
    rows, n = x.shape
    values, order = sort_rows(x)
    theta = _reduced(values, strength)
    starts, lengths, shift = pool(theta)
    theta += np.repeat(shift, lengths).reshape(rows, n)
    theta[np.isnan(values[:, 0]) | np.isnan(values[:, -1])] = np.nan
    order += np.arange(0, rows * n, n)[:, None]
    ranks, block = np.empty_like(x), np.empty((rows, n), np.int32)
    ranks.ravel()[order] = theta
    block.ravel()[order] = np.repeat(np.arange(len(starts), dtype=np.int32), lengths).reshape(rows, n)
    return ranks, block, lengths.astype(x.dtype)


def rank_rows(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Exact ranks of each row, ties averaged; a row with a NaN has NaN ranks."""
    rows, n = x.shape
    values, order = sort_rows(x)
    order += np.arange(0, rows * n, n)[:, None]
    new = np.empty((rows, n), np.bool_)
    np.not_equal(values[:, :-1], values[:, 1:], out=new[:, 1:])
    new[:, 0] = True
    if new.all():
        ascending = np.arange(1, n + 1, dtype=x.dtype)[None]
    else:
        starts = np.flatnonzero(new)
        lengths = np.diff(starts, append=rows * n)
        shared = (starts % n + (lengths + 1) / 2).astype(x.dtype)
        ascending = np.repeat(shared, lengths).reshape(rows, n)
    ranks = np.empty_like(x)
    ranks.ravel()[order] = ascending
    ranks[np.isnan(values[:, 0]) | np.isnan(values[:, -1])] = np.nan
    return ranks


def _kept(starts: I64, lengths: I64, sums: F64, n: int) -> I64:
    """The blocks whose value lies below that of the block before, and the first of each row."""
    values = sums / lengths
    keep = np.empty(len(values), np.bool_)
    np.greater(values[:-1], values[1:], out=keep[1:])
    keep[_row_heads(starts, n)] = True
    return np.flatnonzero(keep)


def _row_heads(starts: I64, n: int) -> I64:
    """The first block of each row."""
    return np.searchsorted(starts, np.arange(0, starts[-1] + 1, n))


def _pool_borders(starts: I64, lengths: I64, sums: F64, n: int) -> tuple[I64, I64, F64]:
    """Pool until no neighbours violate, looking only at borders whose blocks have changed."""
    total = int(starts[-1] + lengths[-1])
    count = len(starts)
    before, after = np.arange(-1, count), np.arange(1, count + 2)
    heads_row = np.zeros(count + 1, np.bool_)
    heads_row[_row_heads(starts, n)] = True
    heads_row[count] = True  # the end is no border
    values = np.append(sums / lengths, 0)
    border = 1 + np.flatnonzero(values[:-2] <= values[1:-1])
    border = border[~heads_row[border]]
    if not len(border):
        return starts, lengths, sums
    sums, lengths = sums.copy(), lengths.astype(np.float64)
    alive = np.ones(count, np.bool_)
    for _ in range(_BORDER_PASSES):
        new_run = np.empty(len(border), np.bool_)
        new_run[0] = True
        np.not_equal(before[border[1:]], border[:-1], out=new_run[1:])
        runs = np.flatnonzero(new_run)
        head = before[border[runs]]
        tail = after[np.append(border[runs[1:] - 1], border[-1])]
        sums[head] += np.add.reduceat(sums[border], runs)
        lengths[head] += np.add.reduceat(lengths[border], runs)
        alive[border] = False
        after[head], before[tail] = tail, head
        touched = np.column_stack((head, tail)).ravel()
        touched = touched[np.append(True, touched[1:] != touched[:-1])]
        touched = touched[~heads_row[touched]]
        left = before[touched]
        border = touched[sums[left] * lengths[touched] <= sums[touched] * lengths[left]]
        if not len(border):
            break
    kept = np.flatnonzero(alive)
    starts, sums = starts[kept], sums[kept]
    if len(border):
        starts, sums = _join_runs(starts, sums, np.searchsorted(kept, border), n, total)
    return starts, np.diff(starts, append=total), sums


def _join_runs(starts: I64, sums: F64, border: I64, n: int, total: int) -> tuple[I64, F64]:
    """Join the stretches between violating borders, every other border at once, until none is left.

    Each round halves the number of stretches, so there are at most log2(len(border)) + 1 of them.
    """
    count = len(starts)
    row_heads = np.append(_row_heads(starts, n), count)
    masses = MeanMasses(
        torch.from_numpy(np.append(0.0, sums.cumsum())), torch.from_numpy(np.append(starts, total).astype(np.float64))
    )
    start, stop = np.arange(count + 1), np.arange(1, count + 2)
    while len(border):
        row = np.searchsorted(row_heads, border, side="right")
        low = np.maximum(row_heads[row - 1], np.append(0, border[:-1]))
        high = np.minimum(row_heads[row], np.append(border[1:], count))
        now = slice(None, None, 2)
        low, middle, high = low[now], border[now], high[now]
        steps = int((middle - low).max()).bit_length() + int((high - middle).max()).bit_length()
        first, last = (
            edge.numpy()
            for edge in join(
                masses,
                torch.from_numpy(start),
                torch.from_numpy(stop),
                low=torch.from_numpy(low),
                middle=torch.from_numpy(middle),
                high=torch.from_numpy(high),
                steps=steps,
            )
        )
        width = last - first
        inside = np.arange(width.sum()) + np.repeat(first - (width.cumsum() - width), width)
        start[inside], stop[inside] = np.repeat(first, width), np.repeat(last, width)
        border = border[1::2]
    kept = np.flatnonzero(start[:-1] == np.arange(count))
    return starts[kept], np.add.reduceat(sums, kept)
