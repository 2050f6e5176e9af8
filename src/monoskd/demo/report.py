"""The demo's results as a page to read and as JSON to compute with."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.engine.run_folder import METRICS, PSEUDO_LABEL_QUALITY
from monoskd.evaluation.results import DIFFICULTIES
from monoskd.files import read_json, read_text
from monoskd.inference.draw import draw_scene
from monoskd.report.chart import Line, line_chart
from monoskd.report.markup import Html
from monoskd.report.page import Tile, fold, grid, page, paragraph, picture, section, tiles, write_page
from monoskd.report.table import Table

SCHEMA = "monoskd/demo/1"
DISTILLED = ("monoskd", "monoskd_unlabelled")
DRAWN = "monoskd_unlabelled"
_SMOOTHING = 20  # logged points that a loss curve averages over
_READINGS = {"gradient_share": "share of the gradient at the taps", "task_cosine": "cosine with the task gradient"}
"""What the page draws of the flight recorder, and what it is called."""

_SEED_NOTE = (
    "These are results of one seed. One seed can show whether the teacher is ahead of the students, and whether a "
    "recipe breaks. It cannot separate recipes that differ by less than about 5 AP: a recipe varies that much between "
    "seeds. All networks stop early in their training, while their AP still rises: nothing here is about a student "
    "that has converged."
)
_COST_NOTE = (
    "The depth error is measured at the true object centres, so that every run is judged on the same objects. The last "
    "three runs start from the baseline and take the same number of further steps; each step of monoskd_unlabelled "
    "adds as many frames without labels."
)
_VALIDATED = {"val/Car_3d_loose": "Car AP3D @0.5", "val/depth_error_m_median": "median depth error [m]"}
_CURVES_NOTE = (
    "Measured on the held-out frames at four moments of each training. Where AP still rises or the depth error still "
    "falls at the end, the network has not finished learning. The last three runs start from the baseline."
)
_FLIGHT_NOTE = (
    "How much each distillation term moves the student's shared features, and whether its gradient points the same way "
    "as the gradient of the detection task."
)
_FLOOR_NOTE = (
    "The floor is the loss of a student that outputs the mean teacher map of the other images and so knows nothing of "
    "this image. A term that is not below its floor has taught nothing about images yet. Degeneracy is the share of a "
    "map's values in the largest block of its soft ranks: at 1, rank correlation equals Pearson correlation."
)
_FRAMES_NOTE = (
    f"The student's boxes ({DRAWN}) on the picture and from above; ground truth and the teacher's boxes as outlines. "
    "Each run shows its best boxes, as many as there are objects that are not largely hidden. Scores are low after a "
    "short training."
)


@dataclass(frozen=True)
class RunResult:
    """One run: its folder, its results on the held-out frames and its manifest."""

    folder: Path
    results: list[dict[str, Any]]
    depth_error_m: dict[str, float | None]
    manifest: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The run's entry in `report.json`."""
        costs = {name: self.manifest[name] for name in ("train_seconds", "images_per_second", "peak_memory_mb")}
        return {"results": self.results, "depth_error_m": self.depth_error_m, "steps": self.manifest["steps"], **costs}

    def value(self, *, metric: str, iou: float, difficulty: str, name: str = "Car") -> float | None:
        """One AP|R40 of the table; None where it does not exist."""
        for row in self.results:
            if (row["class"], row["metric"], row["iou"], row["recall"]) == (name, metric, iou, "R40"):
                value: float | None = row[difficulty]
                return value
        return None


@dataclass(frozen=True)
class DrawnFrame:
    """One held-out frame for the page: its picture, its labelled objects and each run's detections by name."""

    frame: str
    image: NDArray[np.uint8]
    camera: Any
    truth: Any
    detections: Mapping[str, Any]


@dataclass(frozen=True)
class DemoReport:
    """Everything the page shows. seconds: of the whole demo; None if it was interrupted and continued."""

    detector: str
    seed: int
    frames: dict[str, int]
    size: tuple[int, int]
    runs: dict[str, RunResult]
    drawn: Sequence[DrawnFrame]
    seconds: float | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """`report.json`."""
        return {
            "schema": SCHEMA,
            "detector": self.detector,
            "seed": self.seed,
            "frames": self.frames,
            "size": list(self.size),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "versions": self.versions,
            "runs": {name: run.to_json() for name, run in self.runs.items()},
        }


