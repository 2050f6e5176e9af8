"""Rendered street scenes in KITTI layout, to use the library without a download. numpy and OpenCV only.

Every frame is a function of (seed, number): a street with its light and traffic is sampled (`scene`), rendered with a
z-buffer (`raster`, `shading`), swept by a 64-beam LiDAR (`lidar`) and labelled from what is visible (`labels`).
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from monoskd.errors import InputError
from monoskd.files import read_text, visible, write_atomically, write_text
from monoskd.kitti.io import write_calibration, write_objects, write_split, write_velodyne
from monoskd.kitti.layout import UNLABELLED, KittiLayout
from monoskd.synthetic.frame import RenderedFrame, render_frame
from monoskd.workers import map_in_processes

__all__ = ["RenderedFrame", "render_frame", "synthesize"]

MANIFEST = "synthetic.json"
_SIZE_LIMITS_PX = (32, 4096)
_MOST_FRAMES = 1_000_000  # six digits name a frame


def synthesize(
    root: Path,
    *,
    frames: int,
    val: float = 0.25,
    seed: int = 0,
    size: tuple[int, int] = (416, 128),
    unlabelled: int = 0,
    focal_px: tuple[float, float] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `frames` rendered frames of size (width, height) [px] in KITTI layout under `root`.

    val: the share of frames in `ImageSets/val.txt`; seed: every seed gives another data set; unlabelled: the number of
    further frames without labels, listed in `ImageSets/unlabelled.txt`, whose true objects are in `label_held_back`.
    focal_px: (lowest, highest) focal length, drawn for each frame; None: KITTI's field of view in all.
    workers: processes, one per core if None; progress: called with (frames done, frames in all) after each frame. After
    an interruption, a call with the same arguments continues where it stopped. The files are the same bytes for any
    number of workers. Raises InputError for arguments out of range and where `root` holds other data.
    """
    _check(frames=frames, unlabelled=unlabelled, val=val, seed=seed, size=size, focal_px=focal_px, workers=workers)
    manifest = {"schema": "monoskd/synthetic/1", "frames": frames, "val": val, "seed": seed, "size": list(size)}
    manifest |= {"focal_px": list(focal_px)} if focal_px else {}
    _claim(root, manifest | ({"unlabelled": unlabelled} if unlabelled else {}))
    layout = KittiLayout(root)
    labels = [layout.label(_name(index)) for index in range(frames)]
    labels += [layout.held_back(_name(index)) for index in range(frames, frames + unlabelled)]
    todo = [index for index, label in enumerate(labels) if not label.is_file()]
    render = partial(_write_frame, root, labels=labels, seed=seed, size=size, focal_px=focal_px)
    for count, _ in enumerate(map_in_processes(render, todo, workers=workers), start=len(labels) - len(todo) + 1):
        if progress is not None:
            progress(count, len(labels))
    _write_splits(layout, frames=frames, val=val, seed=seed)
    if unlabelled:
        write_split(layout.split(UNLABELLED), [_name(index) for index in range(frames, frames + unlabelled)])


def _check(
    *,
    frames: int,
    unlabelled: int,
    val: float,
    seed: int,
    size: tuple[int, int],
    focal_px: tuple[float, float] | None,
    workers: int | None,
) -> None:
    if not 1 <= frames + unlabelled <= _MOST_FRAMES or frames < 1 or unlabelled < 0:
        asked = f"{frames}, and {unlabelled} without labels" if unlabelled else frames
        raise InputError(f"frames: expected 1 to {_MOST_FRAMES}, got {asked}: choose another number")
    if not 0 <= val < 1:
        raise InputError(f"val: expected a share of the frames, at least 0 and below 1, got {val}: try 0.25")
    if seed < 0:
        raise InputError(f"seed: expected 0 or more, got {seed}: choose another number")
    low, high = _SIZE_LIMITS_PX
    if not all(low <= side <= high for side in size):
        raise InputError(f"size: expected {low} to {high} pixels each way, got {size[0]}x{size[1]}: try 416x128")
    if focal_px is not None and not size[0] / 20 <= focal_px[0] <= focal_px[1] <= 20 * size[0]:
        raise InputError(
            f"focal: expected the lowest and the highest focal length, {size[0] / 20:g} to {20 * size[0]} px for "
            f"pictures {size[0]} px wide, got {focal_px[0]:g},{focal_px[1]:g}: try {size[0] / 2:g},{2 * size[0]}"
        )
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected 1 or more, got {workers}: leave it out for one a core")


def _claim(root: Path, manifest: dict[str, object]) -> None:
    """Write the manifest before anything else, and refuse a folder that holds other data."""
    path, text = root / MANIFEST, json.dumps(manifest, indent=2) + "\n"
    if path.is_file():
        if read_text(path) != text:
            raise InputError(
                f"{path}: expected the same frames, val, seed and size, and the same focal lengths, as asked for, got "
                "others: choose another folder"
            )
        return
    if root.is_dir() and visible(root.iterdir()):
        raise InputError(f"{root}: expected an empty or new folder, got one with other files: choose another folder")
    write_text(path, text)


def _write_frame(
    root: Path,
    index: int,
    *,
    labels: Sequence[Path],
    seed: int,
    size: tuple[int, int],
    focal_px: tuple[float, float] | None,
) -> None:
    """Render one frame to its four files; the label is written last, so a frame with a label is complete."""
    frame = render_frame(seed, index, size, focal_px)
    layout, name = KittiLayout(root), _name(index)
    _, png = cv2.imencode(".png", frame.image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    write_atomically(layout.folder("image_2") / f"{name}.png", png.tobytes())
    write_velodyne(layout.velodyne(name), frame.points)
    write_calibration(layout.calibration(name), frame.calibration)
    write_objects(labels[index], frame.objects)


def _write_splits(layout: KittiLayout, *, frames: int, val: float, seed: int) -> None:
    """Draw by the seed which frames are in val and which in train; every list is sorted."""
    shuffled = np.random.default_rng((seed, frames)).permutation(frames)
    count = min(max(round(frames * val), int(val > 0)), frames - 1)  # at least one in each, if there are two
    held_out = {int(index) for index in shuffled[:count]}
    names = [_name(index) for index in range(frames)]
    write_split(layout.split("trainval"), names)
    write_split(layout.split("train"), [name for index, name in enumerate(names) if index not in held_out])
    write_split(layout.split("val"), [name for index, name in enumerate(names) if index in held_out])


def _name(index: int) -> str:
    return f"{index:06d}"
