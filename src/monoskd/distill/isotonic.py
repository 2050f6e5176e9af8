"""Non-increasing isotonic regression without a loop over elements: which neighbours share a value.

A block [a, b) of a row has a numerator N(a, b) and a denominator D(a, b) > 0, both additive, and the value N / D. The
regression is the coarsest split of a row into blocks whose values decrease; its borders are the vertices of the least
concave majorant of the points (D(0, k), N(0, k)).

Two neighbouring solved stretches are joined by the one edge that touches both majorants; everything
below that edge becomes one block. A halving search finds all edges of a round at once. `block_starts` doubles stretches
of fixed length, so that no shape depends on the data and nothing waits for the device. docs/ranks.md has the proofs.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import pad


class Masses(Protocol):
    """N and D of a regression; a < b are indices of points (0..n) in the last axis."""

    def value(self, a: Tensor, b: Tensor) -> Tensor:
        """The value of block [a, b), in any increasing unit."""
        ...

    def numerator(self, a: Tensor, b: Tensor) -> Tensor:
        """N(a, b)."""
        ...

    def scaled(self, value: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """D(a, b) times a value in the unit of `value`."""
        ...


@dataclass(frozen=True)
class MeanMasses:
    """D is the number of elements, so that values are means. sums: N(0, k); positions: k."""

    sums: Float[Tensor, "*rows points"]
    positions: Float[Tensor, "*rows points"]

    def value(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean over [a, b)."""
        return self.numerator(a, b) / (self.positions.gather(-1, b) - self.positions.gather(-1, a))

    def numerator(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum over [a, b)."""
        return self.sums.gather(-1, b) - self.sums.gather(-1, a)

    def scaled(self, value: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Mean times length."""
        return value * (self.positions.gather(-1, b) - self.positions.gather(-1, a))


@dataclass(frozen=True)
class LogMasses:
    """D exceeds the range of a float, so values are logarithms. sums: N(0, k); logs: log D(0, k)."""

    sums: Float[Tensor, "rows points"]
    logs: Float[Tensor, "rows points"]

    def _log_denominator(self, a: Tensor, b: Tensor) -> Tensor:
        upper, lower = self.logs.gather(-1, b), self.logs.gather(-1, a)
        return upper + torch.log(-torch.expm1(lower - upper))

    def value(self, a: Tensor, b: Tensor) -> Tensor:
        """log(N / D) of [a, b)."""
        return self.numerator(a, b).log() - self._log_denominator(a, b)

    def numerator(self, a: Tensor, b: Tensor) -> Tensor:
        """N of [a, b)."""
        return self.sums.gather(-1, b) - self.sums.gather(-1, a)

    def scaled(self, value: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """exp(value) D(a, b)."""
        return torch.exp(value + self._log_denominator(a, b))


def join(
    masses: Masses, start: Tensor, stop: Tensor, *, low: Tensor, middle: Tensor, high: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The blocks (first, last) that join the solved stretches [low, middle) and [middle, high), many joins at once.

    start and stop (last axis: points) give the block around each point. low < middle < high are borders of blocks and
    the values on either side of middle do not decrease. Each step takes one block of either side and decides for
    one of them whether the joint block includes it: the tangents to the two majorants there, extended to middle, show
    which one (docs/ranks.md). steps: the bit lengths of the longest left and the longest right side, added.
    """
    first, first_high = low, start.gather(-1, middle - 1)
    last, last_high = stop.gather(-1, middle), high
    for _ in range(steps):
        left_open, right_open = first < first_high, last < last_high
        probe_left = torch.where(left_open, (first + first_high) >> 1, first)
        probe_right = torch.where(right_open, (last + last_high) >> 1, last - 1)
        left_start, left_stop = start.gather(-1, probe_left), stop.gather(-1, probe_left)
        right_start, right_stop = start.gather(-1, probe_right), stop.gather(-1, probe_right)
        left_value, right_value = masses.value(left_start, left_stop), masses.value(right_start, right_stop)
        left_reach = masses.scaled(left_value, left_start, middle) - masses.numerator(left_start, middle)
        right_reach = masses.numerator(middle, right_stop) - masses.scaled(right_value, middle, right_stop)
        violating = left_value <= right_value
        on_left = left_open & (~right_open | ((left_reach <= right_reach) == violating))
        on_right = right_open & ~on_left
        # Where one side is settled, the other is compared with the mean of all blocks included before it.
        swallow_left = torch.where(right_open, violating, left_value <= masses.value(left_stop, last))
        swallow_right = torch.where(left_open, violating, masses.value(first, right_start) <= right_value)
        first_high = torch.where(on_left & swallow_left, left_start, first_high)
        first = torch.where(on_left & ~swallow_left, left_stop, first)
        last = torch.where(on_right & swallow_right, right_stop, last)
        last_high = torch.where(on_right & ~swallow_right, right_start, last_high)
    return first, last


def block_starts(masses: Masses, points: Int64[Tensor, "rows points"]) -> Int64[Tensor, "rows n"]:
    """For each of the n elements of a row, where its block starts. points: 0..n of every row."""
    n = points.shape[-1] - 1
    start, stop = points, points + 1
    half = 1
    while half < n:
        middle = points[:, half : n : 2 * half]
        low, high = middle - half, (middle + half).clamp(max=n)
        left, right = start.gather(-1, middle - 1), stop.gather(-1, middle)
        violating = masses.value(left, middle) <= masses.value(middle, right)
        first, last = join(masses, start, stop, low=low, middle=middle, high=high, steps=2 * half.bit_length())
        last = torch.where(violating, last, first)  # an empty block where nothing is joined
        pair = (points // (2 * half)).clamp(max=middle.shape[-1] - 1)
        first, last = first.gather(-1, pair), last.gather(-1, pair)
        inside = (first <= points) & (points < last)
        start, stop = torch.where(inside, first, start), torch.where(inside, last, stop)
        half *= 2
    return start[:, :n]


HAS_TRITON = find_spec("triton") is not None


@torch.library.custom_op("monoskd::block_starts_of_means", mutates_args=(), schema="(Tensor sums) -> Tensor")
def _by_kernels(sums: Tensor) -> Tensor:
    """As `block_starts`, opaque to `torch.compile`."""
    from monoskd.distill.isotonic_triton import blocks_of_means

    return blocks_of_means(sums)[0][:, :-1].long()


@_by_kernels.register_fake
def _(sums: Tensor) -> Tensor:
    return sums.new_empty((len(sums), sums.shape[-1] - 1), dtype=torch.int64)


def _starts_of_means(
    sums: Float64[Tensor, "rows points"], points: Int64[Tensor, "rows points"]
) -> Int64[Tensor, "rows n"]:
    """`block_starts` of means, by the way that suits the device."""
    if sums.is_cuda and HAS_TRITON:
        starts: Tensor = _by_kernels(sums)
        return starts
    return block_starts(MeanMasses(sums, points.double()), points)


def project(
    values: Float[Tensor, "rows n"], strength: Float64[Tensor, "rows 1"], *, kl: bool
) -> tuple[Float64[Tensor, "rows n"], Int64[Tensor, "rows n"]]:
    """Soft ranks of ascending rows, and the position at which each value's block starts."""
    rows, n = values.shape
    points = torch.arange(n + 1, device=values.device).expand(rows, n + 1)
    target = points[:, 1:].double()
    # No block bridges a gap as wide as this (docs/ranks.md): narrowing it keeps the digits of the rest.
    widest = math.log(n) + 1 if kl else n / 2 + 1
    limit = torch.finfo(values.dtype).max
    theta = pad((values.clamp(-limit, limit).double().diff() / strength).clamp(max=widest), (1, 0)).cumsum(-1)

    def summed(mass: Tensor, start: Tensor) -> Tensor:
        return torch.zeros_like(mass).scatter_add_(-1, start, mass).gather(-1, start)

    if not kl:
        y = target - theta
        start = _starts_of_means(pad(y.cumsum(-1), (1, 0)), points)
        return theta + summed(y, start) / summed(torch.ones_like(y), start), start
    logs = pad(theta.logcumsumexp(-1), (1, 0), value=-math.inf)
    start = block_starts(LogMasses(pad(target.cumsum(-1), (1, 0)), logs), points)
    mass = (theta - theta.gather(-1, start)).exp()
    return mass * summed(target, start) / summed(mass, start), start
