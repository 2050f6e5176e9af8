"""Sorting and pooling on a CPU: what isotonic.py does, in numpy, on what is still undecided only.

numpy sorts plain numbers with vector instructions, several times faster than `torch.sort` sorts numbers with indices.
All functions take a few rows at a time that fit the cache, and none loops over elements. Blocks of all rows are laid
end to end and known by `ends`, the position of the last value of each, counted through the rows. Some steps look odd
for speed: `take` at the indices of what is kept is several times faster than indexing by a mask, and torch's running
sums than numpy's.
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
# As upper half of a float64 these are neither subnormal nor infinite nor NaN, whatever the lower half.
_LEAST_EXPONENT = np.int32(1 << 20)
_NAN_BITS = np.float32(np.nan).view(np.int32)


def sort_rows(x: Floats, order: I64) -> Floats:
    """Each row ascending; `order` receives where each value came from. Rows with a NaN end or begin with one."""
    if x.dtype != np.float32 or x.shape[-1] >= 2**31:
        order[:] = np.argsort(x, axis=-1)
        values: Floats = np.take_along_axis(x, order, axis=-1)  # type: ignore[assignment]
        return values
    # A float64 whose upper half is a float32 (shifted away from exponent 0) and whose lower half is the index: of all
    # 8-byte numbers vector instructions sort floats fastest.
    bits = (x + np.float32(0)).view(np.int32)  # -0 becomes 0
    missing = np.isnan(x)
    if missing.any():
        bits[missing] = _NAN_BITS
    bits += _LEAST_EXPONENT
    np.left_shift(bits, 32, out=order, dtype=np.int64)
    order |= np.arange(x.shape[-1])
    order.view(np.float64).sort(axis=-1)
    np.right_shift(order, 32, out=bits, casting="unsafe")
    order &= 0xFFFFFFFF
    bits -= _LEAST_EXPONENT
    return bits.view(np.float32)


def ascending_ranks(values: Floats, ranks: Floats) -> None:
    """Fill `ranks` with those of ascending rows, ties averaged; a row with a NaN has NaN ranks."""
    rows, n = values.shape
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
    ranks[_with_nan(values)] = np.nan


def _with_nan(values: Floats) -> NDArray[np.bool_]:
    """Which sorted rows hold a NaN."""
    return np.isnan(values[:, 0]) | np.isnan(values[:, -1])


def ascending_soft_ranks(values: Floats, strength: F64, ranks: Floats | None, block: I32, scratch: F64) -> I64:
    """Fill `ranks` (unless None) with the soft ranks of ascending rows and `block` with the block of each value.

    Returns how many values each block holds. strength: rows x 1. scratch: 2 x rows x n, half of it if ranks is None.
    """
    theta, y = reduced(values, strength, scratch[0]), scratch[-1]
    ends, lengths, shift = pool(theta, y)
    first = np.zeros(theta.size, np.bool_)
    first[ends[:-1] + 1] = True
    np.cumsum(first, out=block.ravel())
    if ranks is not None:
        theta += shift.take(block, out=y, mode="clip")
        ranks[:] = theta
        ranks[_with_nan(values)] = np.nan
    return lengths


def largest_blocks(x: Floats, strength: F64) -> I64:
    """How many values the largest block of each row holds. strength: rows x 1."""
    values: Floats = np.sort(x, axis=-1)  # type: ignore[assignment]
    theta = reduced(values, strength, np.empty(x.shape))
    ends, lengths, _ = pool(theta, theta)
    largest: I64 = np.maximum.reduceat(lengths, _row_heads(ends, x.shape[-1]))
    return largest


def reduced(values: Floats, strength: F64, theta: F64) -> F64:
    """Ascending values / strength, from 0, without the width of gaps that no block bridges (docs/ranks.md)."""
    n = values.shape[-1]
    if not np.isfinite(values[:, [0, -1]]).all():
        limit = np.finfo(values.dtype).max
        values = values.clip(-limit, limit)
    np.subtract(values, values[:, :1], out=theta, dtype=np.float64)
    scale = 1 / strength
    if not (theta[:, -1:] * scale <= _SAFE_RANGE * n).all():
        np.subtract(values[:, 1:], values[:, :-1], out=theta[:, 1:], dtype=np.float64)
        theta *= scale
        np.minimum(theta, n / 2 + 1, out=theta)
        return np.cumsum(theta, axis=1, out=theta)
    theta *= scale
    return theta


def pool(theta: F64, y: F64) -> tuple[I64, I64, F64]:
    """Ends, lengths and values of the blocks of the non-increasing regression of (1..n) - theta, theta ascending rows.

    y: where the regressand may be written; theta itself, if it is not needed any more.
    """
    rows, n = theta.shape
    running = bool((theta[:, -1] <= _SAFE_RANGE * n).all())
    np.subtract(np.arange(1.0, n + 1), theta, out=y)
    apart = np.empty((rows, n), np.bool_)
    np.greater(y[:, :-1], y[:, 1:], out=apart[:, :-1])
    apart[:, -1] = True
    ends, flat = np.flatnonzero(apart), y.ravel()
    if running:
        torch.from_numpy(flat).cumsum_(0)
    for _ in range(_PASSES):
        lengths, sums = _measure(flat, ends, running=running)
        ends = ends.take(_kept(ends, sums / lengths, n), mode="clip")
    lengths, sums = _measure(flat, ends, running=running)
    return _pool_borders(ends, lengths, sums, n)


def _measure(y: F64, ends: I64, *, running: bool) -> tuple[I64, F64]:
    """The lengths and sums of blocks, from y or, if running, from its running sum."""
    lengths = np.diff(ends, prepend=-1)
    if running:
        return lengths, np.diff(y.take(ends, mode="clip"), prepend=0.0)
    return lengths, np.add.reduceat(y, ends + 1 - lengths)


def _kept(ends: I64, values: F64, n: int) -> I64:
    """Where the blocks are whose value lies above that of the next, and the last of each row."""
    keep = np.empty(len(values), np.bool_)
    np.greater(values[:-1], values[1:], out=keep[:-1])
    keep[_row_heads(ends, n) - 1] = True
    return np.flatnonzero(keep)


def _row_heads(ends: I64, n: int) -> I64:
    """The first block of each row."""
    return np.searchsorted(ends, np.arange(0, ends[-1], n))


def _pool_borders(ends: I64, lengths: I64, sums: F64, n: int) -> tuple[I64, I64, F64]:
    """Pool until no neighbours violate, looking only at borders whose blocks have changed.

    A border is known by the block after it. `before` and `after` lead from a block to its neighbours.
    """
    count = len(ends)
    values = sums / lengths
    between_rows = _row_heads(ends, n)
    violating = values[:-1] <= values[1:]
    violating[between_rows[1:] - 1] = False
    border = np.flatnonzero(violating) + 1
    if not len(border):
        return ends, lengths, values
    before, after = np.arange(-1, count), np.arange(1, count + 2)
    fixed, alive = np.zeros(count + 1, np.bool_), np.ones(count, np.bool_)
    fixed[between_rows] = fixed[count] = True
    lengths = lengths.copy()
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
    head = np.flatnonzero(alive)
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
