"""The demo's findings as a page to read and as JSON to compute with."""

import base64
import csv
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.evaluation.chart import Curve, line_chart
from monoskd.evaluation.results import DIFFICULTIES
from monoskd.inference.draw import draw_scene

SCHEMA = "monoskd/demo/1"
DISTILLED = ("monoskd", "monoskd_unlabelled")
DRAWN = "monoskd_unlabelled"
_SMOOTHING = 20  # logged points that a loss curve averages over

_STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #1f2328; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0 }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #d8dee4 }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #8c959f }
.lead { font-size: 1.05rem } .note { color: #57606a }
figure { margin: 0 } img { width: 100%; border-radius: 4px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); gap: 1rem }
.charts svg { width: 100% }
details { margin: .6rem 0 } summary { cursor: pointer }
"""

_SEED_NOTE = (
    "This is one seed. It can show whether the teacher is ahead of the students, and whether a recipe breaks; it "
    "cannot tell recipes apart that differ by less than about five AP, for that is how far one moves from seed to seed."
)


@dataclass(frozen=True)
class RunResult:
    """One run: what `report.json` says of it, where it lies, and its objects on a few held-out frames."""

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
                found: float | None = row[difficulty]
                return found
        return None


@dataclass(frozen=True)
class Scene:
    """One held-out frame for the page: its picture and what each run and the label say of it."""

    frame: str
    image: NDArray[np.uint8]
    camera: Any
    truth: Any
    found: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """Everything the page shows. seconds: of the whole demo, None where it was made in several parts."""

    seed: int
    frames: dict[str, int]
    size: tuple[int, int]
    runs: dict[str, RunResult]
    scenes: Sequence[Scene]
    seconds: float | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """`report.json`."""
        return {
            "schema": SCHEMA,
            "seed": self.seed,
            "frames": self.frames,
            "size": list(self.size),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "versions": self.versions,
            "runs": {name: run.to_json() for name, run in self.runs.items()},
        }


def write_report(report: Report, path: Path) -> Path:
    """Write the page: one file, no scripts, no network."""
    sections = (_summary, _precision, _labels, _costs, _curves, _flight, _pictures)
    body = "\n".join(section(report) for section in sections)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>monoskd demo, seed {report.seed}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><body>{body}</body></html>\n'
    )
    path.write_text(page)
    return path


def _summary(report: Report) -> str:
    ap = {name: run.value(metric="3d", iou=0.5, difficulty="moderate") for name, run in report.runs.items()}
    difference = ""
    control = ap["control"]
    if ap["monoskd"] is not None and ap["monoskd_unlabelled"] is not None and control is not None:
        difference = (
            f" Trained on for as long without a teacher it reaches {control:.1f}; distilled on the labelled frames, "
            f"{ap['monoskd']:.1f} ({ap['monoskd'] - control:+.1f}); with the teacher's word on "
            f"{report.frames['unlabelled']} frames without labels, {ap['monoskd_unlabelled']:.1f} "
            f"({ap['monoskd_unlabelled'] - control:+.1f})."
        )
    took = "continued from an earlier call" if report.seconds is None else f"{report.seconds / 60:.1f} minutes in all"
    return (
        "<h1>monoskd demo</h1>"
        f'<p class="note">{report.frames["train"]} rendered frames to train on, {report.frames["val"]} held out, '
        f"{report.size[0]} x {report.size[1]} px, seed {report.seed}, {took}.</p>"
        f'<p class="lead">Car AP3D (moderate, overlap 0.5): the teacher, which sees depth, reaches '
        f"{_number(ap['teacher'])}; the student, which sees the picture, {_number(ap['baseline'])}.{difference}</p>"
        f"<p>{_SEED_NOTE}</p>"
    )


def _labels(report: Report) -> str:
    """What the teacher's detections are worth as labels, by class and distance."""
    record = json.loads((report.runs["monoskd_unlabelled"].folder / "detections.json").read_text())
    rows = "".join(
        f"<tr><td>{html.escape(row['class'])}, {row['distance_m']} m</td><td>{row['right'] + row['wrong']}</td>"
        f"<td>{_percent(row['precision'])}</td><td>{_percent(row['recall'])}</td>"
        f"<td>{_number(row['depth_error_m'], 2)}</td></tr>"
        for row in record["quality"]
    )
    return (
        f"<h2>The teacher's word on frames without labels</h2><p class='note'>Its detections with a score of at least "
        f"{record['threshold']:g} on {record['frames']} frames, which monoskd_unlabelled learns from. Measured on: "
        f"{html.escape(record['measured_on'])}. Right is what overlaps an object by half or more in the picture.</p>"
        "<table><thead><tr><th>class, distance</th><th>detections</th><th>precision %</th><th>recall %</th>"
        f"<th>median |dz| [m]</th></tr></thead>{rows}</table>"
    )


def _precision(report: Report) -> str:
    """The Car table up front, every class behind it."""
    parts = ["<h2>Average precision (AP|R40, %)</h2>", "<p class='note'>easy / moderate / hard</p>"]
    parts.append(_precision_table(report, "Car"))
    others = sorted({row["class"] for run in report.runs.values() for row in run.results} - {"Car"})
    for name in others:
        parts.append(f"<details><summary>{html.escape(name)}</summary>{_precision_table(report, name)}</details>")
    return "".join(parts)


