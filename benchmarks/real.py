"""Real drives through the whole path: `python benchmarks/real.py --root data/drives --out runs/real`.

ROOT is a data set in KITTI's layout whose splits train and val are of different drives, with LiDAR. First the doctor,
the depth maps, and one teacher on them. Then, for each seed: a baseline on photographs; from that baseline, all with as
many further steps, the control (no teacher), MonoSKD, the study's best recipe (`full`, see gain.py) and its depth map
alone; `control_time`, a control that trains as long as a run with a teacher takes; and a network trained on rendered
frames, from which `transfer` trains as the baseline does. Each training is `monoskd train` in a process of its own with
one thread. Called again, it goes on where it stopped, run by run and epoch by epoch; what is known is in
OUT/<seed>/<run>.json. `--report` trains nothing: it writes the results and the page.

`--quick` is the small form: one seed, two epochs, to see that everything runs.
"""

import argparse
import json
import math
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from gain import DEPTH, FULL, equal_time
from study import cost
from study_report import by_seed, compared, replaced

from monoskd.demo.story import min_heights_px
from monoskd.engine.callbacks import commit, versions
from monoskd.engine.launch import Launch, train_side_by_side
from monoskd.engine.load import find_config
from monoskd.engine.measure import Measurement, labelled_batches, measure
from monoskd.evaluation.bootstrap import resampled_curves
from monoskd.evaluation.curves import average_precision
from monoskd.evaluation.pairs import PairedFrames
from monoskd.evaluation.rules import MIN_HEIGHTS_PX, Contest, Scope, tallies
from monoskd.files import write_json
from monoskd.kitti.doctor import examine
from monoskd.kitti.prepare import prepare
from monoskd.models.weights import load_model
from monoskd.synthetic import synthesize

STARTS = {
    "transfer": "rendered",
    **dict.fromkeys(("control", "control_time", "monoskd", "full", "depth_map"), "baseline"),
}
RUNS = ("teacher", "baseline", "rendered", *STARTS)
"""In this order over all seeds, as the later ones start from the earlier."""

PAIRS = {
    "MonoSKD to its control": ("monoskd", "control"),
    "`full` to its control": ("full", "control"),
    "the depth map alone to its control": ("depth_map", "control"),
    "MonoSKD to the control of equal time": ("monoskd", "control_time"),
    "`full` to the control of equal time": ("full", "control_time"),
    "the depth map alone to the control of equal time": ("depth_map", "control_time"),
    "transfer to the baseline (as many steps on real frames)": ("transfer", "baseline"),
    "transfer to the control (as many steps in all)": ("transfer", "control"),
    "the control to the baseline (twice the steps)": ("control", "baseline"),
}
COLUMNS = {f"Car {metric} {least}": f"AP{metric.upper()} @{least}" for least in (0.3, 0.5) for metric in ("3d", "bev")}
COLUMNS["depth median"] = "depth error [m]"
TEACHER_SEED = 0  # one teacher for all students: it trains longest
MODERATE = 1  # of easy, moderate, hard


@dataclass(frozen=True)
class Plan:
    """How large and how long.

    narrow: the demo's width, else the paper's; rate: of the first trainings; epochs: of every run but the teacher;
    rendered: frames, of which a sixteenth is held out; trained: frames of the split train.
    """

    size: tuple[int, int] = (320, 96)
    narrow: bool = True
    batch: int = 16
    rate: float = 0.006
    ema: float = 0.98
    epochs: int = 22
    teacher_epochs: int = 60
    rendered: int = 480
    trained: int = 136
    machine: dict[str, Any] = field(default_factory=lambda: {"accelerator": "cpu", "threads": 1})

    def batches(self, name: str) -> int:
        """Steps an epoch; the last, smaller batch is left out."""
        return (self.rendered - round(self.rendered / 16) if name == "rendered" else self.trained) // self.batch

    def epochs_of(self, name: str) -> int:
        """For as many steps in every run but the teacher and the control of equal time."""
        if name == "teacher":
            return self.teacher_epochs
        if name == "control_time":
            return equal_time("full", self.epochs)
        return max(1, round(self.epochs * self.batches("baseline") / self.batches(name)))

    def steps_of(self, name: str) -> int:
        """In all."""
        return self.epochs_of(name) * self.batches(name)


