"""What `doctor`, `prepare` and `synth` cost a frame, and what reading and writing do: `python benchmarks/frames.py`.

Frames of KITTI's size are rendered, or read from `--root` (which is copied first). Each job runs in this process, with
one thread, in turns with the bare work that no program can avoid: to read the files, to encode what is written. The
first round warms up.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from monoskd.engine.callbacks import commit, versions
from monoskd.files import write_json
from monoskd.kitti.doctor import examine
from monoskd.kitti.io import read_image
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import prepare
from monoskd.synthetic import synthesize

SIZE = (1242, 375)
READ = ("image_2", "calib", "label_2", "velodyne", "depth_2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a data set in KITTI's layout with sweeps")
    parser.add_argument("--frames", type=int, default=12, help="to render")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "frames.json")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        if options.root:
            shutil.copytree(options.root, root)
        else:
            render(root, frames=options.frames)
        prepare(root, workers=1)
        milliseconds = in_turns(jobs(root, Path(folder) / "rendered"), rounds=options.rounds)
    write_json(
        options.out,
        {
            "schema": "monoskd/frame-cost/1",
            "versions": versions(),
            "commit": commit(),
            "root": str(options.root or "rendered"),
            "cpu_ms_a_frame": milliseconds,
        },
    )


def render(root: Path, *, frames: int) -> None:
    """Render a data set anew."""
    shutil.rmtree(root, ignore_errors=True)
    synthesize(root, frames=frames, val=0.25, seed=0, size=SIZE, workers=1)


def jobs(root: Path, rendered: Path) -> dict[str, tuple[int, Callable[[], Any]]]:
    """What is timed, and for how many frames."""
    layout = KittiLayout(root)
    names = layout.frames("image_2")
    files = [path for kind in READ for path in layout.folder(kind).iterdir()]
    sweeps = [layout.velodyne(name) for name in names]
    depths = [np.asarray(cv2.imread(str(layout.depth(name)), cv2.IMREAD_UNCHANGED)) for name in names]
    pictures = [np.ascontiguousarray(read_image(layout.image(name))[..., ::-1]) for name in names]
    few = max(1, len(names) // 4)
    return {
        "doctor": (len(names), lambda: examine(root)),
        "reading every file": (len(names), lambda: [path.read_bytes() for path in files]),
        "decoding every picture": (len(names), lambda: [cv2.imread(str(layout.image(name))) for name in names]),
        "prepare": (len(names), lambda: prepare(root, workers=1, force=True)),
        "prepare, maps that are there": (len(names), lambda: prepare(root, workers=1)),
        "reading a sweep, encoding a map": (
            len(names),
            lambda: [
                (path.read_bytes(), cv2.imencode(".png", map_)) for path, map_ in zip(sweeps, depths, strict=True)
            ],
        ),
        "synth": (few, lambda: render(rendered, frames=few)),
        "encoding a picture": (len(names), lambda: [cv2.imencode(".png", picture) for picture in pictures]),
    }


def in_turns(forms: dict[str, tuple[int, Callable[[], Any]]], *, rounds: int) -> dict[str, float]:
    """Median CPU milliseconds a frame of each."""
    spent: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds + 1):
        for form, (frames, job) in forms.items():
            start = time.process_time()
            job()
            spent[form].append((time.process_time() - start) / frames)
    found = {form: round(1000 * statistics.median(times[1:]), 2) for form, times in spent.items()}
    for form, value in found.items():
        print(f"{form}: {value} CPU ms a frame", flush=True)
    return found


if __name__ == "__main__":
    main()
