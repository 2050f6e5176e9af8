"""Does a teacher pay where the control no longer rises? `python benchmarks/gain.py --out runs/gain --seeds 101 102`.

For each seed: rendered frames (160 to train on, 200 held out, 480 without labels), a teacher that trains long enough to
be far ahead, and students from random weights, each with its control of equal steps and its control of equal time. Each
training is `monoskd train` in a process of its own with one thread. Called again, it goes on where it
stopped, run by run and epoch by epoch; what is known is in OUT/<seed>/<cell>.json. Cells come in the order of what is
asked first: the learning curves, then the recipe, then its parts, then frames without labels.

A cell is `<recipe>@<epochs>`: python benchmarks/gain.py --cells control@60 full@60 --seeds 7

`--labelled 40` asks it where labels are few: teacher and students train on the first 40 of the 160 labelled frames.
Give such a study an `--out` of its own, four times the epochs for as many steps, and `--validations 4`.
"""

import argparse
import csv
import json
import math
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy.stats import t as student_t
from study import FRAMES, HEAD, RANK, RESPONSE, SIZE, measured
from study_report import replaced

from monoskd.demo.story import VAL_SHARE, min_heights_px
from monoskd.engine.callbacks import commit, versions
from monoskd.engine.launch import Launch, train_side_by_side
from monoskd.engine.load import find_config
from monoskd.files import write_json
from monoskd.kitti.io import read_split, write_split
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import prepare
from monoskd.report.chart import Line, line_chart
from monoskd.synthetic import synthesize