def write_report(report: DemoReport, path: Path) -> Path:
    """Write the page: one file, no scripts, no network."""
    body = (
        *_summary(report),
        section("Average precision (AP|R40, %)", *_precision(report)),
        section("Pseudo-labels on frames without labels", *_labels(report)),
        section("Depth error and cost", *_costs(report)),
        section("On the way", paragraph(_CURVES_NOTE, kind="note"), grid(_on_the_way(report))),
        section("Loss curves", grid(_losses(report))),
        *_flight(report),
        section("Held-out frames", paragraph(_FRAMES_NOTE, kind="note"), *map(_drawn, report.drawn)),
    )
    write_page(path, page(f"monoskd demo, {report.detector}, seed {report.seed}", *body))
    return path


def _summary(report: DemoReport) -> Iterator[Html]:
    """The main results: Car AP3D of each run."""
    took = "continued from an earlier call" if report.seconds is None else f"{report.seconds / 60:.1f} minutes in all"
    yield paragraph(
        f"{report.frames['train']} rendered frames to train on, {report.frames['val']} held out, "
        f"{report.frames['unlabelled']} without labels; {report.size[0]} x {report.size[1]} px; {took}.",
        kind="note",
    )
    yield paragraph("Car AP3D on the held-out frames (moderate, IoU > 0.5, %):", kind="verdict")
    remarks = {
        "teacher": "sees depth",
        "baseline": "student, sees the picture",
        "control": "baseline, trained longer without a teacher",
        "monoskd": "baseline, distilled on the labelled frames",
        "monoskd_unlabelled": "also on frames without labels",
    }
    ap = {name: run.value(metric="3d", iou=0.5, difficulty="moderate") for name, run in report.runs.items()}
    yield tiles(Tile(name, _number(ap[name]), _remark(remark, name, ap)) for name, remark in remarks.items())
    yield paragraph(_SEED_NOTE)


def _remark(remark: str, name: str, ap: Mapping[str, float | None]) -> str:
    """The remark; for the distilled runs, with the difference to the control."""
    value, control = ap[name], ap["control"]
    if name not in DISTILLED or value is None or control is None:
        return remark
    return f"{value - control:+.1f} to the control; {remark}"


def _precision(report: DemoReport) -> Iterator[Html]:
    """The table of Car; those of the other classes are folded."""
    yield paragraph("easy / moderate / hard", kind="note")
    yield _precision_table(report, "Car")
    for name in sorted({row["class"] for run in report.runs.values() for row in run.results} - {"Car"}):
        yield fold(name, _precision_table(report, name))


def _precision_table(report: DemoReport, name: str) -> Html:
    first = next(iter(report.runs.values()))
    measures = [
        (row["metric"], row["iou"])
        for row in first.results
        if row["class"] == name and row["recall"] == "R40" and row["metric"] in ("bbox", "bev", "3d")
    ]

    def cell(run: RunResult, metric: str, iou: float) -> str:
        values = (run.value(metric=metric, iou=iou, difficulty=difficulty, name=name) for difficulty in DIFFICULTIES)
        return " / ".join(map(_number, values))

    rows = [(run_name, *(cell(run, *measure) for measure in measures)) for run_name, run in report.runs.items()]
    return Table(("run", *(f"{metric} @{iou:g}" for metric, iou in measures)), tuple(rows)).html()


def _labels(report: DemoReport) -> Iterator[Html]:
    """How good the teacher's detections are as labels, by class and distance."""
    record = read_json(report.runs["monoskd_unlabelled"].folder / PSEUDO_LABEL_QUALITY)
    yield paragraph(
        f"monoskd_unlabelled learns from the teacher's detections with a score of at least {record['threshold']:g} on "
        f"{record['frames']} frames. Measured on: {record['measured_on']}. A detection is right if its 2D box "
        "overlaps an object's by half or more.",
        kind="note",
    )
    rows = (
        (
            f"{row['class']}, {row['distance_m']}{'' if row['distance_m'] == 'all' else ' m'}",
            str(row["right"] + row["wrong"]),
            _percent(row["precision"]),
            _percent(row["recall"]),
            _number(row["depth_error_m"], 2),
        )
        for row in record["quality"]
    )
    columns = ("class, distance", "detections", "precision %", "recall %", "median |dz| [m]")
    yield Table(columns, tuple(rows)).html()


