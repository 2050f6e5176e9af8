"""Real KITTI frames end to end: doctor, depth maps, a teacher and a student that learn them by heart, predictions.

    python benchmarks/overfit.py --root data/kitti --out runs/overfit

It proves that files, geometry, targets, losses and decoding agree on real input; it says nothing about new frames. The
small networks of `configs/kitti/overfit_*.yaml` start from nothing. `--root` is not written to: depth maps and links to
its files go under `--out`. Pictures of every frame go to `OUT/<run>/drawn`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from monoskd.data.doctor import examine
from monoskd.data.prepare import prepare
from monoskd.engine.callbacks import commit, versions
from monoskd.engine.measure import evaluate_model

RUNS = ("teacher", "student")
GOAL_AP = 80.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="KITTI frames in the object layout")
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--threads", type=int, default=1, help="of each training; the two run side by side")
    parser.add_argument("--json", type=Path, default=None, help="write what was measured")
    options = parser.parse_args()

    data = link(options.root, options.out / "data")
    print(prepare(data))
    print(examine(data).verdict)
    started = time.perf_counter()
    trainings = [train(run, data=data, out=options.out, threads=options.threads) for run in RUNS]
    for training in trainings:
        if training.wait():
            sys.exit(f"a training failed: {' '.join(map(str, training.args))}")
    minutes = (time.perf_counter() - started) / 60
    results = {run: car_ap(options.out / run / "model.safetensors", data) for run in RUNS}
    for run, ap in results.items():
        print(f"{run}: Car AP3D|R40 moderate on its own training frames: {ap}; goal {GOAL_AP} at 0.5")
    print(f"both trained side by side in {minutes:.1f} minutes")
    predict(options.out / "student" / "model.safetensors", data=data, out=options.out / "student")
    if options.json:
        record = {"command": sys.argv, "commit": commit(), "versions": versions(), "minutes": minutes, "ap": results}
        options.json.write_text(json.dumps({"schema": "monoskd/overfit/1", **record}, indent=1) + "\n")


def link(root: Path, data: Path) -> Path:
    """A writable data set whose files are those of `root`."""
    (data / "training").mkdir(parents=True, exist_ok=True)
    parts = ["ImageSets", *(f"training/{kind}" for kind in ("image_2", "calib", "label_2", "velodyne"))]
    for part in parts:
        if not (data / part).exists():
            (data / part).symlink_to((root / part).resolve())
    return data


def train(run: str, *, data: Path, out: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start `monoskd train kitti/overfit_<run>.yaml`."""
    options = {"data.root": data, "out": out / run, "threads": threads}
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    return subprocess.Popen([sys.executable, "-m", "monoskd", "train", f"kitti/overfit_{run}.yaml", *words])


def car_ap(model: Path, data: Path) -> dict[str, float | None]:
    """Car AP3D|R40 moderate by overlap, on the frames that the model was trained on."""
    rows = evaluate_model(model, root=data, split="trainval", classes=("Car",)).rows()
    chosen = [row for row in rows if row["metric"] == "3d" and row["recall"] == "R40"]
    return {f"{row['iou']:g}": row["moderate"] for row in chosen}


def predict(model: Path, *, data: Path, out: Path) -> None:
    """`monoskd predict` on the frames' pictures, drawn."""
    training = data / "training"
    command = [sys.executable, "-m", "monoskd", "predict", training / "image_2", "--model", model]
    subprocess.run([*map(str, command), "--calib", training / "calib", "--out", out, "--draw"], check=True)


if __name__ == "__main__":
    main()
