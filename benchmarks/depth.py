"""How well and how fast LiDAR returns are completed to depth maps: `python benchmarks/depth.py ROOT`.

ROOT is a data set in KITTI's object layout. Returns are hidden, the rest is completed, and the depth at the hidden ones
is compared: once a random 15 %, once every sixth of the LiDAR's beams. Some error cannot be avoided: the LiDAR sits
elsewhere than the camera and hits what it cannot see. Beside ours stands IP-Basic (Ku et al., CRV 2018), written
down from the paper, and nearest-neighbour interpolation. The last table relates our time to what reading the sweep,
projecting it and writing the PNG cost alone.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import NearestNDInterpolator

from monoskd.geometry.camera import Camera
from monoskd.images import read_image_size
from monoskd.kitti.depth import DepthMap, complete_depth, sparse_depth
from monoskd.kitti.io import read_calibration, read_objects, read_velodyne, write_depth
from monoskd.kitti.layout import KittiLayout

Method = Callable[[DepthMap], DepthMap]
Floats = NDArray[np.float64]

DISTANCES_M = ((0, 10), (10, 20), (20, 40), (40, 80))
SHARE_HIDDEN = 0.15
HIDDEN_BEAM = 6  # every sixth
MARGIN_PX = 20  # above a box, where an object's depth is false


def ip_basic(sparse_m: DepthMap) -> DepthMap:
    """Dilate, close, fill small and large holes, median and Gaussian blur, all of them on 100 m - depth."""
    diamond = np.array([[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]], np.uint8)
    near = np.where(sparse_m > 0, 100 - sparse_m, 0).astype(np.float32)
    near = cv2.morphologyEx(cv2.dilate(near, diamond), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    for side in (7, 31):
        near = np.where(near > 0, near, cv2.dilate(near, np.ones((side, side), np.uint8)))
    near = cv2.medianBlur(near, 5)
    near = np.where(near > 0, cv2.GaussianBlur(near, (5, 5), 0), 0)
    return np.where(near > 0, 100 - near, 0).astype(np.float32)


def nearest(sparse_m: DepthMap) -> DepthMap:
    """The depth of the nearest return in the image."""
    interpolator = NearestNDInterpolator(np.argwhere(sparse_m), sparse_m[sparse_m > 0])
    return interpolator(np.argwhere(np.ones_like(sparse_m))).reshape(sparse_m.shape).astype(np.float32)


METHODS: dict[str, Method] = {"ours": complete_depth, "IP-Basic": ip_basic, "nearest return": nearest}


class Frame:
    """A sweep in the camera's frame, and which of the LiDAR's beams each point belongs to."""

    def __init__(self, layout: KittiLayout, name: str) -> None:
        calibration = read_calibration(layout.calibration(name), require=("R0_rect", "Tr_velo_to_cam"))
        sweep = read_velodyne(layout.velodyne(name))
        azimuth = np.arctan2(sweep[:, 1], sweep[:, 0]) % (2 * np.pi)
        self.beam = np.cumsum(np.diff(azimuth, prepend=azimuth[0]) < -np.pi)  # a sweep is stored beam by beam
        self.points: Floats = calibration.velo_to_camera(sweep[:, :3])
        self.camera: Camera = calibration.camera
        self.size = read_image_size(layout.image(name))
        self.objects = read_objects(layout.label(name))

    def sparse(self, shown: NDArray[np.bool_]) -> DepthMap:
        """The sparse depth map of these points."""
        return sparse_depth(self.points[shown], camera=self.camera, size=self.size)


def hidden_errors(frame: Frame, shown: NDArray[np.bool_], method: Method) -> Floats:
    """(true depth, error) [m] of each hidden return that falls where no other does; NaN where nothing was completed."""
    sparse_m = frame.sparse(shown)
    truth_m = np.where(sparse_m == 0, frame.sparse(~shown), 0)
    completed_m = method(sparse_m)[truth_m > 0].astype(np.float64)
    completed_m[completed_m == 0] = np.nan
    truth_m = truth_m[truth_m > 0]
    return np.stack([truth_m, np.abs(completed_m - truth_m)], axis=1)


def statistics(errors: Floats) -> str:
    """A table row: MAE, RMSE, median, median by distance, and the share of returns without a depth."""
    truth_m, error_m = errors.T
    by_distance = [np.nanmedian(error_m[(truth_m >= low) & (truth_m < high)]) for low, high in DISTANCES_M]
    overall = [np.nanmean(error_m), np.sqrt(np.nanmean(error_m**2)), np.nanmedian(error_m)]
    return " | ".join(f"{value:.3f}" for value in [*overall, *by_distance]) + f" | {np.isnan(error_m).mean():.1%}"


def outlines(frame: Frame, completed_m: DepthMap) -> Iterator[tuple[float, float]]:
    """For each labelled box: the share of pixels within 3 m of the object's z inside it, and just above it."""
    for box, z in zip(frame.objects.boxes_2d, frame.objects.bottom[:, 2], strict=True):
        left, top, right, bottom = np.rint(box).astype(int)
        if z > 0 and top > MARGIN_PX:
            close = np.abs(completed_m[:, left : right + 1] - z) < 3
            yield close[top : bottom + 1].mean(), close[top - MARGIN_PX : top - 3].mean()


