import math
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monoskd.report.chart import Line, Mark, line_chart, row_chart, ticks

SVG = "{http://www.w3.org/2000/svg}"


def drawing(html: str) -> ElementTree.Element:
    """The chart's SVG, which must be well-formed XML."""
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def chart(lines: dict[str, Line], **ranges: tuple[float, float]) -> str:
    return line_chart(lines, title="loss", x_label="step", y_label="L", **ranges)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6) | st.floats(1e-14, 1e-6), st.integers(2, 10))
def test_ticks_are_equal_steps_that_cover_the_range(low: float, span: float, about: int) -> None:
    values = ticks(low, low + span, about=about)
    step = (values[-1] - values[0]) / (len(values) - 1)
    assert 2 <= len(values) <= 2 * about + 3
    assert np.diff(values) == pytest.approx(step, rel=1e-2)
    slack = 1e-6 * step + 1e-9 * abs(low)
    assert values[0] - slack <= low <= low + span <= values[-1] + slack


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 7, [-4, -2, 0, 2, 4, 6, 8]),
        (0, 4e-14, [0, 1e-14, 2e-14, 3e-14, 4e-14]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (5e-324, 1e-323, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_a_line_runs_from_corner_to_corner_of_its_ranges() -> None:
    svg = drawing(chart({"a": Line([0, 1], [0, 1])}, x_range=(0, 1), y_range=(0, 1)))
    grid = [path.attrib["d"] for path in svg.findall(f"{SVG}path")]
    line = svg.findall(f"{SVG}polyline")
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line[0].attrib["points"].split())
    assert grid[0] == f"M{x0:g} {y0:.1f}H{x1:g}"
    assert grid[-1] == f"M{x0:g} {y1:.1f}H{x1:g}"


def test_a_line_breaks_where_there_is_no_value_and_a_lone_point_is_a_dot() -> None:
    svg = drawing(chart({"a": Line([0, 1, 2, 3, 4, 5], [1, 2, None, 3, math.nan, math.inf])}))
    stretches = [line.attrib["points"].split() for line in svg.findall(f"{SVG}polyline")]
    assert [len(points) for points in stretches] == [2, 2]
    assert stretches[1][0] == stretches[1][1]


@pytest.mark.parametrize("lines", [{}, {"a": Line([], [])}, {"a": Line([3], [math.nan])}, {"a": Line([3], [0])}])
def test_little_or_nothing_still_is_a_chart(lines: dict[str, Line]) -> None:
    assert len(drawing(chart(lines)).findall(f"{SVG}path")) >= 2


def test_every_line_is_named_and_names_are_words() -> None:
    html = chart({f"<{index}>": Line([0, 1], [index, index]) for index in range(9)})
    drawing(html)
    assert html.count('class="key') == 9
    assert "<8>" not in html
    assert html.count("&lt;8&gt;") == 2


def test_a_row_has_its_dot_its_interval_and_its_colour() -> None:
    marks = {"a": Mark(1, (0.5, 1.5), "good"), "b": Mark(-2, (-math.inf, math.inf)), "c": Mark(math.nan)}
    svg = drawing(row_chart(marks, x_label="AP"))
    assert [text.text for text in svg.findall(f"{SVG}text[@class='name']")] == ["a", "b", "c"]
    assert [dot.attrib["class"] for dot in svg.findall(f"{SVG}circle")] == ["good", "plain"]
    (interval,) = svg.findall(f"{SVG}line")
    dot = svg.find(f"{SVG}circle")
    assert dot is not None
    middle = (float(interval.attrib["x1"]) + float(interval.attrib["x2"])) / 2
    assert float(dot.attrib["cx"]) == pytest.approx(middle, abs=0.1)


def test_bars_begin_at_zero() -> None:
    svg = drawing(row_chart({"a": Mark(0.5), "b": Mark(-0.25)}, x_label="share", bars=True))
    (zero,) = svg.findall(f"{SVG}path[@class='zero']")
    starts = [bar.attrib["x1"] for bar in svg.findall(f"{SVG}line")]
    assert starts == [zero.attrib["d"].split()[0].removeprefix("M")] * 2


def test_a_file_of_its_own_brings_its_colours() -> None:
    alone, inline = (row_chart({"a": Mark(1)}, x_label="AP", standalone=alone) for alone in (True, False))
    assert "prefers-color-scheme: dark" in alone
    assert "<style>" not in inline
    drawing(alone)


def test_lines_of_a_file_of_their_own_have_their_names_at_their_ends_apart() -> None:
    lines = {"low": Line([0, 1], [0.0, 1.0]), "lower": Line([0, 1], [0.0, 0.99]), "high": Line([0, 1], [0.0, 5.0])}
    svg = drawing(line_chart(lines, title="AP", x_label="step", y_label="AP", standalone=True))
    names = {text.text: float(text.attrib["y"]) for text in svg.findall(f"{SVG}text[@class='name']")}
    assert list(names) == ["high", "low", "lower"]
    heights = sorted(names.values())
    assert all(below - above >= 12 for above, below in pairwise(heights))
