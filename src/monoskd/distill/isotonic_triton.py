"""The blocks of `isotonic.block_starts` for GPUs, of means: in some ten launches instead of thousands.

A program solves a tile of a row, level by level, as the joins of a tile touch nothing else. Above that each level takes
two launches.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float64, Int32
from torch import Tensor

_TILE, _JOINS, _POINTS = 512, 64, 1024  # to a program; a power of 2 each
jit = triton.jit(do_not_specialize=["n", "pairs", "half", "steps"])  # or a row's levels compile one by one


@triton.jit
def row_and_part(parts):  # type: ignore[no-untyped-def]
    """Of which row, and which part of it, this program is; on one axis, as CUDA takes few programs on the others."""
    return (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts


@triton.jit
def _joined(sums, start, stop, middle, there, half, n, steps):  # type: ignore[no-untyped-def]
    """`isotonic.join` of the stretches of length `half` on either side of `middle`; an empty block where none is due.

    Where not `there`, any middle in 1..n-1 will do.
    """
    at_middle = tl.load(sums + middle)
    left, right = tl.load(start + middle - 1), tl.load(stop + middle)
    left_mean = (at_middle - tl.load(sums + left)) / (middle - left).to(tl.float64)
    right_mean = (tl.load(sums + right) - at_middle) / (right - middle).to(tl.float64)
    due = there & (left_mean <= right_mean)
    begin, begin_high = tl.where(due, middle - half, left), left
    end, end_high = right, tl.where(due, tl.minimum(middle + half, n), right)
    for _ in range(steps):
        left_open, right_open = begin < begin_high, end < end_high
        probe_left = tl.where(left_open, (begin + begin_high) >> 1, begin)
        probe_right = tl.where(right_open, (end + end_high) >> 1, end - 1)
        a, b = tl.load(start + probe_left), tl.load(stop + probe_left)
        c, d = tl.load(start + probe_right), tl.load(stop + probe_right)
        at_a, at_b, at_c, at_d = tl.load(sums + a), tl.load(sums + b), tl.load(sums + c), tl.load(sums + d)
        left_value = (at_b - at_a) / (b - a).to(tl.float64)
        right_value = (at_d - at_c) / (d - c).to(tl.float64)
        left_reach = left_value * (middle - a).to(tl.float64) - (at_middle - at_a)
        right_reach = (at_d - at_middle) - right_value * (d - middle).to(tl.float64)
        violating = left_value <= right_value
        on_left = left_open & (~right_open | ((left_reach <= right_reach) == violating))
        on_right = right_open & ~on_left
        ahead = (tl.load(sums + end) - at_b) / (end - b).to(tl.float64)
        behind = (at_c - tl.load(sums + begin)) / (c - begin).to(tl.float64)
        swallow_left = tl.where(right_open, violating, left_value <= ahead)
        swallow_right = tl.where(left_open, violating, behind <= right_value)
        begin_high = tl.where(on_left & swallow_left, a, begin_high)
        begin = tl.where(on_left & ~swallow_left, b, begin)
        end = tl.where(on_right & swallow_right, d, end)
        end_high = tl.where(on_right & ~swallow_right, c, end_high)
    return begin, tl.where(due, end, begin)


@triton.jit
def _marked(first, last, start, stop, point, there):  # type: ignore[no-untyped-def]
    """Write a joined block to a point of it. first, last, there: by point, of the pair that it belongs to."""
    begin, end = tl.load(first, mask=there, other=0), tl.load(last, mask=there, other=0)
    inside = there & (begin <= point) & (point < end)
    tl.store(start + point, begin, mask=inside)
    tl.store(stop + point, end, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _level(sums, start, stop, first, last, origin, n, level, TILE: tl.constexpr, JOINS: tl.constexpr):  # type: ignore[no-untyped-def]
    """One level inside the tile that begins at `origin`; JOINS: at least as many as it has there."""
    half = 1 << level
    inside = (2 * tl.arange(0, JOINS) + 1) * half
    there = (inside < TILE) & (origin + inside < n)
    middle = tl.where(there, origin + inside, 1)
    begin, end = _joined(sums, start, stop, middle, there, half, n, 2 * level + 2)
    tl.store(first + tl.arange(0, JOINS), begin)
    tl.store(last + tl.arange(0, JOINS), end)
    tl.debug_barrier()  # the points of a join belong to other threads
    point = tl.arange(0, TILE)
    own = point // (2 * half)
    _marked(first + own, last + own, start, stop, origin + point, origin + (2 * own + 1) * half < n)
    tl.debug_barrier()


@jit  # type: ignore[untyped-decorator]
def _solve_tile(sums, start, stop, first, last, n, TILE: tl.constexpr, LEVELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """All levels inside a tile; first and last (tiles x TILE / 2) hand the joins to the points."""
    row, tile = row_and_part(tl.cdiv(n, TILE))
    sums, start, stop = sums + row * (n + 1), start + row * (n + 1), stop + row * (n + 1)
    own = tl.program_id(0).to(tl.int64) * (TILE // 2)
    first, last, origin = first + own, last + own, tile * TILE
    _level(sums, start, stop, first, last, origin, n, 0, TILE, TILE // 2)
    _level(sums, start, stop, first, last, origin, n, 1, TILE, TILE // 4)
    for level in range(2, LEVELS):
        _level(sums, start, stop, first, last, origin, n, level, TILE, TILE // 8)


@jit  # type: ignore[untyped-decorator]
def _join(sums, start, stop, first, last, n, pairs, half, steps, JOINS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The joins of one level; first, last: rows x pairs."""
    row, part = row_and_part(tl.cdiv(pairs, JOINS))
    pair = part * JOINS + tl.arange(0, JOINS)
    there = pair < pairs
    sums, start, stop = sums + row * (n + 1), start + row * (n + 1), stop + row * (n + 1)
    begin, end = _joined(sums, start, stop, tl.where(there, (2 * pair + 1) * half, 1), there, half, n, steps)
    tl.store(first + row * pairs + pair, begin, mask=there)
    tl.store(last + row * pairs + pair, end, mask=there)


