"""Charts as inline SVG: lines over a number, and marks in rows. Nothing is fetched and nothing is run."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from monoskd.report.markup import Html, Tone, element, escaped, joined
from monoskd.report.style import CHART, COLOURS, LINES

_WIDTH, _HEIGHT = 360, 220  # of a line chart [SVG units]; as wide as a phone, so that its letters stay readable there
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 20, 8, 36  # the last number across reaches half over the end
_LETTER = 6.2  # width of a letter, about [SVG units]
_ROW = 22  # height of a row [SVG units]
_NEXT_TO_0 = 1e-300  # below it floats lose their digits


@dataclass(frozen=True)
class Line:
    """The points of a line; it is broken where y is None or not finite."""

    x: Sequence[float]
    y: Sequence[float | None]

    def stretches(self) -> Iterator[list[tuple[float, float]]]:
        """The points between the breaks."""
        stretch: list[tuple[float, float]] = []
        for x, y in zip(self.x, self.y, strict=True):
            if y is not None and math.isfinite(y):
                stretch.append((x, y))
            elif stretch:
                yield stretch
                stretch = []
        if stretch:
            yield stretch


@dataclass(frozen=True)
class Mark:
    """A value in a row, with its interval if it has a finite one."""

    value: float
    interval: tuple[float, float] | None = None
    tone: Tone = "plain"


def line_chart(
    lines: Mapping[str, Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    standalone: bool = False,
) -> Html:
    """A figure with one line and one legend entry for each name. Without ranges the axes fit the points, y from 0.

    standalone: an SVG with its own colours and background, to be written to a file, names at the ends of the lines.
    """
    points = [point for line in lines.values() for stretch in line.stretches() for point in stretch]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    across = _Axis.over(x_range or _span(xs), start=_LEFT, end=_WIDTH - _RIGHT)
    up = _Axis.over(y_range or _span([0.0, *ys]), start=_HEIGHT - _BOTTOM, end=_TOP)
    parts = [*_rules_across(up, left=_LEFT, right=_WIDTH - _RIGHT), *_numbers(across, y=_HEIGHT - _BOTTOM + 14)]
    parts.append(_text((_WIDTH + _LEFT) / 2, _HEIGHT - 5, x_label))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(Html(f'<g transform="translate(11 {middle:g}) rotate(-90)">{_text(0, 0, y_label)}</g>'))
    for index, (name, line) in enumerate(lines.items()):
        parts += [_polyline(stretch, across, up, name=name, index=index) for stretch in line.stretches()]
    if standalone:
        parts += _names_at_ends(lines, across, up)
        width = _WIDTH + 4 + round(_LETTER * max(map(len, lines), default=0))
        return _svg(parts, width=width, height=_HEIGHT, label=title, standalone=True)
    svg = _svg(parts, width=_WIDTH, height=_HEIGHT, label=title)
    return element("figure", element("figcaption", escaped(title)), _legend(lines), svg)


def row_chart(
    marks: Mapping[str, Mark], *, x_label: str, bars: bool = False, width: int = 720, standalone: bool = False
) -> Html:
    """An SVG with a row for each name: a dot with its interval, or a bar from zero; and a line at zero.

    standalone: with its own colours and background, to be written to a file.
    """
    left = 14 + round(_LETTER * max(map(len, marks), default=0))
    ends = [end for mark in marks.values() for end in (mark.value, *(mark.interval or ())) if math.isfinite(end)]
    across = _Axis.over(_span([0.0, *ends]), start=left, end=width - 20, about=8)
    bottom = _ROW * len(marks) + 16
    parts = [*_rules_up(across, bottom=bottom), *_numbers(across, y=bottom + 16)]
    for index, (name, mark) in enumerate(marks.items()):
        y = 20 + _ROW * index
        parts.append(_text(left - 8, y + 4, name, anchor="end", kind="name"))
        parts += _bar(mark, across, y) if bars else _dot(mark, across, y)
    parts.append(_text((left + width) / 2, bottom + 36, x_label))
    return _svg(parts, width=width, height=bottom + 44, label=x_label, standalone=standalone)


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high], `about` of them, at 1, 2 or 5 times a power of ten.

    A range narrower than a billionth of its values counts as a single value, and what is next to 0 as 0.
    """
    if high - low <= max(1e-9 * max(abs(low), abs(high)), _NEXT_TO_0):
        high = low + (abs(low) if abs(low) > _NEXT_TO_0 else 1.0)
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Axis:
    """Places values in the drawing: the first tick at `start`, the last at `end` [SVG units]."""

    ticks: Sequence[float]
    start: float
    end: float

    @classmethod
    def over(cls, span: tuple[float, float], *, start: float, end: float, about: int = 5) -> "_Axis":
        return cls(ticks(*span, about=about), start, end)

    def __call__(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return self.start + share * (self.end - self.start)


def _span(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _rules_across(up: _Axis, *, left: float, right: float) -> Iterator[Html]:
    """A horizontal line and a number for each tick."""
    for tick in up.ticks:
        yield Html(f'<path class="rule" d="M{left:g} {up(tick):.1f}H{right:g}"/>')
        yield _text(left - 6, up(tick) + 4, f"{tick:g}", anchor="end")


def _rules_up(across: _Axis, *, bottom: float) -> Iterator[Html]:
    """A vertical line for each tick."""
    for tick in across.ticks:
        yield Html(f'<path class="{"zero" if tick == 0 else "rule"}" d="M{across(tick):.1f} 6V{bottom:g}"/>')


def _numbers(across: _Axis, *, y: float) -> Iterator[Html]:
    return (_text(across(tick), y, f"{tick:g}") for tick in across.ticks)


def _polyline(stretch: Sequence[tuple[float, float]], across: _Axis, up: _Axis, *, name: str, index: int) -> Html:
    """A stretch of a line; a single point becomes a dot, as the ends are round."""
    points = [f"{across(x):.1f},{up(y):.1f}" for x, y in stretch]
    ends = " ".join(points * 2 if len(points) == 1 else points)
    title = f"<title>{escaped(name)}</title>"
    return Html(f'<polyline class="line {_colour(index)}" points="{ends}">{title}</polyline>')


def _names_at_ends(lines: Mapping[str, Line], across: _Axis, up: _Axis) -> Iterator[Html]:
    """The lines' names to the right of their last points, apart where these are close together."""
    ends = {name: stretch[-1] for name, line in lines.items() for stretch in line.stretches()}
    last = -math.inf
    for name, (x, y) in sorted(ends.items(), key=lambda end: -end[1][1]):
        last = max(up(y) + 4, last + 12)
        yield _text(across(x) + 6, last, name, anchor="start", kind="name")


def _bar(mark: Mark, across: _Axis, y: float) -> Iterator[Html]:
    if math.isfinite(mark.value):
        yield _stroke(across, 0.0, mark.value, y, tone=mark.tone, width=10)


def _dot(mark: Mark, across: _Axis, y: float) -> Iterator[Html]:
    if mark.interval is not None and all(map(math.isfinite, mark.interval)):
        yield _stroke(across, *mark.interval, y, tone=mark.tone, width=2.5)
    if math.isfinite(mark.value):
        yield Html(f'<circle class="{mark.tone}" cx="{across(mark.value):.1f}" cy="{y:g}" r="4.5"/>')


def _stroke(across: _Axis, low: float, high: float, y: float, *, tone: Tone, width: float) -> Html:
    ends = f'x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y:g}" y2="{y:g}"'
    return Html(f'<line class="{tone}" {ends} stroke-width="{width:g}"/>')


def _text(x: float, y: float, words: str, *, anchor: str = "middle", kind: str = "") -> Html:
    class_ = f' class="{kind}"' if kind else ""
    return Html(f'<text{class_} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(words)}</text>')


def _legend(names: Iterable[str]) -> Html:
    keys = (
        element("span", element("span", kind=f"key {_colour(index)}"), escaped(name))
        for index, name in enumerate(names)
    )
    return element("p", *keys, kind="legend")


def _colour(index: int) -> str:
    return f"c{index % LINES}"


def _svg(parts: Iterable[Html], *, width: float, height: float, label: str, standalone: bool = False) -> Html:
    size = f'viewBox="0 0 {width:g} {height:g}"'
    own = ""
    if standalone:
        size += f' width="{width:g}"'
        own = f'<style>{COLOURS}{CHART}</style><rect width="100%" height="100%" style="fill: var(--paper)"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escaped(label)}">'
    return Html(f"{head}{own}{joined(parts)}</svg>")
