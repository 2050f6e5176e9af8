"""The study's results as JSON, and as tables and figures in docs/study_early.md."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from monoskd.report.chart import Mark, row_chart
from monoskd.report.table import Table

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
    """A line for each cell: what it reached and its difference to its control."""
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
    """Add these runs to `json_file`, and write the generated parts of `docs`/study_early.md with their figures.

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
    bars = {
        "3": (gradient_shares(rows, distinct), "share of the gradient at the student's features"),
        "4": (slower_than_control(timed, cells), "time of a step, times the control's"),
    }
    figures = {
        name: row_chart({key: Mark(value) for key, value in values.items()}, x_label=label, bars=True, standalone=True)
        for name, (values, label) in bars.items()
    }
    for question in (1, 2):
        names = [name for name, cell in cells.items() if cell["question"] == question and cell["control"] != name]
        differences = {name: compared(rows, name, cells[name]["control"], AP) for name in names}
        known = {name: difference for name, difference in differences.items() if difference is not None}
        label = "Car AP3D at overlap 0.5, moderate: difference to the control of the same seed"
        figures[str(question)] = row_chart(marks(known), x_label=label, standalone=True)
        blocks[str(question)] = comparison_table(rows, known, cells)
    page = docs / "study_early.md"
    text = page.read_text()
    for name, block in blocks.items():
        text = replaced(text, name, block)
    page.write_text(text)
    for name, figure in figures.items():
        (docs / f"study_{name}.svg").write_text(figure + "\n")