def _costs(report: DemoReport) -> Iterator[Html]:
    yield paragraph(_COST_NOTE, kind="note")
    rows = (
        (
            name,
            _number(run.depth_error_m["median"], 2),
            _number(run.depth_error_m["mean"], 2),
            str(run.manifest["steps"]),
            f"{run.manifest['train_seconds']:.0f}",
            _number(run.manifest["images_per_second"]),
            f"{run.manifest['peak_memory_mb']:.0f}",
        )
        for name, run in report.runs.items()
    )
    columns = ("median |dz| [m]", "mean |dz| [m]", "steps", "training [s]", "images/s", "peak memory [MB]")
    yield Table(("run", *columns), tuple(rows)).html()


def _on_the_way(report: DemoReport) -> Iterator[Html]:
    """Validations while the runs trained."""
    curves = {name: read_curves(run.folder / METRICS, smoothing=1) for name, run in report.runs.items()}
    for column, words in _VALIDATED.items():
        lines = {name: columns[column] for name, columns in curves.items() if column in columns}
        yield line_chart(lines, title=words, x_label="step", y_label=words)


def _losses(report: DemoReport) -> Iterator[Html]:
    losses = {name: read_curves(run.folder / METRICS) for name, run in report.runs.items()}
    totals = {name: curves["train/loss"] for name, curves in losses.items() if "train/loss" in curves}
    yield line_chart(totals, title="training loss, all terms", x_label="step", y_label="loss")
    for name in DISTILLED:
        terms = _columns(losses[name], "train/distill_")
        yield line_chart(terms, title=f"terms of {name}, unweighted", x_label="step", y_label="loss")


def _flight(report: DemoReport) -> Iterator[Html]:
    """What the flight recorder measured: nothing if no run recorded it."""
    charts: list[Html] = []
    rows: list[tuple[str, ...]] = []
    for name in DISTILLED:
        readings = _columns(read_curves(report.runs[name].folder / METRICS, smoothing=1), "flight/")
        for kind, words in _READINGS.items():
            if terms := {key.split("/")[0]: line for key, line in readings.items() if key.endswith(f"/{kind}")}:
                title = f"{name}: {words}"
                charts.append(line_chart(terms, title=title, x_label="step", y_label=kind.replace("_", " ")))
        for term in (key.removesuffix("/floor") for key in readings if key.endswith("/floor")):
            last = (readings.get(f"{term}/{kind}") for kind in ("loss", "floor", "degeneracy"))
            rows.append((f"{name}, {term}", *(_number(line.y[-1] if line else None, 3) for line in last)))
    if charts:
        table = Table(("term", "student, last reading", "floor", "degeneracy"), tuple(rows))
        notes = [paragraph(note, kind="note") for note in (_FLIGHT_NOTE, _FLOOR_NOTE)]
        yield section("Flight recorder", notes[0], grid(charts), notes[1], table.html())


def _drawn(frame: DrawnFrame) -> Html:
    pixels = draw_scene(
        frame.image,
        camera=frame.camera,
        detections=frame.detections[DRAWN],
        ground_truth=frame.truth,
        teacher=frame.detections["teacher"],
    )
    _, code = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return picture(code.tobytes(), f"frame {frame.frame}")


def read_curves(path: Path, *, smoothing: int = _SMOOTHING) -> dict[str, Line]:
    """The columns of a `metrics.csv` over its steps, as running means of `smoothing` points."""
    points: dict[str, tuple[list[float], list[float]]] = {}
    for row in csv.DictReader(read_text(path).splitlines()):
        for name, words in row.items():
            if words and name not in ("step", "epoch"):
                xs, ys = points.setdefault(name, ([], []))
                xs.append(float(row["step"]))
                ys.append(float(words))
    return {name: Line(xs, _running_mean(ys, smoothing)) for name, (xs, ys) in points.items()}


def _columns(curves: Mapping[str, Line], prefix: str) -> dict[str, Line]:
    """The curves whose names begin with the prefix, under the rest of their names."""
    return {name.removeprefix(prefix): curve for name, curve in curves.items() if name.startswith(prefix)}


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    return [float(np.mean(values[max(0, index + 1 - width) : index + 1])) for index in range(len(values))]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
