"""Rendered scenes: how fast they come, and how near their labels are to KITTI's.

    python benchmarks/synthetic.py speed                    # frames/s at three sizes, with 2 processes
    python benchmarks/synthetic.py statistics --frames 400  # rendered labels beside the official ones

The official labels are read from `kitti_annotations.tar.xz` in MONOSKD_SHARED (default ../shared); without it only the
rendered column is printed.
"""

import argparse
import os
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from monoskd.data.kitti_io import parse_objects
from monoskd.data.synthetic import synthesize
from monoskd.data.synthetic.frame import label_frame
from monoskd.objects import Objects

SHARED = Path(os.environ.get("MONOSKD_SHARED", Path(__file__).parents[2] / "shared"))
CLASSES = ("Car", "Pedestrian", "Cyclist", "Van", "Truck")
SIZES = ((320, 96), (416, 128), (1242, 375))


def speed(frames: int, workers: int) -> None:
    """Files included, processes included."""
    print(f"frames/s with {workers} processes ({frames} frames each)")
    for width, height in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            synthesize(Path(folder) / "data", frames=frames, size=(width, height), workers=workers)
            print(f"  {width}x{height}: {frames / (time.perf_counter() - start):.2f}")


def official_labels() -> list[Objects]:
    """All label files of the official training set."""
    with tarfile.open(SHARED / "kitti_annotations.tar.xz") as archive:
        members = [member for member in archive if member.name.startswith("label_2/") and member.isfile()]
        texts = [(member.name, archive.extractfile(member)) for member in members]
        return [parse_objects(file.read().decode(), source=name) for name, file in texts if file is not None]


def rendered_labels(frames: int, seed: int, workers: int) -> list[Objects]:
    """The labels of rendered frames at 416 x 128, without shading them."""
    with get_context("spawn").Pool(workers) as pool:
        return pool.map(partial(label_frame, seed, size=(416, 128)), range(frames), chunksize=8)


def statistics(labels: Sequence[Objects]) -> dict[str, str]:
    """Rows of the comparison by name."""
    rows = {}
    table = {
        field.name: np.concatenate([getattr(one, field.name) for one in labels])
        for field in fields(Objects)
        if field.name != "scores"
    }
    for name in CLASSES:
        mine = table["names"] == name
        row = {key: column[mine] for key, column in table.items()}
        holding = np.mean([name in one.names for one in labels])
        rows[f"{name}: a frame; frames with one"] = f"{mine.sum() / len(labels):.2f}; {holding:.0%}"
        rows[f"{name}: z 5/25/50/75/95 % [m]"] = _numbers(np.percentile(row["bottom"][:, 2], [5, 25, 50, 75, 95]), 0)
        rows[f"{name}: x 5/25/50/75/95 % [m]"] = _numbers(np.percentile(row["bottom"][:, 0], [5, 25, 50, 75, 95]), 1)
        rows[f"{name}: mean (h, w, l) [m]"] = _numbers(row["dimensions"].mean(0), 2)
        rows[f"{name}: deviation (h, w, l) [m]"] = _numbers(row["dimensions"].std(0), 2)
        rows[f"{name}: occlusion 0/1/2/3 [%]"] = _numbers([100 * np.mean(row["occlusion"] == k) for k in range(4)], 0)
        rows[f"{name}: truncated > 0; > 0.3 [%]"] = _numbers(
            [100 * np.mean(row["truncation"] > t) for t in (0, 0.3)], 0
        )
        away = np.abs(np.angle(np.exp(1j * (row["yaw"] + np.pi / 2)))) < np.pi / 4
        towards = np.abs(np.angle(np.exp(1j * (row["yaw"] - np.pi / 2)))) < np.pi / 4
        shares = [away.mean(), towards.mean(), 1 - away.mean() - towards.mean()]
        rows[f"{name}: heads away/towards/across [%]"] = _numbers(100 * np.array(shares), 0)
    rows["DontCare: a frame"] = f"{np.mean([np.sum(one.names == 'DontCare') for one in labels]):.2f}"
    return rows


def _numbers(values: Sequence[float] | np.ndarray, decimals: int) -> str:
    return " / ".join(f"{value:.{decimals}f}" for value in values)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "statistics"])
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what == "speed":
        speed(arguments.frames, arguments.workers)
        return
    rendered = statistics(rendered_labels(arguments.frames, arguments.seed, arguments.workers))
    archive = SHARED / "kitti_annotations.tar.xz"
    official = statistics(official_labels()) if archive.is_file() else dict.fromkeys(rendered, f"no {archive.name}")
    print("| | KITTI | rendered |\n|---|---|---|")
    for name, value in rendered.items():
        print(f"| {name} | {official[name]} | {value} |")


if __name__ == "__main__":
    main()
