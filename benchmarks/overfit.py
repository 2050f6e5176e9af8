"""Real KITTI frames end to end: doctor, depth maps, a teacher and a student that learn them by heart, predictions.

    python benchmarks/overfit.py --root data/kitti --out runs/overfit

It proves that files, geometry, targets, losses and decoding agree on real input; it says nothing about new frames. The
small networks of `configs/kitti/overfit_*.yaml`, or of another detector's folder there, start from nothing. `--root` is
not written to: depth maps and links to its files go under `--out`. Pictures of every frame go to `OUT/student/drawn`;
`--docs DIR` draws what both networks see in a few frames from above, without a photograph.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.demo.story import recipes
from monoskd.engine.callbacks import commit, versions
from monoskd.engine.launch import Launch, train_side_by_side
from monoskd.engine.measure import Measurement, labelled_batches, measure
from monoskd.evaluation.evaluator import KittiEvaluator
from monoskd.inference.draw import draw_birds_eye
from monoskd.kitti.doctor import examine
from monoskd.kitti.prepare import prepare
from monoskd.models.weights import load_model
from monoskd.objects import Objects

RUNS = ("teacher", "student")
SCHEMA = "monoskd/overfit/2"
GOAL_AP = 80.0
DRAWN = 3  # frames from above
SURE = 0.1  # least score of what is drawn: heat times confidence in the depth, which so short a training leaves low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="KITTI frames in the object layout")
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    known = recipes(Path("kitti/overfit_student.yaml"))
    parser.add_argument("--detector", choices=list(known), default=next(iter(known)))
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--one-by-one", action="store_true", help="train one after the other, not side by side")
    parser.add_argument("--json", type=Path, default=None, help="write what was measured beside what is there")
    parser.add_argument("--docs", type=Path, default=None, help="folder for real.jpg, the street from above")
    options = parser.parse_args()

    data = link(options.root, options.out / "data")
    print(prepare(data))
    print(examine(data).verdict)
    choice = {"data.root": data, "threads": options.threads}
    launches = [Launch(known[options.detector] / f"overfit_{run}.yaml", options.out / run, choice) for run in RUNS]
    for together in [[one] for one in launches] if options.one_by_one else [launches]:
        train_side_by_side(together)
    found = {run: measured(options.out / run / "model.safetensors", data) for run in RUNS}
    results = {run: car_ap(measurement) for run, measurement in found.items()}
    minutes = {run: minutes_of(options.out / run) for run in RUNS}
    for run, ap in results.items():
        print(f"{run}: Car AP3D|R40 moderate on its own training frames: {ap}; goal {GOAL_AP} at 0.5")
        print(f"{run}: {minutes[run]:.1f} minutes{'' if options.one_by_one else ', beside the other'}")
    predict(options.out / "student" / "model.safetensors", data=data, out=options.out / "student")
    if options.docs:
        streets = from_above(*(found[run].detections for run in RUNS))
        cv2.imwrite(str(options.docs / "real.jpg"), streets[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    if options.json:
        record = {"command": sys.argv, "commit": commit(), "versions": versions(), "minutes": minutes, "ap": results}
        write_beside(options.json, options.detector, record)


def write_beside(path: Path, detector: str, record: dict[str, Any]) -> None:
    """Write what was measured of a detector; what the file says of others stays."""
    others = json.loads(path.read_text())["detectors"] if path.exists() else {}
    document = {"schema": SCHEMA, "detectors": others | {detector: record}}
    path.write_text(json.dumps(document, indent=1) + "\n")


def link(root: Path, data: Path) -> Path:
    """A writable data set whose files are those of `root`."""
    (data / "training").mkdir(parents=True, exist_ok=True)
    parts = ["ImageSets", *(f"training/{kind}" for kind in ("image_2", "calib", "label_2", "velodyne"))]
    for part in parts:
        if not (data / part).exists():
            (data / part).symlink_to((root / part).resolve())
    return data


def measured(model: Path, data: Path) -> Measurement:
    """What a model finds on the frames that it was trained on."""
    detector = load_model(model)
    return measure(detector, labelled_batches(detector, data, split="trainval"), Measurement())


def minutes_of(run: Path) -> float:
    """How long a run took."""
    manifest = json.loads((run / "manifest.json").read_text())
    return float(manifest["total_seconds"]) / 60


def car_ap(measurement: Measurement) -> dict[str, float | None]:
    """Car AP3D|R40 moderate by overlap."""
    rows = KittiEvaluator(("Car",)).evaluate(measurement.truth, measurement.detections).rows()
    chosen = [row for row in rows if row["metric"] == "3d" and row["recall"] == "R40"]
    return {f"{row['iou']:g}": row["moderate"] for row in chosen}


def from_above(teacher: Sequence[Objects], student: Sequence[Objects]) -> NDArray[np.uint8]:
    """The frames in which the student is sure of most objects: its boxes filled, the teacher's in outline."""
    sure = [[one[one.scores > SURE] for one in found] for found in (student, teacher)]
    fullest = sorted(range(len(student)), key=lambda i: len(sure[0][i]), reverse=True)[:DRAWN]
    return np.hstack([draw_birds_eye(sure[0][i], teacher=sure[1][i]) for i in fullest])


def predict(model: Path, *, data: Path, out: Path) -> None:
    """`monoskd predict` on the frames' pictures, drawn."""
    training = data / "training"
    command = [sys.executable, "-m", "monoskd", "predict", training / "image_2", "--model", model]
    command += ["--calib", training / "calib", "--out", out, "--score", SURE, "--draw"]
    subprocess.run([*map(str, command)], check=True)


if __name__ == "__main__":
    main()
