"""Pooling on a CPU: what isotonic.py does, in numpy, on what is still undecided only.

All functions take a few rows at a time that fit the cache, and none loops over elements. Blocks of all rows are laid
end to end and known by `ends`, the position of the last value of each, counted through the rows. Some steps look odd
for speed: `take` at the indices of what is kept is several times faster than indexing by a mask, and torch's running
sum than numpy's.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from monoskd.distill.isotonic import MeanMasses, join

Floats = NDArray[np.float32] | NDArray[np.float64]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

# Passes over all blocks, then over the borders that still violate; then stretches are joined.
_PASSES = 3
_BORDER_PASSES = 24
# A row of range up to this times n is summed by one running sum; beyond, rounding could show in a rank.
_SAFE_RANGE = 64.0


def largest_blocks(x: Floats, strength: F64) -> I64:
    """How many values the largest block of each row holds. strength: rows x 1."""
    values: Floats = np.sort(x, axis=-1)  # type: ignore[assignment]
    ends, lengths, _ = pool(reduced(values, strength))
    largest: I64 = np.maximum.reduceat(lengths, _row_heads(ends, values.shape[-1]))
    return largest


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


def pool(theta: F64) -> tuple[I64, I64, F64]:
    """Ends, lengths and values of the blocks of the non-increasing regression of (1..n) - theta, theta ascending rows.

    theta is overwritten.
    """
    rows, n = theta.shape
    running = bool((theta[:, -1] <= _SAFE_RANGE * n).all())
    y = np.subtract(np.arange(1.0, n + 1), theta, out=theta)
    apart = np.empty((rows, n), np.bool_)
    np.greater(y[:, :-1], y[:, 1:], out=apart[:, :-1])
    apart[:, -1] = True
    ends, flat = np.flatnonzero(apart), y.ravel()
    if running:
        torch.from_numpy(flat).cumsum_(0)
    for _ in range(_PASSES):
        lengths, sums = _measure(flat, ends, running=running)
        ends = ends.take(np.flatnonzero(_apart(ends, lengths, sums, n)), mode="clip")
    lengths, sums = _measure(flat, ends, running=running)
    return _pool_borders(ends, lengths, sums, n)


def members(ends: I64, shape: tuple[int, ...]) -> I32:
    """The block of each value of rows, counted through the rows."""
    first = np.zeros(shape, np.bool_)
    first.ravel()[ends[:-1] + 1] = True
    return np.cumsum(first, dtype=np.int32).reshape(shape)


def with_nan(values: Floats) -> NDArray[np.bool_]:
    """Which sorted rows hold a NaN: it comes last or, with its sign set, may come first."""
    return np.isnan(values[:, 0]) | np.isnan(values[:, -1])


def _measure(y: F64, ends: I64, *, running: bool) -> tuple[I64, F64]:
    """The lengths and sums of blocks, from y or, if running, from its running sum."""
    lengths = np.diff(ends, prepend=-1)
    if running:
        return lengths, np.diff(y.take(ends, mode="clip"), prepend=0.0)
    return lengths, np.add.reduceat(y, ends + 1 - lengths)


def _apart(ends: I64, lengths: I64, sums: F64, n: int) -> NDArray[np.bool_]:
    """Which blocks have a value above that of the next, or are the last of their row."""
    values = sums / lengths
    apart = np.empty(len(values), np.bool_)
    np.greater(values[:-1], values[1:], out=apart[:-1])
    apart[_row_heads(ends, n) - 1] = True
    return apart


def _row_heads(ends: I64, n: int) -> I64:
    """The first block of each row."""
    return np.searchsorted(ends, np.arange(0, ends[-1], n))


def _pool_borders(ends: I64, lengths: I64, sums: F64, n: int) -> tuple[I64, I64, F64]:
    """Pool until no neighbours violate, looking only at borders whose blocks have changed.

    A border is known by the block after it. `before` and `after` lead from a block to its neighbours.
    """
    count = len(ends)
    border = np.flatnonzero(~_apart(ends, lengths, sums, n)) + 1
    if not len(border):
        return ends, lengths, sums / lengths
    between_rows = _row_heads(ends, n)
    before: I32 = np.arange(-1, count, dtype=np.int32)
    after: I32 = np.arange(1, count + 2, dtype=np.int32)
    fixed, alive = np.zeros(count + 1, np.bool_), np.ones(count, np.bool_)
    fixed[between_rows] = fixed[count] = True
    for _ in range(_BORDER_PASSES):
        new_run = np.append(True, before[border[1:]] != border[:-1])
        runs = np.flatnonzero(new_run)
        head, tail = before[border[runs]], after[border[np.append(runs[1:], len(border)) - 1]]
        sums[head] += np.add.reduceat(sums[border], runs)
        lengths[head] += np.add.reduceat(lengths[border], runs)
        alive[border] = False
        after[head], before[tail] = tail, head
        touched = np.column_stack((head, tail)).ravel()
        touched = touched[np.append(True, touched[1:] != touched[:-1])]
        touched = touched[~fixed[touched]]
        left = before[touched]
        border = touched[sums[left] / lengths[left] <= sums[touched] / lengths[touched]]
        if not len(border):
            break
    head = np.flatnonzero(alive).astype(np.int32)
    ends = ends.take(after.take(head) - 1)
    lengths, sums = lengths.take(head), sums.take(head)
    if len(border):
        ends, lengths, sums = _join_stretches(ends, lengths, sums, np.searchsorted(head, border), n)
    return ends, lengths, sums / lengths


def _join_stretches(ends: I64, lengths: I64, sums: F64, border: I64, n: int) -> tuple[I64, I64, F64]:
    """Join the stretches between violating borders, every other border at once, until none is left.

    Each round halves the number of borders, so there are at most log2(len(border)) + 1.
    """
    count = len(ends)
    row_heads = np.append(_row_heads(ends, n), count)
    masses = MeanMasses(
        sums=torch.from_numpy(np.append(0.0, sums.cumsum())),
        positions=torch.from_numpy(np.append(0.0, ends + 1.0)),
    )
    start, stop = torch.arange(count + 1), torch.arange(1, count + 2)
    while len(border):
        row = np.searchsorted(row_heads, border, side="right")
        low = np.maximum(row_heads[row - 1], np.append(0, border[:-1]))[::2]
        high = np.minimum(row_heads[row], np.append(border[1:], count))[::2]
        middle = border[::2]
        steps = sum(int(side.max()).bit_length() for side in (middle - low, high - middle))
        edges = {"low": low, "middle": middle, "high": high}
        lanes = {name: torch.from_numpy(np.ascontiguousarray(edge)) for name, edge in edges.items()}
        first, last = join(masses, start, stop, steps=steps, **lanes)
        width = last - first
        inside = torch.arange(int(width.sum())) + (first - width.cumsum(0) + width).repeat_interleave(width)
        start[inside], stop[inside] = first.repeat_interleave(width), last.repeat_interleave(width)
        border = border[1::2]
    head = np.flatnonzero(start[:-1].numpy() == np.arange(count))
    ends = ends[stop.numpy()[head] - 1]
    return ends, np.diff(ends, prepend=-1), np.add.reduceat(sums, head)
