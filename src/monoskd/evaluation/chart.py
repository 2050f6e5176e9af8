"""Line charts as inline SVG, for pages that must open without a network."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLOURS = ("#1f6feb", "#d1495b", "#2a9d5c", "#b7791f", "#6f42c1", "#0f8b8d", "#8c564b", "#57606a")
_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 50, 42
_LETTER = 6.2  # px of a legend's letter, about


@dataclass(frozen=True)
class Curve:
    """Points of one line; a y that is None or not finite breaks it."""

    x: Sequence[float]
    y: Sequence[float | None]


def line_chart(
    curves: Mapping[str, Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
) -> str:
    """An SVG of 520 x 300 with one line and one legend entry a curve. y_range: fitted to the points if not given."""
    points = [(x, y) for curve in curves.values() for x, y in zip(curve.x, curve.y, strict=True) if _drawable(y)]
    xs = [x for x, _ in points] or [0.0, 1.0]
    ys = [y for _, y in points if y is not None] or [0.0, 1.0]
    x_ticks = ticks(min(xs), max(xs))
    y_ticks = ticks(*(y_range or (min(0.0, *ys), max(ys))))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text x="{_LEFT}" y="18" class="title">{html.escape(title)}</text>']
    for tick in x_ticks:
        u, v = place(tick, y_ticks[0])
        parts.append(f'<text x="{u:.1f}" y="{v + 15:.1f}" text-anchor="middle">{tick:g}</text>')
    for tick in y_ticks:
        u, v = place(x_ticks[0], tick)
        parts.append(f'<line x1="{u:.1f}" x2="{_WIDTH - _RIGHT}" y1="{v:.1f}" y2="{v:.1f}" stroke="#d8dee4"/>')
        parts.append(f'<text x="{u - 6:.1f}" y="{v + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text x="{(_WIDTH + _LEFT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>'
    )
    at = float(_LEFT)
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        for run in _unbroken(curve):
            path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in run)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(f'<line x1="{at:.0f}" x2="{at + 16:.0f}" y1="34" y2="34" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{at + 21:.0f}" y="38">{html.escape(name)}</text>')
        at += 36 + _LETTER * len(name)
    style = "font: 11px system-ui, sans-serif; fill: #24292f"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{html.escape(title)}" '
        f'style="{style}"><style>.title {{ font-weight: 600; font-size: 13px }}</style>{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high], `about` of them, at 1, 2 or 5 times a power of ten."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _drawable(y: float | None) -> bool:
    return y is not None and math.isfinite(y)


def _unbroken(curve: Curve) -> list[list[tuple[float, float]]]:
    """The stretches of a curve between its missing points."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(curve.x, curve.y, strict=True):
        if y is not None and math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
