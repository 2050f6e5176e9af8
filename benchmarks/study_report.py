"""The study's results as JSON, and as tables and figures in docs/study.md."""

import html
import json
import re
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


def write_study(
    rows: Sequence[Row],
    timed: Sequence[Row],
    record: Mapping[str, Any],
    *,
    cells: Mapping[str, Any],
    options: Namespace,
) -> None:
    """Write `options.json`, and the generated parts of `options.docs`/study.md with their figures.

    timed: runs with nothing beside them.
    """
    seeds = sorted({row["seed"] for row in rows})
    document = {"schema": SCHEMA, **record, "seeds": seeds, "cells": cells, "rows": list(rows), "timed": list(timed)}
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    page = options.docs / "study.md"
    text = page.read_text()
    blocks: dict[str, str] = {
        "start": starting_points(rows),
        "labels": labels_table(rows),
        "cost": cost_table(timed, cells),
    }
    blocks["flight"] = flight_table(rows, cells)
    for question in (1, 2):
        names = [name for name, cell in cells.items() if cell["question"] == question and cell["terms"]]
        found = {name: compared(rows, name, cells, AP) for name in names}
        found = {name: one for name, one in found.items() if one is not None}
        (options.docs / f"study_{question}.svg").write_text(
            dot_plot(found, x_label="Car AP3D at overlap 0.5, moderate: difference to the control of the same seed")
        )
        blocks[str(question)] = comparison_table(rows, found, cells)
    for name, block in blocks.items():
        text = replaced(text, name, block)
    page.write_text(text)


def replaced(page: str, name: str, block: str) -> str:
    """The page with another generated part of that name."""
    pattern = re.compile(rf"(<!-- study:{name} -->\n).*?(<!-- /study -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"docs/study.md: expected a part `<!-- study:{name} -->` ... `<!-- /study -->`, found none")
    return pattern.sub(lambda found: f"{found[1]}\n{block}\n\n{found[2]}", page)


def control_of(cell: Mapping[str, Any], cells: Mapping[str, Any]) -> str:
    """The cell without terms that takes as many epochs."""
    return next(name for name, one in cells.items() if not one["terms"] and one["epochs"] == cell["epochs"])


def by_seed(rows: Sequence[Row], name: str) -> dict[int, Row]:
    """The runs of one cell."""
    return {row["seed"]: row for row in rows if row["cell"] == name}


def compared(rows: Sequence[Row], name: str, cells: Mapping[str, Any], measure: str) -> Difference | None:
    """A cell against its control; None where no seed has both."""
    own, control = by_seed(rows, name), by_seed(rows, control_of(cells[name], cells))
    seeds = sorted(own.keys() & control.keys())
    if not seeds:
        return None
    return Difference.of([own[seed][measure] for seed in seeds], [control[seed][measure] for seed in seeds])


def comparison_table(rows: Sequence[Row], found: Mapping[str, Difference], cells: Mapping[str, Any]) -> str:
    """Recipes against their controls: precision and depth error."""
    lines = []
    for control in dict.fromkeys(control_of(cells[name], cells) for name in found):
        lines.append(f"| {control} | {_mean_of(rows, control, AP)} | | {_mean_of(rows, control, DEPTH, 2)} | |")
        for name, difference in found.items():
            if control_of(cells[name], cells) == control:
                depth = compared(rows, name, cells, DEPTH)
                lines.append(
                    f"| {name} ({difference.pairs}) | {_mean_of(rows, name, AP)} | {difference} | "
                    f"{_mean_of(rows, name, DEPTH, 2)} | {depth} |"
                )
    head = "| recipe (seeds) | Car AP3D | to the control | median depth error [m] | to the control |\n"
    return head + "| --- | --- | --- | --- | --- |\n" + "\n".join(lines)


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


def cost_table(rows: Sequence[Row], cells: Mapping[str, Any]) -> str:
    """Time and memory a step, and their ratio to the control of the same seed."""
    lines = []
    for name in cells:
        control = by_seed(rows, control_of(cells[name], cells))
        runs = {seed: row for seed, row in by_seed(rows, name).items() if seed in control}
        if not runs:
            continue
        milliseconds = {seed: _milliseconds(row) for seed, row in runs.items()}
        slower = np.median([milliseconds[seed] / _milliseconds(control[seed]) for seed in runs])
        more = np.median([runs[seed]["peak_memory_mb"] / control[seed]["peak_memory_mb"] for seed in runs])
        memory = np.median([row["peak_memory_mb"] for row in runs.values()])
        lines.append(
            f"| {name} | {np.median(list(milliseconds.values())):.0f} | {slower:.2f} | {memory:.0f} | {more:.2f} |"
        )
    head = "| recipe | ms a step | times the control's | peak memory [MB] | times the control's |\n"
    return head + "| --- | --- | --- | --- | --- |\n" + "\n".join(lines)


def dot_plot(found: Mapping[str, Difference], *, x_label: str) -> str:
    """An SVG with a dot and an interval a row, and a line at zero."""
    known = [one for one in found.values() if np.isfinite([one.low, one.high]).all()]
    low = min([0.0, *(one.low for one in known)])
    high = max([0.0, *(one.high for one in known)])
    left, width, line = 130, 700, 24
    height = line * len(found) + 60
    across = _scale(low, high, start=left, end=width - 20)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'style="font: 12px system-ui, sans-serif; fill: #24292f"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for tick in range(int(np.ceil(low)), int(np.floor(high)) + 1):
        if tick % max(round((high - low) / 8), 1) == 0:
            x, bottom = across(tick), height - 40
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{bottom}" stroke="#d8dee4"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:+d}</text>')
    zero = across(0)
    parts.append(
        f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="8" y2="{height - 40}" stroke="#57606a" stroke-width="1.5"/>'
    )
    for index, (name, one) in enumerate(found.items()):
        y = 22 + line * index
        sure = one in known and (one.low > 0 or one.high < 0)
        colour = "#8c959f" if not sure else "#2a9d5c" if one.mean > 0 else "#d1495b"
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{html.escape(name)}</text>')
        if one in known:
            parts.append(
                f'<line x1="{across(one.low):.1f}" x2="{across(one.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                'stroke-width="2.5"/>'
            )
        parts.append(f'<circle cx="{across(one.mean):.1f}" cy="{y}" r="4.5" fill="{colour}"/>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _scale(low: float, high: float, *, start: float, end: float) -> Callable[[float], float]:
    margin = 0.05 * (high - low or 1)
    low, high = low - margin, high + margin
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (end - start)


def _mean_of(rows: Sequence[Row], name: str, measure: str, digits: int = 1) -> str:
    values = [row[measure] for row in by_seed(rows, name).values()]
    return f"{np.mean(values):.{digits}f}" if values else "-"


def _milliseconds(row: Row) -> float:
    milliseconds: float = 1000 * row["train_seconds"] / row["steps"]
    return milliseconds
