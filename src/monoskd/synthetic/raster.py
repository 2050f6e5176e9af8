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

from monoskd.geometry.arrays import ranges

NEAR_M = 0.3
_EDGE_ON = 1e-12


@dataclass(frozen=True)
class Projected:
    """t triangles before a camera. The triangle axis is last: numpy works slowly along short last axes.

    points: (x, y, w) x corner x t, homogeneous pixels; planes: (u, v, 1) x corner x t, the coefficients of H^-1, 0 for
    triangles seen edge-on.
    """

    points: NDArray[np.float64]
    planes: NDArray[np.float64]


@dataclass(frozen=True)
class Fragments:
    """Every sample that every triangle covers, hidden or not.

    pixel: flat index into height x width; triangle: its index; nearness: 1 / depth [1/m], float32.
    """

    pixel: NDArray[np.int64]
    triangle: NDArray[np.int64]
    nearness: NDArray[np.float32]


def project_triangles(P: NDArray[np.float64], corners: NDArray[np.float64]) -> Projected:
    """Triangles t x 3 x 3 [m] through the projection P, 3 x 4."""
    flat = corners.transpose(2, 1, 0).reshape(3, -1)
    points = (P[:, :3] @ flat + P[:, 3:]).reshape(3, 3, -1)
    a, b, c = points.swapaxes(0, 1)
    rows = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], 1)
    determinant = (a * rows[:, 0]).sum(0)
    seen = np.abs(determinant) > _EDGE_ON
    return Projected(points, rows * (seen / np.where(seen, determinant, 1.0)))


def fragments(projected: Projected, *, width: int, height: int) -> Fragments:
    """The fragments of the triangles on a grid of width x height pixels, sampled at the pixels' centres."""
    triangle, row = _rows(projected, width=width, height=height)
    slope, per_row, constant = projected.planes[:, :, triangle]
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
    column = first[span] + ranges(length)
    nearness = (slope.sum(0)[span] * (column + 0.5) + offset.sum(0)[span]).astype(np.float32)
    kept = (nearness > 0) & (nearness < 1 / NEAR_M)
    return Fragments((row[span] * width + column)[kept], triangle[span][kept], nearness[kept])


def nearest(candidates: Fragments, *, width: int, height: int) -> NDArray[np.int64]:
    """The triangle seen at each pixel, height x width; -1 where there is none. Ties go to the later triangle."""
    buffer = np.zeros(height * width, np.int64)
    # Positive floats sort like their bits, so depth and triangle fit one integer.
    key = (candidates.nearness.view(np.int32).astype(np.int64) << 32) | (candidates.triangle + 1)
    np.maximum.at(buffer, candidates.pixel, key)
    return ((buffer & 0xFFFFFFFF) - 1).reshape(height, width)


def barycentric(projected: Projected, triangle: NDArray[np.int64], uv: NDArray[Any]) -> tuple[Any, Any]:
    """Of the points seen at pixels n x 2 on these triangles: barycentric coordinates 3 x n, and depth w n [m]."""
    slope, per_row, constant = projected.planes[:, :, triangle]
    scaled = slope * uv[:, 0] + per_row * uv[:, 1] + constant
    depth = 1 / scaled.sum(0)
    return scaled * depth, depth


def _rows(projected: Projected, *, width: int, height: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(triangle, row) for every row of pixels that a triangle may touch."""
    x, y, depth = projected.points
    front = depth > NEAR_M
    whole = front.all(0)
    safe = np.where(front, depth, 1.0)
    u, v = x / safe, y / safe
    top, bottom = v.min(0), v.max(0)
    inside = (u.max(0) >= 0) & (u.min(0) <= width) & (bottom >= 0) & (top <= height)
    drawn = np.where(whole, inside, front.any(0)) & projected.planes.any((0, 1))
    first = np.where(whole, np.ceil(top.clip(0, height) - 0.5), 0).astype(np.int64)
    last = np.where(whole, np.floor(bottom.clip(0, height) - 0.5), height - 1).astype(np.int64)
    count = np.where(drawn, (last - first + 1).clip(0), 0)
    triangle = np.repeat(np.arange(len(count)), count)
    return triangle, first[triangle] + ranges(count)


def _cross(a: Any, b: Any) -> Any:
    """Cross products of 3 x n."""
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
