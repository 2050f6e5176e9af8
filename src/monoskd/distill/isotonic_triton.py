"""`block_starts` of means for GPUs: the search of `isotonic.join` as one kernel a level instead of hundreds.

In single tensor operations a row of 30 720 values takes some six thousand launches, which is all that it costs.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float64, Int64
from torch import Tensor

_JOINS, _POINTS = 64, 1024  # to a program
_jit = triton.jit(do_not_specialize=["n", "pairs", "half", "steps"])  # or a row's levels compile one by one


@_jit  # type: ignore[untyped-decorator]
def _join(sums, start, stop, first, last, n, pairs, half, steps, JOINS: tl.constexpr):  # type: ignore[no-untyped-def]
    """`isotonic.join` of the stretches of length `half`; first and last (rows x pairs) are equal where none is due."""
    row = tl.program_id(1).to(tl.int64)
    sums, start, stop = sums + row * (n + 1), start + row * (n + 1), stop + row * (n + 1)
    pair = tl.program_id(0) * JOINS + tl.arange(0, JOINS)
    there = pair < pairs
    middle = tl.where(there, (2 * pair + 1) * half, 1)
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
    tl.store(first + row * pairs + pair, begin, mask=there)
    tl.store(last + row * pairs + pair, tl.where(due, end, begin), mask=there)


@_jit  # type: ignore[untyped-decorator]
def _mark(first, last, start, stop, n, pairs, half, POINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the joined blocks to all their points."""
    row = tl.program_id(1).to(tl.int64)
    point = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    pair = tl.minimum(point // (2 * half), pairs - 1)
    there = point < n
    begin = tl.load(first + row * pairs + pair, mask=there, other=0)
    end = tl.load(last + row * pairs + pair, mask=there, other=0)
    inside = there & (begin <= point) & (point < end)
    tl.store(start + row * (n + 1) + point, begin, mask=inside)
    tl.store(stop + row * (n + 1) + point, end, mask=inside)


def block_starts_of_means(sums: Float64[Tensor, "rows points"]) -> Int64[Tensor, "rows n"]:
    """`isotonic.block_starts` of `MeanMasses(sums, 0..n)`; sums[:, k]: of the first k of n values."""
    sums = sums.contiguous()
    rows, n = len(sums), sums.shape[-1] - 1
    start = torch.arange(n + 1, dtype=torch.int32, device=sums.device).repeat(rows, 1)
    stop = start + 1
    first, last = torch.empty(2, rows * (n // 2 + 1), dtype=torch.int32, device=sums.device)
    half = 1
    while half < n:
        pairs = len(range(half, n, 2 * half))
        steps = 2 * half.bit_length()
        _join[triton.cdiv(pairs, _JOINS), rows](sums, start, stop, first, last, n, pairs, half, steps, JOINS=_JOINS)
        _mark[triton.cdiv(n, _POINTS), rows](first, last, start, stop, n, pairs, half, POINTS=_POINTS)
        half *= 2
    return start[:, :n].long()
