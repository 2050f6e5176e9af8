"""How results are put into words and columns, the same in a terminal and on a page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from monoskd.evaluation.curves import RECALLS
from monoskd.evaluation.results import DIFFICULTIES, Evaluation, Result
from monoskd.evaluation.rules import strict_overlap

LABEL_COLUMNS = 3
METRICS = {"bbox": "2D", "aos": "orientation", "bev": "bird's eye", "3d": "3D"}
MENDED = {
    "location": "true location",
    "depth": "true depth",
    "dimensions": "true dimensions",
    "yaw": "true yaw",
    "box_2d": "true 2D box",
    "score": "ranked by true overlap",
}


@dataclass(frozen=True)
class Sheet:
    """A table in words; the first three columns name what the numbers after them are about."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sheets(evaluation: Evaluation) -> Iterator[Sheet]:
    """All that the evaluation says, one table after another."""
    columns = ("class", "metric", "IoU", *(f"{recall}\n{name}" for recall in RECALLS for name in DIFFICULTIES))
    rows = tuple(_row(result) for result in evaluation.results)
    yield Sheet(f"KITTI average precision [%], {evaluation.frames} frames", columns, rows)
    if evaluation.by_distance:
        parts = {"all": evaluation, **evaluation.by_distance}
        yield _comparison("3D AP|R40 [%] by distance", parts, heading="distance")
    if evaluation.anatomy:
        mended = {MENDED[name]: part for name, part in evaluation.anatomy.items()}
        yield _comparison(
            "3D AP|R40 [%] with a part of every detection mended",
            {"as detected": evaluation, **mended},
            heading="detections",
        )


def _row(result: Result) -> tuple[str, ...]:
    """Intervals beside R40 alone: a table with all of them is wider than a screen, and the JSON has them."""
    r40 = _numbers(result, "R40")
    if "R40" in result.intervals:
        ends = result.intervals["R40"]
        r40 = [f"{value} ({_percent(low)}-{_percent(high)})" for value, (low, high) in zip(r40, ends, strict=True)]
    overlap = f"> {result.least_overlap:g}"
    return (result.class_name, METRICS[result.metric], overlap, *r40, *_numbers(result, "R11"))


def _comparison(title: str, parts: Mapping[str, Evaluation], *, heading: str) -> Sheet:
    """The 3D results of each class at its strict overlap, side by side for several evaluations."""
    rows = []
    for evaluated in zip(*(evaluation.results for evaluation in parts.values()), strict=True):
        first = evaluated[0]
        if first.metric == "3d" and first.least_overlap == strict_overlap(first.class_name):
            overlap = f"> {first.least_overlap:g}"
            rows += [(first.class_name, n, overlap, *_numbers(r, "R40")) for n, r in zip(parts, evaluated, strict=True)]
    return Sheet(title, ("class", heading, "IoU", *DIFFICULTIES), tuple(rows))


def _numbers(result: Result, recall: str) -> list[str]:
    return [_percent(value) for value in result.average_precision(recall).values()]


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
