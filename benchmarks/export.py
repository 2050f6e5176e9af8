"""Exported networks beside their model file: `monoskd demo --out demo`, then `python benchmarks/export.py --demo demo`.

The demo's student as a model file and as ONNX in float32, float16 and int8 (calibrated on its training frames): size,
Car AP|R40 moderate on the held-out rendered frames, milliseconds a picture with one thread, and the seconds of
`monoskd predict` on one picture, the start of Python included. Times are those of the processor, so that other work on
the machine does not count. Files that are in `--out` already are not exported again.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import onnxruntime
import torch

from monoskd.demo.story import min_heights_px
from monoskd.engine.callbacks import commit, versions
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.inference.export import Precision, export
from monoskd.inference.open_model import open_predictor
from monoskd.kitti.source import KittiFrames

COLUMNS = {"bbox": 0.7, "bev": 0.5, "3d": 0.5}  # overlaps of cars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="what `monoskd demo` wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/export"), help="where the exported files go")
    parser.add_argument("--frames", type=int, default=None, help="held-out frames; without it all")
    parser.add_argument("--starts", type=int, default=3, help="how often `predict` is started; the median counts")
    parser.add_argument("--json", type=Path, default=None, help="write what was measured")
    options = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    model, data = options.demo / "runs" / "baseline" / "model.safetensors", options.demo / "data"
    files = {"model file": model} | {name: options.out / f"{name}.onnx" for name in get_args(Precision)}
    for precision in get_args(Precision):
        if not files[precision].is_file():
            export(model, files[precision], precision=precision, data=data if precision == "int8" else None)
    rows = [measured(name, path, data, options) for name, path in files.items()]
    if options.json:
        record = {
            "command": sys.argv,
            "commit": commit(),
            "versions": versions() | {"onnxruntime": onnxruntime.__version__},
        }
        options.json.write_text(json.dumps({"schema": "monoskd/export/1", **record, "rows": rows}, indent=1) + "\n")


def measured(name: str, path: Path, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table, which is printed."""
    source = KittiFrames(data, split="val", depth=False)
    frames = [source.read(frame) for frame in source.names[: options.frames]]
    predictor = open_predictor(path)
    predictor.batch(frames[:1])
    start = time.process_time()
    detections = [predictor(frame.image, frame.camera).to_objects() for frame in frames]
    milliseconds = 1000 * (time.process_time() - start) / len(frames)
    heights = min_heights_px(frames[0].size)
    truth = [frame.objects for frame in frames if frame.objects is not None]
    table = evaluate_kitti(truth, detections, classes=("Car",), min_heights=heights).rows()
    ap = {
        row["metric"]: row["moderate"]
        for row in table
        if row["recall"] == "R40" and COLUMNS.get(row["metric"]) == row["iou"]
    }
    image, calibration = (data / "training" / kind for kind in (f"image_2/{source.names[0]}.png", "calib"))
    starts = sorted(start_seconds(path, image, calibration) for _ in range(options.starts))
    row = {
        "model": name,
        "mib": path.stat().st_size / 2**20,
        "ap": ap,
        "ms": milliseconds,
        "start_s": starts[len(starts) // 2],
    }
    numbers = " | ".join(f"{ap[metric]:.2f}" for metric in COLUMNS)
    print(f"| {name} | {row['mib']:.2f} | {numbers} | {milliseconds:.1f} | {row['start_s']:.2f} |", flush=True)
    return row


def start_seconds(model: Path, image: Path, calibration: Path) -> float:
    """How long the processor works on `monoskd predict` with one picture."""
    with tempfile.TemporaryDirectory() as out:
        words = ["predict", image, "--model", model, "--calib", calibration, "--out", out]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "monoskd", *map(str, words)], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
