"""What the choice of image library costs parity: `python benchmarks/resampling.py ROOT`.

ROOT is a data set in KITTI's object layout. Pictures and completed depth maps of real frames are brought to the
network's size in three crops: by `warp_published` (PIL, as the recordings of the original implementation were), by
OpenCV at the same positions, by OpenCV with positions half a pixel off (pixel centres at whole numbers, a common
mistake), and by the default, which filters where it shrinks and leaves unknown depth out. Compared are network pixels
whose sample lies inside the picture.
"""

import argparse
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.data.transforms import Draw, draw_letterbox, warp_depth, warp_image, warp_published
from monoskd.geometry.camera import Letterbox
from monoskd.images import read_image_size
from monoskd.kitti.io import read_image
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import frame_depth

INPUT_SIZE = (1280, 384)
CROPS = (Draw(), Draw(scale=0.8, shift=(0.05, -0.03)), Draw(scale=1.3, shift=(-0.07, 0.1)))
MARGIN_PX = 1.0
GREY_LEVEL = 1.0
DEPTH_M = 0.1


def warp_opencv(pixels: NDArray[Any], letterbox: Letterbox, *, centres: Literal["half", "whole"]) -> NDArray[Any]:
    """OpenCV's bilinear warp; `centres`: where it is told that a pixel's centre lies, at half or at whole numbers."""
    scale, shift = float(letterbox.scale), np.asarray(letterbox.shift, np.float64)
    offset = shift + (scale - 1) / 2 if centres == "half" else shift
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    return np.asarray(cv2.warpAffine(np.ascontiguousarray(pixels), matrix, letterbox.size, flags=cv2.INTER_LINEAR))


def sampled_inside(size: tuple[int, int], letterbox: Letterbox) -> NDArray[np.bool_]:
    """Network pixels whose sample is at least a pixel away from the picture's border."""
    centres = [np.arange(count) + 0.5 for count in letterbox.size]
    u, v = ((axis - start) / letterbox.scale for axis, start in zip(centres, letterbox.shift, strict=True))
    within = [(x > MARGIN_PX) & (x < extent - MARGIN_PX) for x, extent in zip((u, v), size, strict=True)]
    inside: NDArray[np.bool_] = within[1][:, None] & within[0]
    return inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a data set in KITTI's object layout")
    parser.add_argument("--frames", type=int, default=4, help="use the first so many (default: 4)")
    options = parser.parse_args()
    layout = KittiLayout(options.root)
    names = layout.frames("velodyne")[: options.frames]
    rows: dict[str, list[tuple[float, float]]] = {}
    for name in names:
        size = read_image_size(layout.image(name))
        picture, depth_m = read_image(layout.image(name)), frame_depth(layout, name, size=size)
        for draw in CROPS:
            box = draw_letterbox(size=size, draw=draw, input_size=INPUT_SIZE, per_axis_decoding=True)
            inside = sampled_inside(size, box)
            grey, metres = (warp_published(one, box)[inside].astype(float) for one in (picture, depth_m))
            others = {
                "OpenCV, the same positions": [warp_opencv(x, box, centres="half") for x in (picture, depth_m)],
                "OpenCV, half a pixel off": [warp_opencv(x, box, centres="whole") for x in (picture, depth_m)],
                "the default: filtered, unknown depth left out": [warp_image(picture, box), warp_depth(depth_m, box)],
            }
            for method, (image, depth) in others.items():
                off = np.abs(image[inside] - grey) >= GREY_LEVEL, np.abs(depth[inside] - metres) > DEPTH_M
                rows.setdefault(method, []).append((100 * off[0].mean(), 100 * off[1].mean()))
    print(f"{len(names)} frames, {len(CROPS)} crops each, against `warp_published`")
    print("\n| resampled by | colours a grey level or more away | depths more than 0.1 m away |")
    print("|---|---|---|")
    for method, shares in rows.items():
        colours, depths = np.mean(shares, axis=0)
        print(f"| {method} | {colours:.1f} % | {depths:.2f} % |")


if __name__ == "__main__":
    main()