def _precision_table(report: Report, name: str) -> str:
    first = next(iter(report.runs.values()))
    columns = [
        (row["metric"], row["iou"])
        for row in first.results
        if row["class"] == name and row["recall"] == "R40" and row["metric"] in ("bbox", "bev", "3d")
    ]
    head = "".join(f"<th>{metric} @{iou:g}</th>" for metric, iou in columns)
    rows = []
    for run_name, run in report.runs.items():
        cells = ""
        for metric, iou in columns:
            values = (run.value(metric=metric, iou=iou, difficulty=one, name=name) for one in DIFFICULTIES)
            cells += f"<td>{' / '.join(_number(value) for value in values)}</td>"
        rows.append(f"<tr><td>{html.escape(run_name)}</td>{cells}</tr>")
    return f"<table><thead><tr><th>run</th>{head}</tr></thead>{''.join(rows)}</table>"


def _costs(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{_number(run.depth_error_m['median'], 2)}</td>"
        f"<td>{_number(run.depth_error_m['mean'], 2)}</td><td>{run.manifest['steps']}</td>"
        f"<td>{run.manifest['train_seconds']:.0f}</td><td>{_number(run.manifest['images_per_second'])}</td>"
        f"<td>{run.manifest['peak_memory_mb']:.0f}</td></tr>"
        for name, run in report.runs.items()
    )
    return (
        "<h2>Depth error and cost</h2><p class='note'>Depth is read at the true peaks, so that every run is judged on "
        "the same objects. The last three start from the baseline and take the same number of further steps; "
        "monoskd_unlabelled sees as many frames without labels on top in each.</p>"
        "<table><thead><tr><th>run</th><th>median |dz| [m]</th><th>mean |dz| [m]</th><th>steps</th>"
        f"<th>training [s]</th><th>images/s</th><th>peak memory [MB]</th></tr></thead>{rows}</table>"
    )


def _curves(report: Report) -> str:
    losses = {name: read_curves(run.folder / "metrics.csv") for name, run in report.runs.items()}
    total = line_chart(
        {name: curves["train/loss"] for name, curves in losses.items() if "train/loss" in curves},
        title="training loss, all terms",
        x_label="step",
        y_label="loss",
    )
    charts = [total]
    for run in DISTILLED:
        distilled = {
            name.removeprefix("train/distill_"): curve
            for name, curve in losses[run].items()
            if name.startswith("train/distill_")
        }
        charts.append(line_chart(distilled, title=f"terms of {run}, unweighted", x_label="step", y_label="loss"))
    return f"<h2>Loss curves</h2><div class='charts'>{''.join(charts)}</div>"


def _flight(report: Report) -> str:
    """What the flight recorder saw: who moves the student's shared features."""
    charts, floors = [], ""
    for run in DISTILLED:
        curves = read_curves(report.runs[run].folder / "metrics.csv", smoothing=1)
        for kind, title in (
            ("gradient_share", f"{run}: share of the gradient at the taps"),
            ("task_cosine", f"{run}: cosine with the task gradient"),
        ):
            chosen = {
                name.split("/")[1]: curve
                for name, curve in curves.items()
                if name.startswith("flight/") and name.endswith(f"/{kind}")
            }
            if chosen:
                charts.append(line_chart(chosen, title=title, x_label="step", y_label=kind.replace("_", " ")))
        for name, curve in curves.items():
            if name.startswith("flight/") and name.endswith("/floor"):
                term = name.split("/")[1]
                reached, floor = curves[f"flight/{term}/loss"].y[-1], curve.y[-1]
                pooled = curves.get(f"flight/{term}/degeneracy")
                floors += (
                    f"<tr><td>{html.escape(f'{run}, {term}')}</td><td>{_number(reached, 3)}</td>"
                    f"<td>{_number(floor, 3)}</td><td>{_number(pooled.y[-1] if pooled else None, 3)}</td></tr>"
                )
    if not charts:
        return ""
    return (
        "<h2>Flight recorder</h2><p class='note'>How much each term moves the student's shared features, and whether "
        f"it pulls the way of the detection task.</p><div class='charts'>{''.join(charts)}</div>"
        "<p class='note'>The floor is what a student would get that shows the teacher's mean map of the other images, "
        "and so knows nothing of this one. A term that is not below its floor has taught nothing about images yet. "
        "Degeneracy is the share of a map's values in the largest block of its soft ranks: at 1 rank correlation is "
        "Pearson's.</p><table><thead><tr><th>term</th><th>student, last reading</th><th>floor</th><th>degeneracy</th>"
        f"</tr></thead>{floors}</table>"
    )


def _pictures(report: Report) -> str:
    parts = [
        f"<h2>Held-out scenes</h2><p class='note'>The student's boxes ({DRAWN}) on the picture and from above, with "
        "the ground truth and the teacher's boxes in outline. Each run shows its best boxes, as many as there are "
        "objects that are not largely hidden; a short training gives low scores.</p>"
    ]
    for scene in report.scenes:
        drawn = draw_scene(
            scene.image,
            camera=scene.camera,
            detections=scene.found[DRAWN],
            ground_truth=scene.truth,
            teacher=scene.found["teacher"],
        )
        parts.append(f"<figure>{_picture(drawn, f'frame {scene.frame}')}</figure>")
    return "".join(parts)


def read_curves(path: Path, *, smoothing: int = _SMOOTHING) -> dict[str, Curve]:
    """The columns of a `metrics.csv` over its steps, as running means of `smoothing` points."""
    points: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if text and name not in ("step", "epoch"):
                    xs, ys = points.setdefault(name, ([], []))
                    xs.append(float(row["step"]))
                    ys.append(float(text))
    return {name: Curve(xs, _running_mean(ys, smoothing)) for name, (xs, ys) in points.items()}


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    return [float(np.mean(values[max(0, index + 1 - width) : index + 1])) for index in range(len(values))]


def _picture(image: NDArray[np.uint8], caption: str) -> str:
    _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    data = base64.b64encode(code.tobytes()).decode()
    text = html.escape(caption)
    return f'<img src="data:image/jpeg;base64,{data}" alt="{text}"><figcaption class="note">{text}</figcaption>'


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
