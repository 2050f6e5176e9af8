"""An evaluation as tables for a terminal, as JSON and as a page. Needs no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from monoskd import files
from monoskd.evaluation.curves import POINTS, RECALLS
from monoskd.evaluation.results import DIFFICULTIES, Evaluation, Result
from monoskd.evaluation.rules import strict_overlap
from monoskd.report.chart import Line, line_chart
from monoskd.report.markup import Html
from monoskd.report.page import Tile, fold, grid, page, paragraph, section, tiles, write_page
from monoskd.report.table import Table

METRICS = {"bbox": "2D", "aos": "orientation", "bev": "bird's eye", "3d": "3D"}
CORRECTED = {
    "location": "true location",
    "depth": "true depth",
    "dimensions": "true dimensions",
    "yaw": "true yaw",
    "box_2d": "true 2D box",
    "score": "ranked by true overlap",
}
"""What each part of `Evaluation.anatomy` is called."""


def text(evaluation: Evaluation) -> str:
    """All tables and notes, for a terminal."""
    return "\n\n".join(
        [*(table.text() for table in tables(evaluation)), *(f"note: {note}" for note in evaluation.notes)]
    )


def write_json(evaluation: Evaluation, path: Path) -> None:
    """Write the schema `monoskd/evaluation/1`; makes the folder if there is none."""
    files.write_json(path, evaluation.to_json())


def write_html(evaluation: Evaluation, path: Path) -> None:
    """Write the page; makes the folder if there is none."""
    write_page(path, html(evaluation))


def html(evaluation: Evaluation) -> str:
    """A page with the moderate 3D results on top, then all tables and the precision-recall curves."""
    return page(
        "KITTI evaluation",
        paragraph(f"{evaluation.frames} frames. Average precision over 40 recall positions [%].", kind="note"),
        tiles(_tile(result) for result in _strict_3d(evaluation)),
        *(paragraph(note, kind="note", tone="warn") for note in evaluation.notes),
        *(section(table.title, table.html()) for table in tables(evaluation)),
        section(
            "Curves",
            paragraph("Precision over recall; for orientation its similarity over recall.", kind="note"),
            *_curves(evaluation),
        ),
    )


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """Everything that the evaluation says, one table after another."""
    columns = ("class", "metric", "IoU", *(f"{recall}\n{name}" for recall in RECALLS for name in DIFFICULTIES))
    rows = tuple(_row(result) for result in evaluation.results)
    title = f"KITTI average precision [%], {evaluation.frames} frames"
    yield Table(columns, rows, title=title, labels=3, grouped=True)
    if evaluation.by_distance:
        parts = {"all": evaluation, **evaluation.by_distance}
        yield _comparison("3D AP|R40 [%] by distance", parts, heading="distance")
    if evaluation.anatomy:
        corrected = {CORRECTED[name]: part for name, part in evaluation.anatomy.items()}
        yield _comparison(
            "3D AP|R40 [%] with one part of every detection corrected",
            {"as detected": evaluation, **corrected},
            heading="detections",
        )


def _row(result: Result) -> tuple[str, ...]:
    """Intervals stand beside R40 only, as the table would be wider than a screen; the JSON has all of them."""
    r40 = _numbers(result, "R40")
    if "R40" in result.intervals:
        ends = result.intervals["R40"]
        r40 = [f"{value} ({_percent(low)}-{_percent(high)})" for value, (low, high) in zip(r40, ends, strict=True)]
    return (result.class_name, METRICS[result.metric], _overlap(result), *r40, *_numbers(result, "R11"))


def _comparison(title: str, parts: Mapping[str, Evaluation], *, heading: str) -> Table:
    """The 3D results of each class at its strict overlap, side by side for several evaluations."""
    rows = [
        (result.class_name, name, _overlap(result), *_numbers(result, "R40"))
        for results in zip(*map(_strict_3d, parts.values()), strict=True)
        for name, result in zip(parts, results, strict=True)
    ]
    return Table(("class", heading, "IoU", *DIFFICULTIES), tuple(rows), title=title, labels=3, grouped=True)


def _strict_3d(evaluation: Evaluation) -> list[Result]:
    """The result that the benchmark ranks by, for each class."""
    return [
        result
        for result in evaluation.results
        if result.metric == "3d" and result.least_overlap == strict_overlap(result.class_name)
    ]


def _tile(result: Result) -> Tile:
    easy, moderate, hard = _numbers(result, "R40")
    return Tile(f"{result.class_name}, 3D, moderate", moderate, f"easy {easy}, hard {hard}, IoU {_overlap(result)}")


def _curves(evaluation: Evaluation) -> Iterator[Html]:
    """The charts of each class; the first class is open."""
    names = list(dict.fromkeys(result.class_name for result in evaluation.results))
    for name in names:
        charts = grid(_chart(result) for result in evaluation.results if result.class_name == name)
        yield fold(name, charts, is_open=name == names[0])


def _chart(result: Result) -> Html:
    """Easy, moderate and hard in one chart."""
    recall = (np.arange(POINTS) / (POINTS - 1)).tolist()
    lines = {
        f"{name} {value}": Line(recall, curve.tolist())
        for name, value, curve in zip(DIFFICULTIES, _numbers(result, "R40"), result.curves, strict=True)
    }
    y_label = "similarity" if result.metric == "aos" else "precision"
    title = f"{METRICS[result.metric]}, IoU {_overlap(result)}"
    return line_chart(lines, title=title, x_label="recall", y_label=y_label, x_range=(0, 1), y_range=(0, 1))


def _overlap(result: Result) -> str:
    return f"> {result.least_overlap:g}"


def _numbers(result: Result, recall: str) -> list[str]:
    return [_percent(value) for value in result.average_precision(recall).values()]


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
