"""The study's results as JSON, and as tables and figures in docs/study.md."""

import html
import json
import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

SCHEMA = "monoskd/study/1"
CONFIDENCE = 0.95
AP, BEV, DEPTH = "Car 3d 0.5", "Car bev 0.5", "depth median"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and its 95 % interval; `low` and `high` are infinite for a single pair."""

    mean: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> "Difference":
        """values[i] - others[i], the same seed at the same place (Student's t)."""
        differences = np.subtract(values, others)
        pairs, mean = len(differences), float(np.mean(differences))
        if pairs < 2:
            return cls(mean, -np.inf, np.inf, pairs)
        quantile = float(student_t.ppf((1 + CONFIDENCE) / 2, pairs - 1))
        half = quantile * float(np.std(differences, ddof=1)) / pairs**0.5
        return cls(mean, mean - half, mean + half, pairs)

    def __str__(self) -> str:
        if self.pairs < 2:
            return f"{self.mean:+.2f}"
        text = f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"
        return f"**{text}**" if self.low > 0 or self.high < 0 else text


def gains(rows: Sequence[Row], cells: Mapping[str, Any]) -> str:
    """A line a cell: what it reached and how far that is from its control."""
    lines = []
    for name in (name for name, cell in cells.items() if cell["control"] != name):
        if difference := compared(rows, name, cells[name]["control"], AP):
            lines.append(f"{name:<18} AP3D@0.5 {_mean_of(rows, name, AP)}, to the control {difference}")
    return "\n".join(lines)


def write_study(
    rows: Sequence[Row],
    timed: Sequence[Row],
    record: Mapping[str, Any],
    *,
    cells: Mapping[str, Any],
    json_file: Path,
    docs: Path,
) -> None:
    """Add these runs to `json_file`, and write the generated parts of `docs`/study.md with their figures.

    timed: runs with nothing beside them. record: what the runs were made with.
    """
    document = merged(json.loads(json_file.read_text()), rows, timed, record) | {"cells": cells}
    json_file.write_text(json.dumps(document, indent=1) + "\n")
    rows, timed = document["rows"], document["timed"]
    distinct = {name: cell for name, cell in cells.items() if cell["distinct"]}  # the others read much the same
    blocks = {
        "start": starting_points(rows),
        "labels": labels_table(rows),
        "flight": flight_table(rows, distinct),
        "cost": cost_table(timed, cells),
        "twice": against_twice(rows, cells),
    }
    figures = {
        "3": bar_plot(gradient_shares(rows, distinct), x_label="share of the gradient at the student's features")
    }
    figures["4"] = bar_plot(slower_than_control(timed, cells), x_label="time of a step, times the control's")
    for question in (1, 2):
        names = [name for name, cell in cells.items() if cell["question"] == question and cell["control"] != name]
        found = {name: compared(rows, name, cells[name]["control"], AP) for name in names}
        found = {name: one for name, one in found.items() if one is not None}
        figures[str(question)] = dot_plot(
            found, x_label="Car AP3D at overlap 0.5, moderate: difference to the control of the same seed"
        )
        blocks[str(question)] = comparison_table(rows, found, cells)
    page = docs / "study.md"
    text = page.read_text()
    for name, block in blocks.items():
        text = replaced(text, name, block)
    page.write_text(text)
    for name, figure in figures.items():
        (docs / f"study_{name}.svg").write_text(figure)


def merged(
    before: Mapping[str, Any], rows: Sequence[Row], timed: Sequence[Row], record: Mapping[str, Any]
) -> dict[str, Any]:
    """The recorded results with other or further seeds: all runs of a seed are of one session."""
    seeds = sorted({row["seed"] for row in rows})
    sessions = [one for one in before["sessions"] if not set(one["seeds"]) & set(seeds)]
    kept = {key: [row for row in before[key] if row["seed"] not in seeds] for key in ("rows", "timed")}
    return {
        "schema": SCHEMA,
        "sessions": [*sessions, {"seeds": seeds, "command": command_of(rows), **record}],
        "rows": [*kept["rows"], *rows],
        "timed": [*kept["timed"], *timed],
    }


def command_of(rows: Sequence[Row]) -> str:
    """The command that makes these runs again."""
    seeds = sorted({row["seed"] for row in rows})
    names = [name for name in dict.fromkeys(row["cell"] for row in rows) if name not in ("teacher", "baseline")]
    return " ".join(["python benchmarks/study.py --seeds", *map(str, seeds), "--cells", *names])


def replaced(page: str, name: str, block: str) -> str:
    """The page with another generated part of that name."""
    pattern = re.compile(rf"(<!-- study:{name} -->\n).*?(<!-- /study -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"docs/study.md: expected a part `<!-- study:{name} -->` ... `<!-- /study -->`, found none")
    return pattern.sub(lambda found: f"{found[1]}\n{block}\n\n{found[2]}", page)


def by_seed(rows: Sequence[Row], name: str) -> dict[int, Row]:
    """The runs of one cell."""
    return {row["seed"]: row for row in rows if row["cell"] == name}


def compared(rows: Sequence[Row], name: str, other: str, measure: str) -> Difference | None:
    """A cell against another, most often its control; None where no seed has both."""
    own, control = by_seed(rows, name), by_seed(rows, other)
    seeds = sorted(own.keys() & control.keys())
    if not seeds:
        return None
    return Difference.of([own[seed][measure] for seed in seeds], [control[seed][measure] for seed in seeds])


def comparison_table(rows: Sequence[Row], found: Mapping[str, Difference], cells: Mapping[str, Any]) -> str:
    """Recipes against their controls: precision and depth error."""
    lines = []
    for control in dict.fromkeys(cells[name]["control"] for name in found):
        lines.append(f"| {control} | {_mean_of(rows, control, AP)} | | {_mean_of(rows, control, DEPTH, 2)} | |")
        for name, difference in found.items():
            if cells[name]["control"] == control:
                depth = compared(rows, name, cells[name]["control"], DEPTH)
                lines.append(
                    f"| {name} ({difference.pairs}) | {_mean_of(rows, name, AP)} | {difference} | "
                    f"{_mean_of(rows, name, DEPTH, 2)} | {depth} |"
                )
    head = "| recipe (seeds) | Car AP3D | to the control | median depth error [m] | to the control |\n"
    return head + "| --- | --- | --- | --- | --- |\n" + "\n".join(lines)


def against_twice(rows: Sequence[Row], cells: Mapping[str, Any]) -> str:
    """Recipes with frames without labels against a control that has trained twice as long, seed by seed."""
    lines = []
    for name in (name for name, cell in cells.items() if cell["pool"]):
        if difference := compared(rows, name, "control_twice", AP):
            lines.append(f"| {name} ({difference.pairs}) | {difference} |")
    return "| recipe (seeds) | Car AP3D to control_twice |\n| --- | --- |\n" + "\n".join(lines)


def starting_points(rows: Sequence[Row]) -> str:
    """What teacher and baseline reach."""
    lines = [
        f"| {name} | {_mean_of(rows, name, AP)} | {_mean_of(rows, name, BEV)} | {_mean_of(rows, name, DEPTH, 2)} |"
        for name in ("teacher", "baseline", "control")
    ]
    head = "| run | Car AP3D | Car APBEV | median depth error [m] |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(lines)


def labels_table(rows: Sequence[Row]) -> str:
    """What the teacher's detections were worth as labels: means over seeds."""
    runs = list(by_seed(rows, "response_7").values())
    lines = []
    for index, one in enumerate(runs[0]["detections"] if runs else []):
        quality = [run["detections"][index] for run in runs]
        parts = " | ".join(
            "-" if not known else f"{np.mean(known):.2f}"
            for known in (
                [q[key] for q in quality if q[key] is not None] for key in ("precision", "recall", "depth_error_m")
            )
        )
        lines.append(f"| {one['class']}, {one['distance_m']} m | {parts} |")
    return "| class, distance | precision | recall | median depth error [m] |\n| --- | --- | --- | --- |\n" + "\n".join(
        lines
    )


def gradient_shares(rows: Sequence[Row], cells: Mapping[str, Any]) -> dict[str, float]:
    """The share of each term of each recipe, means over seeds."""
    shares = {}
    for name, cell in cells.items():
        for term in cell["terms"]:
            known = [row["flight"].get(f"{term}/gradient_share") for row in by_seed(rows, name).values()]
            if known and None not in known:
                shares[name if len(cell["terms"]) == 1 else f"{name}: {term}"] = float(np.mean(known))
    return shares


def flight_table(rows: Sequence[Row], cells: Mapping[str, Any]) -> str:
    """The flight recorder's last readings, means over seeds."""
    lines = []
    for name, cell in cells.items():
        flights = [row["flight"] for row in by_seed(rows, name).values()]
        for term in cell["terms"] if flights else ():
            values = []
            for key in ("loss", "floor", "gradient_share", "task_cosine"):
                known = [one[f"{term}/{key}"] for one in flights if f"{term}/{key}" in one]
                values.append(f"{np.mean(known):.3f}" if known else "-")
            lines.append(f"| {name} | {term} | {' | '.join(values)} |")
    head = "| recipe | term | loss | floor | share of the gradient | cosine with the task |\n"
    return head + "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(lines)


def slower_than_control(rows: Sequence[Row], cells: Mapping[str, Any]) -> dict[str, float]:
    """The time of a step as a multiple of that of the control of the same seed, medians over seeds."""
    return {name: cost.slower for name, cost in costs(rows, cells).items()}


def cost_table(rows: Sequence[Row], cells: Mapping[str, Any]) -> str:
    """Time and memory a step, and their ratio to the control of the same seed."""
    lines = [
        f"| {name} | {one.milliseconds:.0f} | {one.slower:.2f} | {one.megabytes:.0f} | {one.larger:.2f} |"
        for name, one in costs(rows, cells).items()
    ]
    head = "| recipe | ms a step | times the control's | peak memory [MB] | times the control's |\n"
    return head + "| --- | --- | --- | --- | --- |\n" + "\n".join(lines)


@dataclass(frozen=True)
class Cost:
    """What a step takes, medians over seeds; slower and larger: as multiples of the control's."""

    milliseconds: float
    slower: float
    megabytes: float
    larger: float


def costs(rows: Sequence[Row], cells: Mapping[str, Any]) -> dict[str, Cost]:
    """The cost of each cell that was timed together with its control."""
    found = {}
    for name in cells:
        control = by_seed(rows, cells[name]["control"])
        runs = {seed: row for seed, row in by_seed(rows, name).items() if seed in control}
        if runs:
            found[name] = Cost(
                milliseconds=float(np.median([_milliseconds(row) for row in runs.values()])),
                slower=float(np.median([_milliseconds(runs[s]) / _milliseconds(control[s]) for s in runs])),
                megabytes=float(np.median([row["peak_memory_mb"] for row in runs.values()])),
                larger=float(np.median([runs[s]["peak_memory_mb"] / control[s]["peak_memory_mb"] for s in runs])),
            )
    return found


def dot_plot(found: Mapping[str, Difference], *, x_label: str) -> str:
    """An SVG with a dot and an interval a row, and a line at zero."""
    known = [one for one in found.values() if np.isfinite([one.low, one.high]).all()]
    across = _Axis(min([0.0, *(one.low for one in known)]), max([0.0, *(one.high for one in known)]))
    parts = []
    for one, y in zip(found.values(), _lines(found), strict=True):
        sure = one in known and (one.low > 0 or one.high < 0)
        colour = _UNSURE if not sure else _GAIN if one.mean > 0 else _LOSS
        if one in known:
            parts.append(_bar(across, one.low, one.high, y, colour, width=2.5))
        parts.append(f'<circle cx="{across(one.mean):.1f}" cy="{y}" r="4.5" fill="{colour}"/>')
    return _figure(parts, list(found), across, x_label=x_label, tick="{:+g}")


def bar_plot(found: Mapping[str, float], *, x_label: str) -> str:
    """An SVG with a bar a row, from zero."""
    across = _Axis(0.0, max([0.0, *found.values()]))
    parts = [
        _bar(across, 0, value, y, _UNSURE, width=10) for value, y in zip(found.values(), _lines(found), strict=True)
    ]
    return _figure(parts, list(found), across, x_label=x_label, tick="{:g}")


_UNSURE, _GAIN, _LOSS = "#8c959f", "#2a9d5c", "#d1495b"
_LEFT, _WIDTH, _LINE = 150, 720, 22  # pixels


@dataclass(frozen=True)
class _Axis:
    """A value's place in the figure."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        span = 1.1 * (self.high - self.low) or 1.0
        return _LEFT + (value - self.low + span / 22) / span * (_WIDTH - 20 - _LEFT)

    def ticks(self) -> list[float]:
        """About eight round values."""
        rough = (self.high - self.low or 1.0) / 8
        step = next(10.0**power * one for power in range(-3, 4) for one in (1, 2, 5) if 10.0**power * one >= rough)
        return [step * index for index in range(int(np.ceil(self.low / step)), int(np.floor(self.high / step)) + 1)]


def _lines(rows: Sized) -> list[int]:
    return [20 + _LINE * index for index in range(len(rows))]


def _bar(across: _Axis, low: float, high: float, y: float, colour: str, *, width: float) -> str:
    ends = f'x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y}" y2="{y}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _figure(parts: Sequence[str], names: Sequence[str], across: _Axis, *, x_label: str, tick: str) -> str:
    """The marks with their names, ticks and a line at zero."""
    bottom = _LINE * len(names) + 16
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 44}" width="{_WIDTH}" '
        'style="font: 12px system-ui, sans-serif; fill: #24292f"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for value in across.ticks():
        x, stroke = across(value), "#57606a" if value == 0 else "#d8dee4"
        svg.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{bottom}" stroke="{stroke}"/>')
        svg.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick.format(round(value, 9))}</text>')
    for name, y in zip(names, _lines(names), strict=True):
        svg.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{html.escape(name)}</text>')
    label = f'<text x="{(_LEFT + _WIDTH) / 2}" y="{bottom + 36}" text-anchor="middle">{html.escape(x_label)}</text>'
    return "\n".join([*svg, *parts, label, "</svg>", ""])


def _mean_of(rows: Sequence[Row], name: str, measure: str, digits: int = 1) -> str:
    values = [row[measure] for row in by_seed(rows, name).values()]
    return f"{np.mean(values):.{digits}f}" if values else "-"


def _milliseconds(row: Row) -> float:
    milliseconds: float = 1000 * row["train_seconds"] / row["steps"]
    return milliseconds