def merged(
    before: Mapping[str, Any], rows: Sequence[Row], timed: Sequence[Row], record: Mapping[str, Any]
) -> dict[str, Any]:
    """The recorded results with those of these seeds added or replaced: all runs of a seed belong to one session."""
    seeds = sorted({row["seed"] for row in rows})
    sessions = [session for session in before["sessions"] if not set(session["seeds"]) & set(seeds)]
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
    """The page with the generated part of this name replaced."""
    pattern = re.compile(rf"(<!-- study:{name} -->\n).*?(<!-- /study -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"expected a page with a part `<!-- study:{name} -->` ... `<!-- /study -->`, got none")
    return pattern.sub(lambda match: f"{match[1]}\n{block}\n\n{match[2]}", page)


def by_seed(rows: Sequence[Row], name: str) -> dict[int, Row]:
    """The runs of one cell."""
    return {row["seed"]: row for row in rows if row["cell"] == name}


def compared(rows: Sequence[Row], name: str, other: str, measure: str) -> Difference | None:
    """A cell against another, usually its control; None where no seed has both."""
    own, control = by_seed(rows, name), by_seed(rows, other)
    seeds = sorted(own.keys() & control.keys())
    if not seeds:
        return None
    return Difference.of([own[seed][measure] for seed in seeds], [control[seed][measure] for seed in seeds])


def comparison_table(rows: Sequence[Row], differences: Mapping[str, Difference], cells: Mapping[str, Any]) -> str:
    """Recipes below their controls: precision and depth error."""
    lines = []
    for control in dict.fromkeys(cells[name]["control"] for name in differences):
        lines.append((control, _mean_of(rows, control, AP), "", _mean_of(rows, control, DEPTH, 2), ""))
        for name, difference in differences.items():
            if cells[name]["control"] == control:
                recipe = f"{name} ({difference.pairs})"
                depth = str(compared(rows, name, control, DEPTH))
                lines.append((recipe, _mean_of(rows, name, AP), str(difference), _mean_of(rows, name, DEPTH, 2), depth))
    return _markdown("recipe (seeds) | Car AP3D | to the control | median depth error [m] | to the control", lines)


def against_twice(rows: Sequence[Row], cells: Mapping[str, Any]) -> str:
    """Recipes with frames without labels against a control that has trained twice as long, seed by seed."""
    lines = []
    for name in (name for name, cell in cells.items() if cell["pool"]):
        if difference := compared(rows, name, "control_twice", AP):
            lines.append((f"{name} ({difference.pairs})", str(difference)))
    return _markdown("recipe (seeds) | Car AP3D to control_twice", lines)


def starting_points(rows: Sequence[Row]) -> str:
    """What teacher, baseline and control reach."""
    lines = (
        (name, _mean_of(rows, name, AP), _mean_of(rows, name, BEV), _mean_of(rows, name, DEPTH, 2))
        for name in ("teacher", "baseline", "control")
    )
    return _markdown("run | Car AP3D | Car APBEV | median depth error [m]", lines)


def labels_table(rows: Sequence[Row]) -> str:
    """How good the teacher's detections were as labels: means over seeds."""
    runs = list(by_seed(rows, "response_7").values())
    lines = []
    for index, group in enumerate(runs[0]["detections"] if runs else []):
        quality = [run["detections"][index] for run in runs]
        known = [[q[key] for q in quality if q[key] is not None] for key in ("precision", "recall", "depth_error_m")]
        means = (f"{np.mean(values):.2f}" if values else "-" for values in known)
        lines.append((f"{group['class']}, {group['distance_m']} m", *means))
    return _markdown("class, distance | precision | recall | median depth error [m]", lines)


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
            keys = [f"{term}/{key}" for key in ("loss", "floor", "gradient_share", "task_cosine")]
            known = [[flight[key] for flight in flights if key in flight] for key in keys]
            lines.append((name, term, *(f"{np.mean(values):.3f}" if values else "-" for values in known)))
    return _markdown("recipe | term | loss | floor | share of the gradient | cosine with the task", lines)


def slower_than_control(rows: Sequence[Row], cells: Mapping[str, Any]) -> dict[str, float]:
    """The time of a step as a multiple of that of the control of the same seed, medians over seeds."""
    return {name: cost.slower for name, cost in costs(rows, cells).items()}


def cost_table(rows: Sequence[Row], cells: Mapping[str, Any]) -> str:
    """Time and memory a step, and their ratio to the control of the same seed."""
    lines = (
        (name, f"{cost.milliseconds:.0f}", f"{cost.slower:.2f}", f"{cost.megabytes:.0f}", f"{cost.larger:.2f}")
        for name, cost in costs(rows, cells).items()
    )
    return _markdown("recipe | ms a step | times the control's | peak memory [MB] | times the control's", lines)


@dataclass(frozen=True)
class Cost:
    """What a step takes, medians over seeds; slower and larger: as multiples of the control's."""

    milliseconds: float
    slower: float
    megabytes: float
    larger: float


def costs(rows: Sequence[Row], cells: Mapping[str, Any]) -> dict[str, Cost]:
    """The cost of each cell that was timed together with its control."""
    by_name = {}
    for name in cells:
        control = by_seed(rows, cells[name]["control"])
        runs = {seed: row for seed, row in by_seed(rows, name).items() if seed in control}
        if runs:
            by_name[name] = Cost(
                milliseconds=float(np.median([_milliseconds(row) for row in runs.values()])),
                slower=float(np.median([_milliseconds(runs[s]) / _milliseconds(control[s]) for s in runs])),
                megabytes=float(np.median([row["peak_memory_mb"] for row in runs.values()])),
                larger=float(np.median([runs[s]["peak_memory_mb"] / control[s]["peak_memory_mb"] for s in runs])),
            )
    return by_name


def marks(differences: Mapping[str, Difference]) -> dict[str, Mark]:
    """A mark for each difference, coloured where its interval does not hold zero."""
    return {
        name: Mark(
            difference.mean,
            (difference.low, difference.high),
            tone="good" if difference.low > 0 else "bad" if difference.high < 0 else "plain",
        )
        for name, difference in differences.items()
    }


def _markdown(columns: str, rows: Iterable[tuple[str, ...]]) -> str:
    """A table; columns: their names with | in between."""
    return Table(tuple(columns.split(" | ")), tuple(rows)).markdown()


def _mean_of(rows: Sequence[Row], name: str, measure: str, digits: int = 1) -> str:
    values = [row[measure] for row in by_seed(rows, name).values()]
    return f"{np.mean(values):.{digits}f}" if values else "-"


def _milliseconds(row: Row) -> float:
    milliseconds: float = 1000 * row["train_seconds"] / row["steps"]
    return milliseconds
