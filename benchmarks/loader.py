"""Images a second of one loader process, with depth maps and targets: `python benchmarks/loader.py [--frames 8]`.

Frames of KITTI's size are rendered, or read from `--root`. Compared, in turns: the loader as it is, the loader with
`cache: true` once the frames are there, and what the original does: decode by PIL, warp picture and depth map by PIL's
affine transform, turn the colours into normalised floats; with the same targets. Then the parts: decoding by PIL and by
OpenCV, and both kinds of warp. CPU milliseconds a frame; the first round warms up.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from monoskd.data.samples import Samples
from monoskd.data.transforms import Augmentation, warp_depth, warp_image, warp_published
from monoskd.engine.callbacks import commit, versions
from monoskd.files import write_json
from monoskd.geometry.camera import Letterbox
from monoskd.kitti.io import read_image
from monoskd.kitti.prepare import prepare
from monoskd.kitti.source import KittiFrames
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.structures import PublishedData
from monoskd.synthetic import synthesize

SIZE, INPUT_SIZE = (1242, 375), (1280, 384)
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a data set in KITTI's layout with depth maps")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "loader.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or rendered(Path(folder) / "data", frames=options.frames)
        milliseconds = in_turns(actions(root), frames=options.frames, rounds=options.rounds)
    document: dict[str, Any] = {
        "schema": "monoskd/loader-cost/1",
        "versions": versions(),
        "commit": commit(),
        "cpu_ms_a_frame": milliseconds,
        "times_the_original's_speed": {
            form: round(milliseconds["original"] / milliseconds[form], 2) for form in ("loader", "loader, cached")
        },
    }
    print(document["times_the_original's_speed"])
    write_json(options.out, document)


def rendered(root: Path, *, frames: int) -> Path:
    """A data set of rendered frames."""
    synthesize(root, frames=frames, val=0, seed=0, size=SIZE, workers=1)
    prepare(root, workers=1)
    return root


def actions(root: Path) -> dict[str, Callable[[int], Any]]:
    """What is timed, each a function of a frame's number."""
    source = KittiFrames(root)
    names = source.names
    detector = DidM3D(DidM3DConfig(pretrained=False, input_size=INPUT_SIZE))
    options: dict[str, Any] = {"input_size": INPUT_SIZE, "augmentation": Augmentation()}
    ours = Samples(source, targets=detector.target_maker(), **options)
    cached = Samples(source, targets=detector.target_maker(), cache=True, **options)
    quirks = PublishedData.all()
    published = Samples(source, targets=detector.target_maker(published=quirks), published=quirks, **options)

    def original(number: int) -> Any:
        sample = published[number % len(names)]
        return (sample.image.numpy() / np.float32(255) - MEAN[:, None, None]) / STD[:, None, None]

    letterbox = Letterbox.fit(width=SIZE[0], height=SIZE[1], size=INPUT_SIZE)
    frame = source.read(names[0])
    pictures = [source.layout.image(name) for name in names]
    depths = [source.layout.depth(name) for name in names]
    return {
        "original": original,
        "loader": lambda number: ours[number % len(names)],
        "loader, cached": lambda number: cached[number % len(names)],
        "reading a picture": lambda number: read_image(pictures[number % len(names)]),
        "picture by PIL": lambda number: np.array(Image.open(pictures[number % len(names)]).convert("RGB")),
        "picture by OpenCV": lambda number: cv2.imread(str(pictures[number % len(names)])),
        "depth map by PIL": lambda number: np.array(Image.open(depths[number % len(names)])),
        "depth map by OpenCV": lambda number: cv2.imread(str(depths[number % len(names)]), cv2.IMREAD_UNCHANGED),
        "warp of a picture": lambda number: warp_image(frame.image, letterbox),
        "warp of a depth map": lambda number: warp_depth(frame.depth_m, letterbox),
        "original's warp of a picture": lambda number: warp_published(frame.image, letterbox),
        "original's warp of a depth map": lambda number: warp_published(frame.depth_m, letterbox),
    }


def in_turns(forms: dict[str, Callable[[int], Any]], *, frames: int, rounds: int) -> dict[str, float]:
    """Median CPU milliseconds a frame of each."""
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds + 1):
        for form, action in forms.items():
            start = time.process_time()
            for number in range(frames):
                action(number)
            seconds[form].append((time.process_time() - start) / frames)
    found = {form: round(1000 * statistics.median(times[1:]), 2) for form, times in seconds.items()}
    for form, value in found.items():
        print(f"{form}: {value} CPU ms a frame", flush=True)
    return found


if __name__ == "__main__":
    main()