def seconds(task: Callable[[], object]) -> float:
    """The least of three runs."""
    runs = []
    for _ in range(3):
        started = time.perf_counter()
        task()
        runs.append(time.perf_counter() - started)
    return min(runs)


def speed(layout: KittiLayout, names: list[str]) -> None:
    """Print seconds a frame of each part of the work, in one thread."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in names:
            frame = Frame(layout, name)
            everything = np.ones(len(frame.points), bool)
            sparse_m = frame.sparse(everything)
            completed_m = complete_depth(sparse_m)
            rows.append(
                [
                    seconds(lambda name=name: read_velodyne(layout.velodyne(name))),
                    seconds(lambda frame=frame, everything=everything: frame.sparse(everything)),
                    seconds(lambda sparse_m=sparse_m: complete_depth(sparse_m)),
                    seconds(lambda completed_m=completed_m: write_depth(Path(folder) / "d.png", completed_m)),
                ]
            )
    read, projected, completed, written = np.mean(rows, axis=0)
    total = read + projected + completed + written
    print("\n| read sweep | project | complete | write PNG | frames/s, one core | whole / all but completing |")
    print("|---|---|---|---|---|---|")
    parts = " | ".join(f"{1000 * part:.1f} ms" for part in (read, projected, completed, written))
    print(f"| {parts} | {1 / total:.1f} | {total / (total - completed):.2f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a data set in KITTI's object layout")
    parser.add_argument("--frames", type=int, default=25, help="use the first so many (default: 25)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    layout = KittiLayout(options.root)
    names = layout.frames("velodyne")[: options.frames]
    frames = [Frame(layout, name) for name in names]
    header = " | ".join(f"{low}-{high} m" for low, high in DISTANCES_M)
    for hidden in ("15 % of the returns", "every sixth beam"):
        print(f"\n| {hidden} hidden: error [m] | MAE | RMSE | median | {header} | no depth |")
        print("|---" * 9 + "|")
        for name, method in METHODS.items():
            random = np.random.default_rng(0)
            shown = [
                random.random(len(f.beam)) >= SHARE_HIDDEN
                if "%" in hidden
                else f.beam % HIDDEN_BEAM != HIDDEN_BEAM // 2
                for f in frames
            ]
            errors = [hidden_errors(frame, mask, method) for frame, mask in zip(frames, shown, strict=True)]
            print(f"| {name} | {statistics(np.concatenate(errors))} |")
    print(f"\n| within 3 m of the object's z | inside its box | in the {MARGIN_PX} px above |\n|---|---|---|")
    for name, method in METHODS.items():
        shares = [pair for frame in frames for pair in outlines(frame, method(frame.sparse(frame.beam >= 0)))]
        inside, above = np.mean(shares, axis=0)
        print(f"| {name} | {inside:.1%} | {above:.1%} |")
    speed(layout, names)


if __name__ == "__main__":
    main()