@jit  # type: ignore[untyped-decorator]
def _mark(first, last, start, stop, n, pairs, half, POINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the joined blocks of one level to all their points."""
    row, part = row_and_part(tl.cdiv(n, POINTS))
    point = part * POINTS + tl.arange(0, POINTS)
    own = row * pairs + tl.minimum(point // (2 * half), pairs - 1)
    _marked(first + own, last + own, start + row * (n + 1), stop + row * (n + 1), point, point < n)


def blocks_of_means(
    sums: Float64[Tensor, "rows points"], *, tile: int = _TILE
) -> tuple[Int32[Tensor, "rows points"], Int32[Tensor, "rows points"]]:
    """Where the block of each value starts and where it stops, as `isotonic.block_starts` of `MeanMasses(sums, 0..n)`.

    sums[:, k]: of the first k of n values; so there is one more point than values. tile: a power of 2, at least 8.
    """
    sums = sums.contiguous()
    rows, n = len(sums), sums.shape[-1] - 1
    start = torch.arange(n + 1, dtype=torch.int32, device=sums.device).repeat(rows, 1)
    stop = start + 1
    tiles = triton.cdiv(n, tile)
    first, last = torch.empty(2, rows * tiles * (tile // 2), dtype=torch.int32, device=sums.device)
    levels = tile.bit_length() - 1
    _solve_tile[(rows * tiles,)](sums, start, stop, first, last, n, TILE=tile, LEVELS=levels, num_warps=2)
    half = tile
    while half < n:
        pairs = len(range(half, n, 2 * half))
        steps = 2 * half.bit_length()
        _join[(rows * triton.cdiv(pairs, _JOINS),)](sums, start, stop, first, last, n, pairs, half, steps, JOINS=_JOINS)
        _mark[(rows * triton.cdiv(n, _POINTS),)](first, last, start, stop, n, pairs, half, POINTS=_POINTS)
        half *= 2
    return start, stop
