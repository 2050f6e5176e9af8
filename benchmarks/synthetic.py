"""Rendered scenes: how fast they come, and how near their labels are to KITTI's.

    python benchmarks/synthetic.py speed                    # frames/s at three sizes, with 2 processes
    python benchmarks/synthetic.py statistics --frames 400  # rendered labels beside the official ones
    python benchmarks/synthetic.py sheet --out sheet.jpg    # what they look like, some with their 2D boxes

The official labels are read from `kitti_annotations.tar.xz` in MONOSKD_SHARED (default ../shared); without it only the
rendered column is printed.
"""

import argparse
import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from monoskd.kitti.io import parse_objects
from monoskd.objects import Objects
from monoskd.synthetic import render_frame, synthesize
from monoskd.synthetic.frame import label_frame

SHARED = Path(os.environ.get("MONOSKD_SHARED", Path(__file__).parents[2] / "shared"))
CLASSES = ("Car", "Pedestrian", "Cyclist", "Van", "Truck")
BOX_COLOURS = {0: (0, 255, 0), 1: (0, 190, 255), 2: (0, 0, 255)}  # BGR; DontCare is not drawn
SIZES = ((320, 96), (416, 128), (1242, 375))


def speed(frames: int, workers: int) -> None:
    """Files and start of the processes included. CPU time says the same on a busy machine."""
    print(f"{frames} frames each, {workers} processes")
    for width, height in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            start, cpu_start = time.perf_counter(), _cpu_seconds()
            synthesize(Path(folder) / "data", frames=frames, size=(width, height), workers=workers)
            rate, cpu = frames / (time.perf_counter() - start), (_cpu_seconds() - cpu_start) / frames
            print(f"  {width}x{height}: {rate:.2f} frames/s, {cpu:.3f} s of CPU a frame")


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


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


def sheet(path: Path, seed: int) -> None:
    """Twelve frames, three a row; the last three with their 2D boxes, coloured by occlusion."""
    tiles = []
    for index in range(12):
        frame = render_frame(seed, index, (416, 128))
        tile = np.ascontiguousarray(frame.image[..., ::-1])
        for occlusion, box in zip(frame.objects.occlusion, frame.objects.boxes_2d, strict=True):
            left, top, right, bottom = (int(side) for side in box)
            colour = BOX_COLOURS.get(int(occlusion))
            if index >= 9 and colour is not None:
                cv2.rectangle(tile, (left, top), (right, bottom), colour, 1)
        tiles.append(tile)
    rows = [np.hstack(tiles[start : start + 3]) for start in range(0, 12, 3)]
    cv2.imwrite(str(path), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "statistics", "sheet"])
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("sheet.jpg"))
    arguments = parser.parse_args()
    if arguments.what == "sheet":
        sheet(arguments.out, arguments.seed)
        return
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
