"""Triangles to pixels, all at once: spans of every triangle and row, expanded into fragments, the nearest one wins.

The corners stay homogeneous (Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997), so
that triangles which reach behind the camera need no clipping. With H the matrix whose columns are the three corners'
P [xyz, 1], the vector H^-1 (u, v, 1) is (barycentric coordinates) / w, w being the depth of the point seen at (u, v):
it is nonnegative exactly inside the visible part, affine in (u, v), and sums to 1 / w.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEAR_M = 0.3
_EDGE_ON = 1e-12


@dataclass(frozen=True)
class Fragments:
    """Every sample that every triangle covers, hidden or not.

    pixel: flat index into height x width; triangle: its index; nearness: 1 / depth [1/m], float32.
    """

    pixel: NDArray[np.int64]
    triangle: NDArray[np.int64]
    nearness: NDArray[np.float32]


def plane_matrices(P: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """H^-1 of each triangle, t x 3 x 3, from corners t x 3 x 3 [m] and a 3 x 4 projection; 0 if seen edge-on."""
    points = corners @ P[:, :3].T + P[:, 3]
    rows = np.stack([np.cross(points[:, (i + 1) % 3], points[:, (i + 2) % 3]) for i in range(3)], 1)
    determinant = (points[:, 0] * rows[:, 0]).sum(-1)
    seen = np.abs(determinant) > _EDGE_ON
    return np.where(seen[:, None, None], rows / np.where(seen, determinant, 1.0)[:, None, None], 0.0)


def fragments(
    P: NDArray[np.float64], corners: NDArray[np.float64], planes: NDArray[np.float64], *, width: int, height: int
) -> Fragments:
    """What the triangles cover on a grid of width x height pixels, sampled at the pixels' centres."""
    triangle, row = _rows(P, corners, planes, width=width, height=height)
    # Corner axis first: numpy reduces a short last axis slowly.
    slope, per_row, constant = (planes[:, :, i].T[:, triangle] for i in range(3))
    offset = per_row * (row + 0.5) + constant
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -offset / slope
    left = np.where(slope > 0, crossing, -np.inf).max(0)
    right = np.where(slope < 0, crossing, np.inf).min(0)
    outside = ((slope == 0) & (offset < 0)).any(0)
    first = np.ceil(np.clip(left, 0, width) - 0.5).astype(np.int64).clip(0)
    last = np.floor(np.clip(right, 0, width) - 0.5).astype(np.int64)
    length = np.where(outside, 0, (last - first + 1).clip(0))
    span = np.repeat(np.arange(len(row)), length)
    column = np.arange(len(span)) + np.repeat(first - np.cumsum(length) + length, length)
    nearness = (slope.sum(0)[span] * (column + 0.5) + offset.sum(0)[span]).astype(np.float32)
    kept = (nearness > 0) & (nearness < 1 / NEAR_M)
    return Fragments((row[span] * width + column)[kept], triangle[span][kept], nearness[kept])


def nearest(found: Fragments, *, width: int, height: int) -> NDArray[np.int64]:
    """The triangle seen at each pixel, height x width; -1 where there is none. Ties go to the later triangle."""
    buffer = np.zeros(height * width, np.int64)
    # Positive floats sort like their bits, so depth and triangle fit one integer.
    key = (found.nearness.view(np.int32).astype(np.int64) << 32) | (found.triangle + 1)
    np.maximum.at(buffer, found.pixel, key)
    return ((buffer & 0xFFFFFFFF) - 1).reshape(height, width)


def barycentric(planes: NDArray[np.float64], uv: NDArray[Any]) -> tuple[Any, Any]:
    """Barycentric coordinates n x 3 and depth n [m] of the points seen at pixels n x 2 of the triangles `planes`."""
    scaled = planes[:, :, 0] * uv[:, :1] + planes[:, :, 1] * uv[:, 1:] + planes[:, :, 2]
    depth = 1 / (scaled[:, 0] + scaled[:, 1] + scaled[:, 2])
    return scaled * depth[:, None], depth


def _rows(
    P: NDArray[np.float64], corners: NDArray[np.float64], planes: NDArray[np.float64], *, width: int, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(triangle, row) for every row of pixels that a triangle may touch."""
    u, v, depth = np.moveaxis(corners @ P[:, :3].T + P[:, 3], 0, -1).swapaxes(0, 1)  # each 3 x t
    front = depth > NEAR_M
    whole = front.all(0)
    safe = np.where(front, depth, 1.0)
    u, v = u / safe, v / safe
    top, bottom = v.min(0), v.max(0)
    inside = (u.max(0) >= 0) & (u.min(0) <= width) & (bottom >= 0) & (top <= height)
    drawn = np.where(whole, inside, front.any(0)) & (planes[:, :, 0] != 0).any(1)
    first = np.where(whole, np.ceil(top.clip(0, height) - 0.5), 0).astype(np.int64)
    last = np.where(whole, np.floor(bottom.clip(0, height) - 0.5), height - 1).astype(np.int64)
    count = np.where(drawn, (last - first + 1).clip(0), 0)
    triangle = np.repeat(np.arange(len(corners)), count)
    return triangle, np.arange(len(triangle)) + np.repeat(first - np.cumsum(count) + count, count)