SMALL = Plan()
QUICK = Plan(epochs=2, teacher_epochs=2, rendered=24)
WHOLE = Plan(size=(640, 192), narrow=False, rate=0.00125, rendered=480, machine={"accelerator": "auto"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="drives with LiDAR in KITTI's layout; not written to")
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=RUNS, choices=RUNS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start nothing new after that")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs, 24 rendered frames")
    parser.add_argument("--report", action="store_true", help="train nothing; write the results and docs/real.md")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/real.json"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()

    if not options.report:
        torch.set_num_threads(1)
        seeds = options.seeds[:1] if options.quick else options.seeds
        plan = QUICK if options.quick else SMALL
        make(plan, options.root, options.out, seeds=seeds, runs=options.runs, minutes=options.minutes)
    rows = known(options.out)
    print(f"{table(rows)}\n\n{pairs_table(rows)}")
    if options.report:
        write_json(options.json, {"schema": "monoskd/real/2", "versions": versions(), "runs": rows})
        page = options.docs / "real.md"
        page.write_text(replaced(page.read_text(), "drives", f"{table(rows)}\n\n{pairs_table(rows)}"))


def make(
    plan: Plan, root: Path, out: Path, *, seeds: list[int], runs: tuple[str, ...], minutes: float = math.inf
) -> None:
    """Whatever is not there yet: run after run, each over all seeds."""
    end = time.monotonic() + 60 * minutes
    data = link(root, out / "data")
    print(f"{prepare(data)}\n{examine(data).verdict}", flush=True)
    synthesize(out / "rendered", frames=plan.rendered, val=1 / 16, seed=0, size=(320, 96))
    prepare(out / "rendered")
    for name in runs:
        for seed in [TEACHER_SEED] if name == "teacher" else seeds:
            run(plan, out, name, seed, end=end)


def section(drives: Path | None, *, minutes: float, small: bool) -> dict[str, Any]:
    """The section `real` of the GPU benchmark: one seed at the whole width, as many runs as there is time for."""
    if drives is None:
        return {"skipped": "no real drives: bring a data set in KITTI's layout along and name it with --drives"}
    with tempfile.TemporaryDirectory() as folder:
        make(QUICK if small else WHOLE, drives, Path(folder), seeds=[0], runs=RUNS, minutes=minutes)
        rows = known(Path(folder))
    print(f"{table(rows)}\n\n{pairs_table(rows)}", flush=True)
    return {"runs": rows}


def link(root: Path, data: Path) -> Path:
    """A writable data set whose files are those of `root`."""
    (data / "training").mkdir(parents=True, exist_ok=True)
    for part in ["ImageSets", *(f"training/{kind}" for kind in ("image_2", "calib", "label_2", "velodyne"))]:
        if not (data / part).exists():
            (data / part).symlink_to((root / part).resolve())
    return data


def run(plan: Plan, out: Path, name: str, seed: int, *, end: float = math.inf) -> None:
    """Train and measure one run, unless that is done; an interrupted one goes on."""
    folder, result = out / str(seed) / name, out / str(seed) / f"{name}.json"
    if result.is_file() or time.monotonic() > end:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(configured(plan, out, name, seed), sort_keys=False))
    train_side_by_side([Launch(path, folder)])
    row = {"seed": seed, "cell": name, "commit": commit(), **measured(folder / "model.safetensors", out / "data")}
    shutil.rmtree(folder / "checkpoints")
    write_json(result, row | cost(folder))
    readings = ", ".join(f"{title} {row[key]:.2f}" for key, title in COLUMNS.items())
    print(f"seed {seed} {name}: {readings}, {cost(folder)['train_seconds']:.0f} s", flush=True)


