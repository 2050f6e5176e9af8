"""Real drives through the whole path: `python benchmarks/real.py --root data/drives --out runs/real`.

ROOT is a data set in KITTI's layout whose splits train and val are of different drives, with LiDAR. For each seed: a
teacher and a baseline; then, both from that baseline and both of as many steps, MonoSKD and its control, which has no
teacher. `rendered` is trained on rendered frames, and `transfer` is the baseline that starts from it. Each training is
`monoskd train` in a process of its own with one thread. Called again, it goes on where it stopped; what is known is in
OUT/<seed>/<run>.json, and is printed. `--quick` is the small form: one seed, two epochs, to see that everything runs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from monoskd.engine.callbacks import commit, versions
from monoskd.engine.load import find_config
from monoskd.engine.measure import Measurement, labelled_batches, measure
from monoskd.kitti.doctor import examine
from monoskd.kitti.prepare import prepare
from monoskd.models.weights import load_model
from monoskd.objects import KITTI_HEIGHT_PX, MIN_HEIGHT_PX
from monoskd.synthetic import synthesize

EPOCHS = {"teacher": 90, "rendered": 60, "baseline": 60, "transfer": 60, "control": 30, "monoskd": 30}
"""Epochs of 27 steps on 136 frames; in this order, as the later ones start from the earlier."""

STARTS = {"transfer": "rendered", "control": "baseline", "monoskd": "baseline"}
STAGES = (("teacher", "baseline", "rendered"), ("transfer", "control", "monoskd"))
RENDERED_FRAMES, RENDERED_SIZE = 160, (640, 192)
QUICK_EPOCHS, QUICK_FRAMES = 2, 8
COLUMNS = ("Car 3d 0.5", "Car bev 0.5", "Car 3d 0.7", "depth median")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="drives with LiDAR in KITTI's layout; not written to")
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, one thread each")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs, eight rendered frames")
    parser.add_argument("--json", type=Path, default=None, help="write what was measured")
    options = parser.parse_args()

    seeds = options.seeds[:1] if options.quick else options.seeds
    torch.set_num_threads(1)
    data = link(options.root, options.out / "data")
    print(f"{prepare(data)}\n{examine(data).verdict}", flush=True)
    render(options.out / "rendered", frames=QUICK_FRAMES if options.quick else RENDERED_FRAMES)
    with ThreadPoolExecutor(options.jobs) as pool:
        for stage in STAGES:
            jobs = [(seed, name) for seed in seeds for name in stage]
            list(pool.map(lambda job: run(options.out, *job, quick=options.quick), jobs))
    rows = [json.loads((options.out / str(seed) / f"{name}.json").read_text()) for seed in seeds for name in EPOCHS]
    print(table(rows))
    if options.json:
        record = {"command": sys.argv, "commit": commit(), "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps({"schema": "monoskd/real/1", **record}, indent=1) + "\n")


def link(root: Path, data: Path) -> Path:
    """A writable data set whose files are those of `root`."""
    (data / "training").mkdir(parents=True, exist_ok=True)
    for part in ["ImageSets", *(f"training/{kind}" for kind in ("image_2", "calib", "label_2", "velodyne"))]:
        if not (data / part).exists():
            (data / part).symlink_to((root / part).resolve())
    return data


def render(folder: Path, *, frames: int) -> None:
    """Rendered frames with depth maps, to pretrain on."""
    synthesize(folder, frames=frames, val=0.25, seed=0, size=RENDERED_SIZE)
    prepare(folder)


def run(out: Path, seed: int, name: str, *, quick: bool) -> None:
    """Train and measure one run, unless that is done."""
    folder, result = out / str(seed) / name, out / str(seed) / f"{name}.json"
    if result.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    train(configured(out, seed, name, epochs=QUICK_EPOCHS if quick else EPOCHS[name]))
    manifest = json.loads((folder / "manifest.json").read_text())
    row = {"seed": seed, "run": name, "minutes": float(manifest["total_seconds"]) / 60}
    row |= measured(folder / "model.safetensors", out / "data")
    result.write_text(json.dumps(row) + "\n")
    print(f"seed {seed} {name}: " + ", ".join(f"{key} {row[key]}" for key in COLUMNS), flush=True)


def configured(out: Path, seed: int, name: str, *, epochs: int) -> dict[str, Any]:
    """The configuration of a run as YAML has it: the small network of the overfitting proof, with augmentation."""
    base = "overfit_teacher" if name == "teacher" else "overfit_student"
    config: dict[str, Any] = yaml.safe_load(find_config(Path(f"kitti/{base}.yaml")).read_text())
    folder = out / str(seed)
    data = {"root": str(out / ("rendered" if name == "rendered" else "data")), "train": "train", "val": "val"}
    config["data"] = {**config["data"], **data}
    del config["data"]["augmentation"]  # the default, not none
    config |= {"out": str(folder / name), "seed": seed, "epochs": epochs, "threads": 1, "validation": {"every": 0}}
    config["optimizer"]["schedule"]["milestones"] = [epochs * 3 // 4, epochs * 9 // 10]
    config["optimizer"]["schedule"]["warmup_epochs"] = min(2, epochs // 2)
    if name == "rendered":
        config["data"]["min_height_px"] = MIN_HEIGHT_PX * RENDERED_SIZE[1] / KITTI_HEIGHT_PX
    if name in STARTS:
        config["start"] = str(folder / STARTS[name] / "model.safetensors")
        del config["detector"]  # the start's
    if name == "monoskd":
        recipe = yaml.safe_load(find_config(Path("demo/monoskd.yaml")).read_text())["distillation"]
        config["distillation"] = recipe | {"teacher": str(folder / "teacher" / "model.safetensors")}
    return config


def train(config: dict[str, Any]) -> None:
    """`monoskd train` in a process of its own with one thread; the configuration and the log lie beside its folder."""
    folder = Path(config["out"])
    folder.mkdir(parents=True)
    folder.with_suffix(".yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with folder.with_suffix(".log").open("w") as log:
        command = [sys.executable, "-m", "monoskd", "train", str(folder.with_suffix(".yaml"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=True)


def measured(model: Path, data: Path) -> dict[str, float | None]:
    """Moderate AP|R40 of cars and the depth error at labelled objects, on the drives that were held out."""
    detector: Any = load_model(model)
    measurement = measure(detector, labelled_batches(detector, data, split="val"), Measurement(classes=("Car",)))
    rows = [row for row in measurement.evaluation().rows() if row["recall"] == "R40" and row["metric"] in ("bev", "3d")]
    found = {f"Car {row['metric']} {row['iou']:g}": row["moderate"] for row in rows}
    return found | {f"depth {name}": value for name, value in measurement.depth_error_m().items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds of each run."""
    lines = [f"| run | {' | '.join(COLUMNS)} | minutes |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in EPOCHS:
        cells = []
        for key in (*COLUMNS, "minutes"):
            values = [row[key] for row in rows if row["run"] == name and row[key] is not None]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.2f}{spread}" if values else "none")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
