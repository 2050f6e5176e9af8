"""Overlap of boxes: 2D, bird's-eye (rotated footprints) and 3D. Float64 numpy.

Row by row: every function takes two sequences of equal length, or shapes that broadcast, and returns one value a row.
For all pairs of n and m boxes see `pairwise`.

The rotated overlap is exact for identical, nested, touching and degenerate boxes, because no step tests on which side
of a line a point lies. Rounding changes the area by about 1e-15 of itself; it never adds or drops a vertex.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from monoskd.geometry.boxes import Boxes3D

Float: TypeAlias = NDArray[np.float64]

# Corners of a footprint in order around it, as fractions of (length, width) along its own (x, z).
_CORNERS_LW = np.array([[0.5, 0.5], [0.5, -0.5], [-0.5, -0.5], [-0.5, 0.5]])


def intersection_2d(a: Float, b: Float) -> Float:
    """Area [px^2] shared by axis-aligned boxes ... x 4 (left, top, right, bottom); 0 for empty and inverted ones."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared: Float = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def area_2d(boxes: Float) -> Float:
    """Area [px^2] of boxes ... x 4 (left, top, right, bottom)."""
    area: Float = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def iou_2d(a: Float, b: Float) -> Float:
    """Intersection over union of boxes ... x 4 (left, top, right, bottom) [px]."""
    return _over_union(intersection_2d(a, b), area_2d(a), area_2d(b))


def intersection_bev(a: Boxes3D, b: Boxes3D) -> Float:
    """Area [m^2] shared by the footprints of n boxes and n others; 0 where a length or width is not positive.

    Computed only for rows whose circumscribed circles overlap.
    """
    radius_m = (np.hypot(a.dimensions[:, 1], a.dimensions[:, 2]) + np.hypot(b.dimensions[:, 1], b.dimensions[:, 2])) / 2
    distance_m = np.hypot(a.bottom[:, 0] - b.bottom[:, 0], a.bottom[:, 2] - b.bottom[:, 2])
    solid = (a.dimensions[:, 1:] > 0).all(1) & (b.dimensions[:, 1:] > 0).all(1)
    near = np.flatnonzero(solid & (distance_m < radius_m))
    area = np.zeros(len(radius_m))
    area[near] = _shared_footprint(a[near], b[near])
    return area


def iou_bev(a: Boxes3D, b: Boxes3D, *, shared_footprint: Float | None = None) -> Float:
    """Intersection over union of the footprints of n boxes and n others.

    shared_footprint: `intersection_bev(a, b)` [m^2], if it is known already.
    """
    area = intersection_bev(a, b) if shared_footprint is None else shared_footprint
    return _over_union(area, _footprint(a), _footprint(b))


def iou_3d(a: Boxes3D, b: Boxes3D, *, shared_footprint: Float | None = None) -> Float:
    """Intersection over union of the volumes of n boxes and n others, all upright.

    shared_footprint: `intersection_bev(a, b)` [m^2], if it is known already.
    """
    area = intersection_bev(a, b) if shared_footprint is None else shared_footprint
    return _over_union(area * _shared_height(a, b), _volume(a), _volume(b))


def pairwise(overlap: Callable[[Boxes3D, Boxes3D], Float], a: Boxes3D, b: Boxes3D) -> Float:
    """`overlap` (`iou_bev` or `iou_3d`) of each of n boxes with each of m: n x m."""
    row, column = np.divmod(np.arange(len(a) * len(b)), max(len(b), 1))
    return overlap(a[row], b[column]).reshape(len(a), len(b))


def _shared_footprint(a: Boxes3D, b: Boxes3D) -> Float:
    """Area [m^2] shared by the footprints of n boxes and n others, all of positive size.

    In b's own frame its footprint is the rectangle |x| <= l / 2, |z| <= w / 2. Move every point of the plane to the
    nearest point of this rectangle. What lies outside collapses onto the border, and the winding number about an inner
    point does not change, so a's moved outline encloses exactly the shared part. It is a polygon whose corners are
    a's corners and a's crossings of the four lines that bound the rectangle, all clamped to the rectangle. The shoelace
    formula gives its area.
    """
    start = _corners_seen_from(a, b)  # n x 4 x 2
    edge = np.roll(start, -1, axis=1) - start
    half = b.dimensions[:, None, [2, 1]] / 2  # n x 1 x 2: l / 2, w / 2
    crossings = np.zeros((len(a), 4, 5))  # along each edge, as fractions of it; the first is the edge's start
    slanted = np.broadcast_to(edge != 0, edge.shape)
    with np.errstate(over="ignore"):  # an edge that is parallel up to rounding; the clip below takes care of it
        np.divide(half - start, edge, out=crossings[..., 1:3], where=slanted)
        np.divide(-half - start, edge, out=crossings[..., 3:5], where=slanted)
    crossings = np.sort(np.clip(crossings, 0, 1), axis=-1)
    outline = start[:, :, None] + crossings[..., None] * edge[:, :, None]  # n x 4 x 5 x 2
    limit = half[:, :, None]
    x, z = np.moveaxis(np.clip(outline, -limit, limit).reshape(len(a), 20, 2), -1, 0)
    area: Float = np.abs((x * np.roll(z, -1, axis=1) - np.roll(x, -1, axis=1) * z).sum(1)) / 2
    return area


def _corners_seen_from(a: Boxes3D, b: Boxes3D) -> Float:
    """n x 4 x 2 [m]: the (x, z) corners of a's footprint in the frame where b is at the origin with yaw 0."""
    offset = _turned(a.bottom[:, [0, 2]] - b.bottom[:, [0, 2]], -b.yaw)
    corners = _turned(_CORNERS_LW * a.dimensions[:, None, [2, 1]], (a.yaw - b.yaw)[:, None])
    return corners + offset[:, None]


def _turned(xz: Float, angle: Float) -> Float:
    """Points ... x 2 turned about +y, which points down: the x axis moves to (cos, -sin)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * xz[..., 0] + sin * xz[..., 1], cos * xz[..., 1] - sin * xz[..., 0]], -1)


def _shared_height(a: Boxes3D, b: Boxes3D) -> Float:
    """Height [m] that both boxes share; y points down, so a box reaches from y - h to y."""
    top = np.maximum(a.bottom[:, 1] - a.dimensions[:, 0], b.bottom[:, 1] - b.dimensions[:, 0])
    shared: Float = np.maximum(np.minimum(a.bottom[:, 1], b.bottom[:, 1]) - top, 0)
    return shared


def _footprint(boxes: Boxes3D) -> Float:
    area: Float = boxes.dimensions[:, 1] * boxes.dimensions[:, 2]
    return area


def _volume(boxes: Boxes3D) -> Float:
    volume: Float = boxes.dimensions.prod(1)
    return volume


def _over_union(shared: Float, size_a: Float, size_b: Float) -> Float:
    """shared / (a + b - shared); 0 where nothing is shared."""
    return np.divide(shared, size_a + size_b - shared, out=np.zeros_like(shared), where=shared > 0)
