"""LiDAR returns to a depth map: sparse by projection, dense by completion.

Completion works on inverse depth, which is linear in the pixels of any plane. So linear
interpolation between two returns of one surface is exact, on the ground, on walls and on the sides of cars. Pixels that
lie between no two agreeing returns are filled by morphology on inverse depth, where a dilation prefers the nearer value
(J. Ku, A. Harakeh and S. L. Waslander, "In Defense of Classical Image Processing: Fast Depth Completion on the CPU",
CRV 2018). Unlike there, the sky is not filled: above a column's highest return the depth stays unknown.
"""

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.geometry.camera import Camera

DepthMap: TypeAlias = NDArray[np.float32]

MIN_DEPTH_M = 0.1

# Pixels at KITTI's focal length; a shorter one brings the LiDAR's beams closer together, so all of them scale with it.
# They were chosen on 25 real frames by the error on hidden returns: `benchmarks/depth.py`, docs/data.md.
_FOCAL_PX = 721.5
_OCCLUSION_ROWS, _OCCLUSION_COLUMNS = 11, 5  # a return surrounded by nearer ones in this window is occluded
_OCCLUSION_RATIO = 0.85  # ... if its inverse depth is less than this share of theirs
_ALONG_BEAM_GAP = 11  # the widest gap that is interpolated along a row
_ALONG_BEAM_TOLERANCE = 0.1  # relative difference in inverse depth up to which two returns lie on one surface
_ACROSS_BEAMS_GAP = 30  # the same along a column, where returns are sparser
_ACROSS_BEAMS_TOLERANCE = 0.3
_DIAMOND, _CLOSING, _SMALL_HOLE, _LARGE_HOLE = 5, 5, 7, 31
_MEDIAN = 3


def sparse_depth(points_m: NDArray[Any], *, camera: Camera, size: tuple[int, int]) -> DepthMap:
    """Depth of the nearest LiDAR return in each pixel.

    points_m: n x 3 in the camera frame [m]; size: (width, height) of the image. Returns height x width [m], 0 where no
    return falls. A point (u, v) falls into pixel (floor u, floor v): an image spans [0, width] x [0, height].
    """
    width, height = size
    points_m = points_m[points_m[:, 2] > MIN_DEPTH_M]
    column, row = np.floor(camera.project(points_m)).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row, depth_m = column[inside].astype(np.intp), row[inside].astype(np.intp), points_m[inside, 2]
    far_to_near = np.argsort(-depth_m, kind="stable")
    sparse = np.zeros((height, width), np.float32)
    sparse[row[far_to_near], column[far_to_near]] = depth_m[
        far_to_near
    ]  # the nearest return of a pixel is written last
    return sparse


def complete_depth(sparse_m: DepthMap, *, focal_px: float = _FOCAL_PX) -> DepthMap:
    """A dense depth map from the sparse one, both height x width [m], 0 where unknown.

    1. drop returns from surfaces that the camera cannot see (the LiDAR sits higher and sees over objects);
    2. interpolate between agreeing returns, along each row, then along each column;
    3. fill what is left below each column's highest return: dilate, close, dilate again until no hole remains;
    4. take the median of 3 x 3 pixels, to remove single outliers.

    focal_px: of the camera; it determines how many pixels lie between two beams of the LiDAR.
    """
    scale = focal_px / _FOCAL_PX
    inverse = np.divide(1, sparse_m, out=np.zeros_like(sparse_m), where=sparse_m > 0)
    inverse = _without_occluded(inverse, scale=scale)
    inverse = _interpolate_rows(inverse, gap=_ALONG_BEAM_GAP * scale, tolerance=_ALONG_BEAM_TOLERANCE)
    inverse = _interpolate_rows(inverse.T, gap=_ACROSS_BEAMS_GAP * scale, tolerance=_ACROSS_BEAMS_TOLERANCE).T
    inverse = _fill_holes(np.ascontiguousarray(inverse), scale=scale)
    inverse = np.where(inverse > 0, cv2.medianBlur(inverse, _MEDIAN), 0)
    return np.divide(1, inverse, out=np.zeros_like(inverse), where=inverse > 0)


def _without_occluded(inverse: DepthMap, *, scale: float) -> DepthMap:
    """Returns that are enclosed by much nearer ones on opposite sides, set to unknown.

    A closing raises exactly those pixels to the value of their surroundings.
    """
    window = np.ones((_odd(_OCCLUSION_ROWS * scale), _odd(_OCCLUSION_COLUMNS * scale)), np.uint8)
    closed = cv2.morphologyEx(inverse, cv2.MORPH_CLOSE, window)
    return np.where(inverse < _OCCLUSION_RATIO * closed, np.float32(0), inverse)


def _interpolate_rows(inverse: DepthMap, *, gap: float, tolerance: float) -> DepthMap:
    """Fill gaps of at most `gap` pixels along each row, linearly, where the values at their ends agree."""
    pixels = inverse.ravel()
    known = np.flatnonzero(pixels)
    start, steps, row = known[:-1], np.diff(known), known // inverse.shape[1]
    first, last = pixels[known[:-1]], pixels[known[1:]]
    fills = (steps > 1) & (steps <= gap) & (row[:-1] == row[1:])
    fills &= np.abs(last - first) <= tolerance * np.maximum(first, last)
    start, steps, first, rise = start[fills], steps[fills], first[fills], (last - first)[fills]

    gaps = np.repeat(np.arange(len(start)), steps - 1)  # of each pixel that is filled: its gap, and its place in there
    place = np.arange(len(gaps)) - np.repeat(np.cumsum(steps - 1) - steps, steps - 1)
    filled = pixels.copy()
    filled[start[gaps] + place] = first[gaps] + rise[gaps] * (place / steps[gaps]).astype(np.float32)
    return filled.reshape(inverse.shape)


def _fill_holes(inverse: DepthMap, *, scale: float) -> DepthMap:
    """Fill what interpolation left, nearest surface first; only the sky above each column's highest value stays 0."""
    inverse = np.where(inverse > 0, inverse, cv2.dilate(inverse, _diamond(_odd(_DIAMOND * scale))))
    inverse = np.where(inverse > 0, inverse, cv2.morphologyEx(inverse, cv2.MORPH_CLOSE, _square(_CLOSING * scale)))
    inverse = np.where(inverse > 0, inverse, cv2.dilate(inverse, _square(_SMALL_HOLE * scale)))
    below_top = np.maximum.accumulate(inverse > 0, axis=0)
    large = _square(_LARGE_HOLE * scale)
    while (hole := below_top & (inverse == 0)).any():
        inverse = np.where(hole, cv2.dilate(inverse, large), inverse)
    return inverse


def _odd(side: float) -> int:
    """The nearest odd number of pixels, at least 3, since a kernel needs a middle pixel and neighbours."""
    return max(3, 2 * round((side - 1) / 2) + 1)


def _square(side: float) -> NDArray[np.uint8]:
    return np.ones((_odd(side), _odd(side)), np.uint8)


def _diamond(side: int) -> NDArray[np.uint8]:
    """The pixels within side // 2 steps of the middle."""
    step = np.abs(np.arange(side) - side // 2)
    return (step[:, None] + step <= side // 2).astype(np.uint8)
