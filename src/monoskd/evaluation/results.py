"""The results of an evaluation, and their JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from monoskd.evaluation.curves import RECALLS, average_precision
from monoskd.evaluation.pairs import Bool, Float, Int

SCHEMA = "monoskd/evaluation/1"
DIFFICULTIES = ("easy", "moderate", "hard")


@dataclass(frozen=True)
class Result:
    """Average precision of one class and metric, at one least overlap.

    metric: "bbox" (2D), "aos" (2D weighted by orientation), "bev" (bird's eye) or "3d". curves: easy, moderate, hard x
    41 points in [0, 1]; NaN where there is no value. objects: how many there were to find, easy, moderate, hard.
    intervals: recall -> easy, moderate, hard x (low, high) [percent].
    """

    class_name: str
    metric: str
    least_overlap: float
    curves: Float
    objects: Int
    intervals: Mapping[str, Float] = field(default_factory=dict)

    def without_value(self, where: Bool) -> "Result":
        """The same without a value for the difficulties `where` (easy, moderate, hard)."""
        intervals = {recall: np.where(where[:, None], np.nan, ends) for recall, ends in self.intervals.items()}
        return replace(self, curves=np.where(where[:, None], np.nan, self.curves), intervals=intervals)

    def average_precision(self, recall: str = "R40") -> dict[str, float]:
        """Percent for easy, moderate and hard; NaN where there is no value. recall: "R40" or "R11"."""
        return dict(zip(DIFFICULTIES, average_precision(self.curves, recall).tolist(), strict=True))


@dataclass(frozen=True)
class Evaluation:
    """The results of `frames` frames.

    by_distance, anatomy: the same for parts of the objects, or for detections corrected in one part; by name, empty
    unless asked for. notes: what a reader of the numbers should know, a line each.
    """

    frames: int
    results: tuple[Result, ...]
    by_distance: Mapping[str, "Evaluation"] = field(default_factory=dict)
    anatomy: Mapping[str, "Evaluation"] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each result and recall, with None for a value that does not exist; see `to_json`."""
        return [_row(result, recall) for result in self.results for recall in RECALLS]

    def to_json(self) -> dict[str, Any]:
        """The schema `monoskd/evaluation/1`."""
        document: dict[str, Any] = {"schema": SCHEMA, "frames": self.frames, "results": self.rows()}
        if self.notes:
            document["notes"] = list(self.notes)
        for part in ("by_distance", "anatomy"):
            if evaluations := getattr(self, part):
                document[part] = {name: evaluation.rows() for name, evaluation in evaluations.items()}
        return document


def _row(result: Result, recall: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "class": result.class_name,
        "metric": result.metric,
        "iou": result.least_overlap,
        "recall": recall,
        **{name: _or_none(value) for name, value in result.average_precision(recall).items()},
    }
    if recall in result.intervals:
        ends = zip(DIFFICULTIES, result.intervals[recall], strict=True)
        row["interval"] = {name: [_or_none(end) for end in pair] for name, pair in ends}
    return row


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
