"""Which recipe pays, on labelled frames and on frames without labels: `python benchmarks/study.py --out runs/study`.

For each seed: rendered frames (160 to train on, 200 held out, 1120 without labels), a teacher and a baseline; then one
further training for each cell of the study, all from that baseline, all of as many steps on the same labelled frames as
their control, which has no teacher. Each training is `monoskd train` in a process of its own with one thread. Called
again, it goes on where it stopped; what is known is in OUT/<seed>/<cell>.json. Last, each recipe is timed alone on the
machine, and what each gained over its control is printed. `--report` adds the seeds in OUT to the recorded results and
puts tables and figures into docs/study_early.md.

One cell with another seed: python benchmarks/study.py --out runs/study --seeds 17 --cells response_7
"""

import argparse
import csv
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from study_report import gains, write_study

from monoskd.demo.story import VAL_SHARE, min_heights_px
from monoskd.engine.callbacks import commit, versions
from monoskd.engine.launch import Launch, train_side_by_side
from monoskd.engine.load import find_config
from monoskd.engine.measure import Measurement, labelled_batches, measure
from monoskd.evaluation.evaluator import KittiEvaluator
from monoskd.kitti.io import read_split, write_split
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import prepare
from monoskd.models.weights import load_model
from monoskd.synthetic import synthesize

SIZE, FRAMES, POOL = (320, 96), 360, 7  # pixels; labelled frames; frames without labels for each trained on
SHORT, LONG = 6, 20  # epochs of 40 steps
TIMED, TIMED_SEEDS = 3, 3  # epochs; seeds, of those that were asked for
TEACHER_EPOCHS, BASELINE_EPOCHS = 40, 30
NECK = [f"neck.{stride}" for stride in (4, 8, 16, 32)]
OBJECT = "regional.visual_depth.1"
LOSSES, TEACHING = "monoskd.distill.", "monoskd.models.did_m3d.teaching."


def term(loss: str, *, weight: float = 1.0, **options: Any) -> dict[str, Any]:
    """A term on the neck's four maps."""
    return {"loss": {"class_path": LOSSES + loss, "init_args": options}, "weight": weight, "taps": NECK}


RANK, AFFINITY = term("SpearmanLoss"), term("AffinityLoss")
HEAD = {"loss": {"class_path": TEACHING + "HeadLoss"}, "between": "output"}
OBJECTS = {"loss": {"class_path": TEACHING + "ObjectLoss"}, "taps": [OBJECT]}
RESPONSE = {"loss": {"class_path": TEACHING + "ResponseLoss"}, "between": "targets"}
PUBLISHED = {
    "rank": term("SpearmanLoss", mode="published"),
    "affinity": term("AffinityLoss", mode="published"),
    "head": {"loss": {"class_path": TEACHING + "HeadLoss", "init_args": {"published": True}}, "between": "output"},
}
IMITATION = {"class_path": TEACHING + "Foreground", "init_args": {"loss": {"class_path": LOSSES + "ImitationLoss"}}}
BACKBONE = [f"backbone.{stride}" for stride in (8, 16, 32)]
FUSION = {"channels": [16, 32, 64], "width": 64}  # an eighth of DLA-34's, as the detector is
MONODISTILL = {
    "imitation": {"loss": IMITATION, "weight": 10.0, "resize": "none", "taps": BACKBONE},
    "affinity": {**AFFINITY, "taps": BACKBONE},
    "head": HEAD,
}


@dataclass(frozen=True)
class Cell:
    """One recipe: its distillation terms, the frames without labels for each labelled one, and how long it trains.

    hard: the teacher's detections count as labels. An empty recipe is the control.
    """

    terms: dict[str, Any] = field(default_factory=dict)
    pool: int = 0
    hard: bool = False
    epochs: int = SHORT
    question: int = 1

    @property
    def control(self) -> str:
        """The cell that it is compared with; a control's is itself, but for the one that trains twice as long."""
        twice = "control_twice" if self.terms else "control_long"
        return {SHORT: "control", LONG: "control_long"}.get(self.epochs, twice)

    @property
    def distinct(self) -> bool:
        """Whether no other cell takes the same steps."""
        return self.epochs == SHORT or (self.epochs == LONG and (self.pool == POOL or not self.terms))


