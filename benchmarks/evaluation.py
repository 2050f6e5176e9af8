"""How long an evaluation takes beside merely reading and parsing its files: `python benchmarks/evaluation.py`.

Without arguments on made-up files as many and as full as those of KITTI's val split; or name real ones with --labels,
--predictions and --split. Each line is a whole cold process on one core, import and start of Python included, the
fastest of --repeats; the two kinds take turns, so that a busy machine slows both.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from monoskd.kitti.io import write_objects, write_split
from monoskd.objects import KITTI_MEAN_SIZES, Objects

FRAMES = 3769
OBJECTS_A_FRAME, DETECTIONS_A_FRAME = 7.1, 6.1
SHARES = (0.12, 0.82, 0.06)
FOCAL_PX, CENTRE_PX = 720.0, (610.0, 175.0)

READ_AND_PARSE = """
import sys
from pathlib import Path
labels, predictions, split = map(Path, sys.argv[1:])
tables = []
for frame in split.read_text().split():
    for path in (labels / f"{frame}.txt", predictions / f"{frame}.txt"):
        if path.exists():
            words = [line.split() for line in path.read_text().splitlines()]
            tables.append([[float(word) for word in line[1:]] for line in words])
"""

EVALUATE = """
import sys
from pathlib import Path
from monoskd.engine.evaluate import evaluate_folders
labels, predictions, split = map(Path, sys.argv[1:])
evaluate_folders(labels, predictions, split=split{options}).to_json()
"""

PROGRAMS = {
    "read and parse, plain Python": READ_AND_PARSE,
    "evaluate: all classes, metrics and overlaps": EVALUATE.format(options=""),
    "the same, by distance too": EVALUATE.format(options=", distances=True"),
    "the same, with anatomy": EVALUATE.format(options=", anatomy=True"),
    "the same, with 200 resamplings": EVALUATE.format(options=", bootstrap=200"),
}


def made_up(random: np.random.Generator, count: int) -> Objects:
    """A frame of objects on flat ground."""
    names = random.choice(list(KITTI_MEAN_SIZES), count, p=SHARES)
    dimensions = np.array([KITTI_MEAN_SIZES[name] for name in names]).reshape(-1, 3)
    bottom = np.stack([random.uniform(-20, 20, count), np.full(count, 1.65), random.uniform(5, 70, count)], 1)
    scale = FOCAL_PX / bottom[:, 2]
    u, v = CENTRE_PX[0] + scale * bottom[:, 0], CENTRE_PX[1] + scale * bottom[:, 1]
    half, height = scale * dimensions[:, 2] / 2, scale * dimensions[:, 0]
    yaw = random.uniform(-np.pi, np.pi, count)
    return Objects(
        names=names,
        truncation=np.zeros(count),
        occlusion=random.integers(0, 4, count),
        alpha=yaw - np.arctan2(bottom[:, 0], bottom[:, 2]),
        boxes_2d=np.stack([u - half, v - height, u + half, v], 1),
        dimensions=dimensions,
        bottom=bottom,
        yaw=yaw,
    )


def detected(random: np.random.Generator, truth: Objects) -> Objects:
    """Most of the objects, nearly right."""
    found = truth[random.random(len(truth)) < DETECTIONS_A_FRAME / OBJECTS_A_FRAME]
    return replace(
        found,
        bottom=found.bottom * random.normal(1, 0.02, (len(found), 1)),
        boxes_2d=found.boxes_2d + random.normal(0, 1, found.boxes_2d.shape),
        yaw=found.yaw + random.normal(0, 0.1, len(found)),
        scores=random.random(len(found)),
    )


def write_made_up(root: Path) -> tuple[Path, Path, Path]:
    """Labels, predictions and split of a made-up val split."""
    random = np.random.default_rng(0)
    frames = [f"{index:06d}" for index in range(FRAMES)]
    for frame, count in zip(frames, random.poisson(OBJECTS_A_FRAME, FRAMES), strict=True):
        truth = made_up(random, count)
        write_objects(root / "label_2" / f"{frame}.txt", truth)
        write_objects(root / "results" / f"{frame}.txt", detected(random, truth))
    write_split(root / "val.txt", frames)
    return root / "label_2", root / "results", root / "val.txt"


def seconds(program: str, paths: tuple[Path, Path, Path]) -> float:
    """Wall time of a fresh Python that runs the program on one core."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, *paths], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - start


def report(paths: tuple[Path, Path, Path], *, repeats: int) -> None:
    """Print the fastest time of each program and its ratio to the first."""
    times = {name: float("inf") for name in PROGRAMS}
    for _ in range(repeats):
        for name, program in PROGRAMS.items():
            times[name] = min(times[name], seconds(program, paths))
    base = next(iter(times.values()))
    for name, time_s in times.items():
        print(f"{name:45s} {time_s:6.2f} s  {time_s / base:5.2f} x")


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, help="folder of label files")
    parser.add_argument("--predictions", type=Path, help="folder of result files")
    parser.add_argument("--split", type=Path, help="file with the frames to evaluate")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is measured")
    options = parser.parse_args()
    given = (options.labels, options.predictions, options.split)
    if all(given):
        report(given, repeats=options.repeats)
    elif any(given):
        parser.error("expected --labels, --predictions and --split together, or none of them")
    else:
        with tempfile.TemporaryDirectory() as folder:
            report(write_made_up(Path(folder)), repeats=options.repeats)


if __name__ == "__main__":
    main()