TEACHER_EPOCHS, POOL = 200, 3
LABELLED = round(FRAMES * (1 - VAL_SHARE))
# A step of a recipe over a step of its control: `benchmarks/training.py`, docs/study_early.md (section 3).
TEACHER_COST = 1.4
COSTS = {"pseudo": 1.7, "depth": 1.7, "depth_pseudo": 1.7, "unlabelled": 2.1, "mixed": 1.0, "mixed_depth": 1.0}
BATCH, RATE, EMA = 16, 0.006, 0.99
BATCHES = {"mixed": BATCH // 2, "mixed_depth": BATCH // 2}  # labelled frames a step, so that all its frames are BATCH
DEPTH = {
    "loss": {"class_path": "monoskd.models.DepthMapLoss"},
    "between": "targets",
    "key": "features:neck.4",
}
HEAT = {"loss": {"class_path": "monoskd.models.HeatmapLoss"}, "between": "output"}
FULL = {
    "depth_map": {**DEPTH, "share": 0.2},
    "heatmap": {**HEAT, "share": 0.1},
    "rank": {key: value for key, value in RANK.items() if key != "weight"} | {"share": 0.1},
    "head": HEAD,
}
RECIPES: dict[str, dict[str, Any]] = {
    "control": {},
    "full": FULL,
    **{f"only_{name}": {name: term} for name, term in FULL.items()},
    **{f"without_{name}": {key: term for key, term in FULL.items() if key != name} for name in FULL},
    "inherit": FULL,
    "unlabelled": {**FULL, "response": RESPONSE},
    "pseudo": {"response": RESPONSE},
    "depth": {"depth_map": {**DEPTH, "share": 0.5}},
    "depth_pseudo": {"depth_map": {**DEPTH, "share": 0.5}, "response": RESPONSE},
    "mixed": {"response": RESPONSE},
    "mixed_depth": {"depth_map": {**DEPTH, "share": 0.5}, "response": RESPONSE},
}
CURVE = (60, 120, 240)
DOCS = Path(__file__).parents[1] / "docs"
SHOWN = {"Car 3d 0.5": ".1f", "Car bev 0.5": ".1f", "Car 3d 0.7": ".1f", "depth median": ".2f"}
GAINED = {"Car 3d 0.5": "AP3D gained", "Car bev 0.5": "APBEV gained"}
PAIRS = {"gain_4800": "mixed@240", "gain_9600": "mixed@480"}  # tables of docs/study.md


def equal_steps(recipe: str, epochs: int) -> int:
    """The epochs in which the control makes as many steps as a recipe in so many."""
    return epochs * BATCH // BATCHES.get(recipe, BATCH)


def equal_time(recipe: str, epochs: int) -> int:
    """The epochs that the control has time for while a recipe trains for so many."""
    return round(COSTS.get(recipe, TEACHER_COST) * equal_steps(recipe, epochs))


CELLS = [
    *(f"{name}@{epochs}" for epochs in CURVE for name in ("control", "full")),
    f"control@{equal_time('full', CURVE[-1])}",
    f"inherit@{CURVE[-1]}",
    *(f"{name}@{CURVE[-1]}" for name in RECIPES if name.startswith(("only", "without"))),
    *(
        cell
        for epochs in CURVE
        for name in COSTS
        for cell in (f"{name}@{epochs}", f"control@{equal_time(name, epochs)}")
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gain"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="RECIPE@EPOCHS")
    parser.add_argument("--labelled", type=int, help="train on so many labelled frames (default: all 160)")
    parser.add_argument("--teacher-epochs", type=int, default=TEACHER_EPOCHS)
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, one thread each")
    parser.add_argument("--validations", type=int, help="so many a training at most (default: every nine epochs)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start nothing new after that")
    parser.add_argument("--report", action="store_true", help="train nothing; print and write what is known")
    parser.add_argument("--draw", type=int, nargs="+", default=[], help="with --report: seeds whose curves to draw")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/gain.json"))
    options = parser.parse_args()
    if not options.report:
        study = Study(options.out, options.teacher_epochs, options.labelled, options.validations)
        make(study, options.seeds, options.cells, jobs=options.jobs, minutes=options.minutes)
    rows = known(options.out)
    print(table(rows))
    if options.report:
        rows = [{"labelled": options.labelled or LABELLED, **row} for row in rows]
        document = {
            "schema": "monoskd/gain/1",
            "versions": versions(),
            "runs": [*known_before(options.json, rows), *rows],
        }
        write_json(options.json, document)
        page = DOCS / "study.md"
        for name, cell in PAIRS.items():
            page.write_text(replaced(page.read_text(), name, pairs_table(document["runs"], cell)))
        for seed in options.draw:
            (DOCS / f"study_gain_{seed}.svg").write_text(drawn(document["runs"], seed) + "\n")


@dataclass(frozen=True)
class Study:
    """Its folder, how long its teachers train, on how many labelled frames everything does (None: on all), and how
    often a training validates at most (None: every nine epochs)."""

    out: Path
    teacher_epochs: int
    labelled: int | None
    validations: int | None = None

    @property
    def teacher(self) -> str:
        """The cell of the teacher."""
        return f"teacher@{self.teacher_epochs}"

    @property
    def split(self) -> str:
        """The split to train on."""
        return "train" if self.labelled is None else f"train_{self.labelled}"


def make(study: Study, seeds: list[int], cells: list[str], *, jobs: int, minutes: float) -> None:
    """Whatever is not there yet: all teachers first, then cell after cell over all seeds."""
    end = time.monotonic() + 60 * minutes
    torch.set_num_threads(1)
    for seed in seeds:
        data = study.out / str(seed) / "data"
        synthesize(data, frames=FRAMES, val=VAL_SHARE, seed=seed, size=SIZE, unlabelled=POOL * LABELLED)
        prepare(data)
        layout = KittiLayout(data)
        write_split(layout.split(study.split), read_split(layout.split("train"))[: study.labelled])
    with ThreadPoolExecutor(jobs) as pool:
        for names in ([study.teacher], cells):
            list(pool.map(lambda job: run(study, *job, end=end), [(n, s) for n in names for s in seeds]))


def run(study: Study, name: str, seed: int, *, end: float) -> None:
    """Train and measure one cell, unless that is done; an interrupted one goes on."""
    folder = study.out / str(seed)
    result, out = folder / f"{name}.json", folder / name
    if result.is_file() or time.monotonic() > end:
        return
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(configured(study, name, seed), sort_keys=False))
    train_side_by_side([Launch(path, out)])
    device = json.loads((out / "manifest.json").read_text())["device"]
    row = {"seed": seed, "cell": name, "commit": commit(), "device": device, **measured(out), "curve": curve(out)}
    if not name.startswith("teacher"):
        shutil.rmtree(out / "checkpoints")
    write_json(result, row)
    print(f"seed {seed} {name}: AP3D@0.5 {row['Car 3d 0.5']:.1f}, {row['train_seconds']:.0f} s", flush=True)


def curve(folder: Path) -> list[tuple[int, float]]:
    """The AP3D@0.5 of cars at each validation of a run, by step: that of the averaged weights."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            (int(row["step"]) + 1, float(row["val/Car_3d_loose"]))
            for row in csv.DictReader(file)
            if row["val/Car_3d_loose"]
        ]


def pairs_table(rows: list[dict[str, Any]], cell: str) -> str:
    """A recipe beside its control of equal steps and of the same seed, code and teacher: a line a seed, and means."""
    recipe, epochs = cell.split("@")
    steps = equal_steps(recipe, int(epochs))
    known = {(row["cell"], row["seed"], row["commit"]): row for row in rows}
    triples = {
        seed: [known[name, seed, commit] for name in (f"teacher@{TEACHER_EPOCHS}", f"control@{steps}", cell)]
        for name, seed, commit in sorted(known)
        if name == cell
    }
    means = [
        {key: statistics.mean(run[key] for run in runs) for key in SHOWN}
        for runs in zip(*triples.values(), strict=True)
    ]
    controls, runs = ({seed: triple[place] for seed, triple in triples.items()} for place in (1, 2))
    gained = {key: gain(runs, controls, key) for key in GAINED}
    head = ["seed", "teacher AP3D", f"control, {steps} epochs", f"`{recipe}`, {epochs} epochs", *GAINED.values()]
    lines = [_line(head), _line(["---"] * len(head))]
    for seed, (teacher, control, run) in triples.items():
        differences = [f"{run[key] - control[key]:+.1f}" for key in GAINED]
        lines.append(_line([seed, f"{teacher['Car 3d 0.5']:.1f}", _shown(control), _shown(run), *differences]))
    teacher, control, run = means
    last = [
        "mean",
        f"{teacher['Car 3d 0.5']:.1f}",
        _shown(control),
        _shown(run),
        *map("**{}**".format, gained.values()),
    ]
    return "\n".join([*lines, _line(last)])


def _line(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _shown(run: dict[str, Any]) -> str:
    return ", ".join(format(run[key], digits) for key, digits in SHOWN.items())


def drawn(rows: list[dict[str, Any]], seed: int) -> str:
    """A chart of the curves of one seed, one for each cell that has one."""
    known = {row["cell"]: row["curve"] for row in rows if row["seed"] == seed and row.get("curve")}
    lines = {name: Line(*zip(*[(0, 0.0), *points], strict=True)) for name, points in known.items()}
    title = f"Car AP3D at 0.5 over the steps of a training, seed {seed}"
    return line_chart(lines, title=title, x_label="step", y_label="AP3D", standalone=True)


def configured(study: Study, name: str, seed: int) -> dict[str, Any]:
    """The configuration of a run as YAML has it."""
    folder, (recipe, epochs) = study.out / str(seed), name.split("@")
    base = "teacher" if recipe == "teacher" else "baseline"
    config: dict[str, Any] = yaml.safe_load(find_config(Path(f"demo/{base}.yaml")).read_text())
    heights = min_heights_px(SIZE)
    config |= {"out": str(folder / name), "seed": seed, "epochs": int(epochs)}
    config["data"] |= {"root": str(folder / "data"), "min_height_px": heights[-1]}
    config["data"]["batch_size"] = BATCHES.get(recipe, BATCH)
    config["data"]["train"] = study.split
    config["validation"]["min_heights_px"] = list(heights)
    config["channels_last"] = True  # a fifth faster, for networks as narrow as these
    if study.validations is not None:
        config["validation"]["every"] = -(-int(epochs) // study.validations)
    config["optimizer"] = {
        "gradient_clip": 10,
        "ema": EMA,
        "schedule": {"base": RATE, "warmup_epochs": 3, "cosine": True},
    }
    if recipe == "teacher" or not RECIPES[recipe]:
        return config
    teacher = str(folder / study.teacher / "model.safetensors")
    terms = RECIPES[recipe]
    taps = dict.fromkeys(["neck.4", *(tap for term in terms.values() for tap in term.get("taps", []))])
    config["distillation"] = {
        "teacher": teacher,
        "taps": [{"student": tap, "adapter": "conv"} for tap in taps],
        "terms": terms,
        "record_every": 40,
    }
    if recipe == "inherit":
        config["start"] = {"inherit": teacher}
    if recipe in COSTS:  # those whose steps see frames without labels too
        config["data"]["unlabelled"] = {"ratio": 1.0, "threshold": 0.3}
    return config


def known(out: Path) -> list[dict[str, Any]]:
    """Every run that is done."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("[0-9]*/*@*.json"))]


def known_before(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs of a file of results that are not among these; the same run of other code is another."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row.get("labelled", LABELLED), row["seed"], row["cell"], row["commit"]

    anew = {key(row) for row in rows}
    return [row for row in json.loads(path.read_text())["runs"] if key(row) not in anew] if path.is_file() else []


def table(rows: list[dict[str, Any]]) -> str:
    """A line a cell: its AP, its depth error, and its gain over both controls, paired by seed, with 95 % intervals."""
    by_cell: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_cell.setdefault(row["cell"], {})[row["seed"]] = row
    lines = ["cell                    seeds   AP3D  depth[m]   to equal steps           to equal time"]
    for name in sorted(by_cell, key=lambda cell: (int(cell.split("@")[1]), cell)):
        runs, (recipe, epochs) = by_cell[name], name.split("@")
        gains = ["", ""]
        if RECIPES.get(recipe):
            controls = [f"control@{same(recipe, int(epochs))}" for same in (equal_steps, equal_time)]
            gains = [gain(runs, by_cell.get(control, {})) for control in controls]
        points = statistics.mean(run["Car 3d 0.5"] for run in runs.values())
        depth = statistics.mean(run["depth median"] for run in runs.values())
        lines.append(f"{name:24}{len(runs):5}{points:7.1f}{depth:10.2f}   {gains[0]:25}{gains[1]}")
    return "\n".join(lines)


def gain(runs: dict[int, dict[str, Any]], controls: dict[int, dict[str, Any]], key: str = "Car 3d 0.5") -> str:
    """The mean difference (in AP3D) of common seeds and, from three seeds, its 95 % interval (Student's t)."""
    differences = [run[key] - controls[seed][key] for seed, run in runs.items() if seed in controls]
    if not differences:
        return ""
    mean = statistics.mean(differences)
    if len(differences) < 3:
        return f"{mean:+.1f} ({len(differences)})"
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = float(student_t.ppf(0.975, len(differences) - 1)) * error
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


if __name__ == "__main__":
    main()