LABELLED = {
    "monoskd": {"rank": RANK, "affinity": AFFINITY, "head": HEAD},
    "published": PUBLISHED,
    "objects": {"objects": OBJECTS},
    "spearman": {"rank": RANK},
    "head": {"head": HEAD},
    "monodistill": MONODISTILL,
    "centred": {"rank": term("SpearmanLoss", center="running")},
    "pearson": {"rank": term("SpearmanLoss", mode="pearson")},
    "affinity": {"affinity": AFFINITY},
}
UNLABELLED = {
    "response": {"response": RESPONSE},
    "both": {"response": RESPONSE, "rank": RANK, "objects": OBJECTS},
    "plain": {"response": RESPONSE},
    "features": {"rank": RANK, "objects": OBJECTS},
}
CELLS = {
    "control": Cell(),
    "control_long": Cell(epochs=LONG),
    "control_twice": Cell(epochs=2 * LONG, question=2),  # as many images as with one frame without label for each
    **{name: Cell(terms) for name, terms in LABELLED.items()},
    **{f"{name}_long": Cell(terms, epochs=LONG) for name, terms in LABELLED.items()},
    **{
        f"{name}_{pool}": Cell(terms, pool=pool, hard=name == "plain", epochs=LONG, question=2)
        for pool in (POOL, 1, 3)
        for name, terms in UNLABELLED.items()
    },
    "response_7_twice": Cell({"response": RESPONSE}, pool=POOL, epochs=2 * LONG, question=2),
}
"""Every recipe on labelled frames after few and many epochs, and on 1, 3 and 7 times as many frames without labels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), metavar="CELL")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, one thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing new after that")
    parser.add_argument("--report", action="store_true", help="train nothing; add what is known to the results")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/study.json"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of study_early.md")
    options = parser.parse_args()

    if not options.report:
        make(options.out, options.seeds, options.cells, jobs=options.jobs, minutes=options.minutes)
    rows, timed = known(options.out), known(options.out, "timed")
    cells = {name: {**vars(cell), "control": cell.control, "distinct": cell.distinct} for name, cell in CELLS.items()}
    print(gains(rows, cells))
    if options.report:
        record = {"versions": versions(), "cores": os.cpu_count()}
        write_study(rows, timed, record, cells=cells, json_file=options.json, docs=options.docs)


def make(out: Path, seeds: list[int], names: list[str], *, jobs: int, minutes: float) -> None:
    """Whatever of these cells, and of their controls, is not there yet."""
    end = time.monotonic() + 60 * minutes
    torch.set_num_threads(1)
    for seed in seeds:
        render(out / str(seed), seed)
    first = [(seed, name) for seed in seeds for name in ("teacher", "baseline")]
    wanted = [name for name in CELLS if name in {CELLS[one].control for one in names} | {*names}]
    then = [(seed, name) for name in wanted for seed in seeds]
    with ThreadPoolExecutor(jobs) as pool:
        for some in (first, then):  # every cell needs the first two
            list(pool.map(lambda job: run(out, *job, end=end), some))
    for seed in seeds[:TIMED_SEEDS]:
        for name in wanted:
            if CELLS[name].distinct:
                time_alone(out, seed, name, end=end)


def render(folder: Path, seed: int) -> None:
    """The frames of a seed, their depth maps, and a split for each number of frames without labels."""
    data = folder / "data"
    trained = round(FRAMES * (1 - VAL_SHARE))
    synthesize(data, frames=FRAMES, val=VAL_SHARE, seed=seed, size=SIZE, unlabelled=POOL * trained)
    prepare(data)
    layout = KittiLayout(data)
    names = read_split(layout.split("unlabelled"))
    for pool in {cell.pool for cell in CELLS.values() if cell.pool}:
        write_split(layout.split(f"unlabelled_{pool}"), names[: pool * trained])


def run(out: Path, seed: int, name: str, *, end: float) -> None:
    """Train and measure one cell, unless that is done."""
    folder, result = out / str(seed) / name, out / str(seed) / f"{name}.json"
    if result.is_file() or time.monotonic() > end:
        return
    shutil.rmtree(folder, ignore_errors=True)
    train(configured(folder.parent, seed, name))
    row = {"seed": seed, "cell": name, "commit": commit(), **measured(folder)}
    if name not in ("teacher", "baseline"):
        for path in (folder / "model.safetensors", *folder.glob("events*")):
            path.unlink()
        shutil.rmtree(folder / "checkpoints")
    result.write_text(json.dumps(row) + "\n")
    print(f"seed {seed} {name}: AP3D@0.5 {row['Car 3d 0.5']:.1f}, {row['train_seconds']:.0f} s", flush=True)


def time_alone(out: Path, seed: int, name: str, *, end: float) -> None:
    """A few epochs of a cell with nothing beside them: what a step costs."""
    folder, result = out / str(seed) / "timed" / name, out / str(seed) / "timed" / f"{name}.json"
    if result.is_file() or time.monotonic() > end:
        return
    shutil.rmtree(folder, ignore_errors=True)
    train({**configured(out / str(seed), seed, name), "out": str(folder), "epochs": TIMED})
    row = {"seed": seed, "cell": name, "commit": commit(), **cost(folder)}
    shutil.rmtree(folder)
    result.write_text(json.dumps(row) + "\n")
    print(f"seed {seed} {name}: {row['train_seconds']:.1f} s for {row['steps']} steps", flush=True)


def train(config: dict[str, Any]) -> None:
    """`monoskd train` in a process of its own with one thread; the configuration lies beside its folder."""
    folder = Path(config["out"])
    path = folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    train_side_by_side([Launch(path, folder)])


def configured(folder: Path, seed: int, name: str) -> dict[str, Any]:
    """The configuration of a run as YAML has it: the demo's, with the cell's recipe."""
    base = name if name in ("teacher", "baseline") else "control"
    config: dict[str, Any] = yaml.safe_load(find_config(Path(f"demo/{base}.yaml")).read_text())
    heights = min_heights_px(SIZE)
    config |= {"out": str(folder / name), "seed": seed}
    config["data"] |= {"root": str(folder / "data"), "min_height_px": heights[-1]}
    config["validation"]["min_heights_px"] = list(heights)
    if base != "control":
        config["epochs"] = {"teacher": TEACHER_EPOCHS, "baseline": BASELINE_EPOCHS}[name]
    else:
        cell = CELLS[name]
        config |= {"start": str(folder / "baseline" / "model.safetensors"), "epochs": cell.epochs}
        if cell.terms:
            config["distillation"] = distillation(cell, folder / "teacher" / "model.safetensors")
        if cell.pool:
            config["data"]["unlabelled"] = {
                "split": f"unlabelled_{cell.pool}",
                "threshold": 0.3,
                "soft": not cell.hard,
            }
    epochs = config["epochs"]
    config["optimizer"]["schedule"]["milestones"] = [epochs * 3 // 4, epochs * 9 // 10]
    return config


def distillation(cell: Cell, teacher: Path) -> dict[str, Any]:
    """The entry of that name; the recorder looks at the neck and the object's features where these are tapped."""
    tapped = dict.fromkeys([*NECK[:1], *(tap for one in cell.terms.values() for tap in one.get("taps", []))])
    recipe: dict[str, Any] = {
        "teacher": str(teacher),
        "taps": [{"student": tap, "adapter": "conv"} for tap in tapped],
        "terms": cell.terms,
        "record_every": 40,
    }
    if "imitation" in cell.terms:
        recipe["taps"] = [{"student": tap, "adapter": "conv"} for tap in BACKBONE]
        recipe["fusion"] = {"class_path": LOSSES + "AttentionFusion", "init_args": FUSION}
    return recipe