def configured(plan: Plan, out: Path, name: str, seed: int) -> dict[str, Any]:
    """The configuration of a run as YAML has it."""
    base = name if name in ("teacher", "monoskd") else "control" if name in STARTS else "baseline"
    config: dict[str, Any] = yaml.safe_load(find_config(Path(f"demo/{base}.yaml")).read_text())
    folder = out / str(seed)
    epochs = plan.epochs_of(name)
    config |= {"out": str(folder / name), "seed": seed, "epochs": epochs, **plan.machine}
    root = out / ("rendered" if name == "rendered" else "data")
    config["data"] |= {"root": str(root), "batch_size": plan.batch}
    if name == "rendered":
        config["data"]["min_height_px"] = min_heights_px((320, 96))[-1]
    further = STARTS.get(name) == "baseline"
    config["optimizer"] = {
        "gradient_clip": 10,
        "ema": plan.ema,
        "schedule": {"base": plan.rate / (2 if further else 1), "warmup_epochs": min(2, epochs // 2), "cosine": True},
    }
    if name in STARTS:
        config["start"] = str(folder / STARTS[name] / "model.safetensors")
    else:
        resize(config["detector"]["init_args"]["config"], plan)
    teacher = str(out / str(TEACHER_SEED) / "teacher" / "model.safetensors")
    if name == "monoskd":
        config["distillation"]["teacher"] = teacher
    if name in ("full", "depth_map"):
        terms: dict[str, Any] = FULL if name == "full" else {"depth_map": {**DEPTH, "share": 0.2}}
        taps = dict.fromkeys(["neck.4", *(tap for term in terms.values() for tap in term.get("taps", []))])
        taps_of = [{"student": tap, "adapter": "conv"} for tap in taps]
        config["distillation"] = {"teacher": teacher, "taps": taps_of, "terms": terms}
    return config


def resize(detector: dict[str, Any], plan: Plan) -> None:
    """The demo's detector at the plan's size; at the whole width it is the paper's network, from random weights."""
    detector["input_size"] = list(plan.size)
    if not plan.narrow:
        for key in ("backbone_arguments", "head_width", "backbone_early_stride"):
            detector.pop(key)


def measured(model: Path, data: Path) -> dict[str, float | None]:
    """Moderate AP|R40 of cars and the depth error at labelled objects, on the drives that were held out."""
    detector = load_model(model)
    if torch.cuda.is_available():
        detector.cuda()
    measurement = measure(detector, labelled_batches(detector, data, split="val"), Measurement())
    found: dict[str, float | None] = {
        f"Car {metric} {least}": car_ap(measurement, metric, least)
        for least in (0.3, 0.5, 0.7)
        for metric in ("3d", "bev")
    }
    return found | {f"depth {name}": value for name, value in measurement.depth_error_m().items()}


def car_ap(measurement: Measurement, metric: str, least_overlap: float) -> float:
    """Moderate AP|R40 of cars at any overlap; metric: "3d" or "bev"."""
    paired = PairedFrames.of(measurement.truth, measurement.detections)
    counts = tallies(paired, Contest("Car", metric, least_overlap), MIN_HEIGHTS_PX, Scope.at_depth(paired))
    curves = resampled_curves(counts, np.ones((1, paired.frames), np.int64))["precision"][0]
    return float(average_precision(curves, "R40")[MODERATE])


def known(out: Path) -> list[dict[str, Any]]:
    """Every run that is done."""
    files = (path for name in RUNS for path in sorted(out.glob(f"[0-9]*/{name}.json")))
    return [json.loads(path.read_text()) for path in files]


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds of each run."""
    lines = [f"| run | seeds | {' | '.join(COLUMNS.values())} | steps |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name in RUNS:
        runs = list(by_seed(rows, name).values())
        if runs:
            cells = [spread([run[key] for run in runs]) for key in COLUMNS]
            lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {runs[0]['steps']} |")
    return "\n".join(lines)


def spread(values: list[float | None]) -> str:
    """Mean and standard deviation of those that exist."""
    there = [value for value in values if value is not None]
    if not there:
        return "none"
    return f"{statistics.mean(there):.2f}" + (f" ± {statistics.stdev(there):.2f}" if len(there) > 1 else "")


def pairs_table(rows: list[dict[str, Any]]) -> str:
    """What one run has over another, paired by seed, with 95 % intervals (Student's t)."""
    lines = [f"| difference | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for title, (name, other) in PAIRS.items():
        differences = [compared(rows, name, other, key) for key in COLUMNS]
        if all(differences):
            pairs = differences[0].pairs if differences[0] else 0
            lines.append(f"| {title} ({pairs}) | {' | '.join(map(str, differences))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
