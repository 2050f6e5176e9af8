"""The results of `focal.py` as JSON, and as tables and a figure in docs/focal.md."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from monoskd.files import read_json, write_json
from monoskd.report.chart import Mark, row_chart
from monoskd.report.table import Table

RESULTS, PAGE = Path("benchmarks/results/focal.json"), Path("docs/focal.md")
WAYS = ("both", "no fit", "no depth", "neither")

Rows = Sequence[Mapping[str, Any]]


def write_focal(rows: Rows, record: Mapping[str, Any]) -> None:
    """Add the results to those known before, and write the generated parts of the page with its figure."""
    rows = [*known_before(rows), *({**row, "commit": record["commit"]} for row in rows)]
    write_json(RESULTS, {"schema": "monoskd/focal/1", **record, "rows": rows})
    blocks = {
        "ap": ap_table(rows, "one", WAYS, own=True),
        "depth": depth_table(rows, "one", WAYS),
        "made": ap_table(rows, "made", ("both", "no fit")),
        "several": ap_table(rows, "several", ("both", "no fit")),
        "several_depth": depth_table(rows, "several", ("both", "no fit")),
    }
    text = PAGE.read_text()
    for name, block in blocks.items():
        text, count = re.subn(
            rf"(<!-- focal:{name} -->\n).*?(<!-- /focal -->)",
            lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"{PAGE}: expected a part `<!-- focal:{name} -->` ... `<!-- /focal -->`, got {count}")
    PAGE.write_text(text)
    marks = {
        f"{view}, {way}": Mark(mean(values))
        for view in views(rows)
        for way in WAYS
        if (values := column(rows, "one", view, way, "depth ratio"))
    }
    label = "median of predicted over true depth, cars"
    PAGE.with_name("focal.svg").write_text(row_chart(marks, x_label=label, bars=True, standalone=True) + "\n")


def known_before(rows: Rows) -> list[dict[str, Any]]:
    """The rows of networks that are not measured anew."""
    anew = {(row["training"], row["seed"]) for row in rows}
    before = read_json(RESULTS)
    kept = (row for row in before["rows"] if (row["training"], row["seed"]) not in anew)
    return [{"commit": before["commit"], **row} for row in kept]


def ap_table(rows: Rows, training: str, ways: Sequence[str], *, own: bool = False) -> str:
    """Cars' AP3D through each camera, and the training's camera on the same cars.

    own: add what students have that learned through that lens alone.
    """
    lines = []
    for view in views(rows):
        at_training = column(rows, training, view, "both", "training ap 3d")
        cars = column(rows, training, view, "both", "objects")
        line = [view, f"{mean(cars):.0f}" if cars else "-", words(at_training)]
        line += [words(column(rows, training, view, way, "ap 3d")) for way in ways]
        if own:
            line.append(words(column(rows, view.replace("lens", "own"), view, "both", "ap 3d")))
        lines.append(tuple(line))
    last = ("learned through it",) if own else ()
    return Table(("camera", "cars", "training's camera, same cars", *ways, *last), tuple(lines)).markdown()


def depth_table(rows: Rows, training: str, ways: Sequence[str]) -> str:
    """Median depth errors [m], and predicted over true depth."""
    lines = []
    for view in views(rows):
        line = [view, words(column(rows, training, view, "both", "training depth error m"), 2)]
        for way in ways:
            error, ratio = (column(rows, training, view, way, name) for name in ("depth error m", "depth ratio"))
            line.append(f"{words(error, 2)} ({words(ratio, 2)})" if error else "")
        lines.append(tuple(line))
    return Table(("camera", "training's camera, same cars", *ways), tuple(lines)).markdown()


def views(rows: Rows) -> list[str]:
    """The cameras, in the order in which they were asked."""
    return list(dict.fromkeys(row["view"] for row in rows))


def column(rows: Rows, training: str, view: str, way: str, name: str) -> list[float]:
    """A number of all seeds that have it."""
    wanted = {"training": training, "view": view, "way": way}
    chosen = (row for row in rows if wanted.items() <= row.items())
    return [row[name] for row in chosen if row.get(name) is not None]


def words(values: Sequence[float], digits: int = 1) -> str:
    """The mean, and its spread over seeds where there are several."""
    if not values:
        return ""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"