def measured(folder: Path) -> dict[str, Any]:
    """What the held-out frames, the manifest and the flight recorder say of a run."""
    detector = load_model(folder / "model.safetensors")
    heights = min_heights_px(SIZE)
    evaluator = KittiEvaluator(min_heights_px=heights)
    measurement = Measurement(evaluator)
    data = folder.parent / "data"
    measure(detector, labelled_batches(detector, data, split="val", min_height_px=heights[-1]), measurement)
    row: dict[str, Any] = {}
    for one in evaluator.evaluate(measurement.truth, measurement.detections).rows():
        if one["recall"] == "R40" and one["metric"] in ("bev", "3d"):
            row[f"{one['class']} {one['metric']} {one['iou']:g}"] = one["moderate"]
    row |= {f"depth {name}": value for name, value in measurement.depth_error_m().items()}
    row |= cost(folder)
    row["flight"] = last_readings(folder / "metrics.csv")
    labels = folder / "detections.json"
    row["detections"] = json.loads(labels.read_text())["quality"] if labels.is_file() else None
    return row


def cost(folder: Path) -> dict[str, float]:
    """Time and memory of a run."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {name: manifest[name] for name in ("steps", "train_seconds", "images_per_second", "peak_memory_mb")}


def last_readings(path: Path) -> dict[str, float]:
    """The flight recorder's last word on everything."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    readings = {key: float(value) for row in rows for key, value in row.items() if key.startswith("flight/") and value}
    return {key.removeprefix("flight/"): value for key, value in readings.items()}


def known(out: Path, within: str = ".") -> list[dict[str, Any]]:
    """Every run that is done, by seed and in the study's order."""
    return [json.loads(path.read_text()) for path in _results(out, within)]


def _results(out: Path, within: str) -> Iterator[Path]:
    seeds: Iterable[Path] = sorted((one for one in out.glob("*") if one.name.isdigit()), key=lambda one: int(one.name))
    for seed in seeds:
        for name in ("teacher", "baseline", *CELLS):
            if (path := seed / within / f"{name}.json").is_file():
                yield path


if __name__ == "__main__":
    main()
