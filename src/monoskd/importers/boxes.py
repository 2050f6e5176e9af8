"""3D boxes of any orientation in a camera's frame, and the `label_2` rows of those that the picture shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import wrap
from monoskd.geometry.iou import area_2d
from monoskd.importers.recording import ClassMap
from monoskd.objects import Objects

Floats: TypeAlias = NDArray[np.float64]

NEAR_M = 0.1  # what lies nearer to the camera's plane is not projected
MIN_DEPTH_M = 0.5  # of a box's centre
MIN_AREA_PX = 1.0  # of a box's outline inside the picture
MIN_SIDE_PX = 0.01  # of its 2D box: thinner ones are empty when written
DECIMALS = 4  # of a label: KITTI's 2 are 5 mm off

_SIGNS = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)])
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if (_SIGNS[a] != _SIGNS[b]).sum() == 1]


@dataclass(frozen=True)
class OrientedBoxes:
    """n boxes in some frame, float64.

    centre: n x 3 [m], the geometric centre; axes: n x 3 x 3, whose columns are the unit vectors of length (forward),
    width (left) and height (up); dimensions: n x 3 (h, w, l) [m].
    """

    centre: Floats
    axes: Floats
    dimensions: Floats

    @classmethod
    def empty(cls) -> "OrientedBoxes":
        """No boxes."""
        return cls(np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3)))

    def __len__(self) -> int:
        return len(self.centre)

    def moved(self, transform: Floats) -> "OrientedBoxes":
        """The boxes in another frame; transform: 3 x 4 or 4 x 4 rigid, from this frame to that one."""
        rotation, shift = transform[:3, :3], transform[:3, 3]
        return OrientedBoxes(self.centre @ rotation.T + shift, rotation @ self.axes, self.dimensions)

    def corners(self) -> Floats:
        """n x 8 x 3 [m], in the order of `_SIGNS` along (length, width, height)."""
        half = _SIGNS * self.dimensions[:, None, [2, 1, 0]] / 2
        corners: Floats = self.centre[:, None] + half @ np.swapaxes(self.axes, 1, 2)
        return corners


@dataclass(frozen=True)
class Outlines:
    """How n boxes look in a picture of `size`. whole: n x 4 bounds [px], not clipped; visible: n booleans."""

    whole: Floats
    visible: NDArray[np.bool_]
    size: tuple[int, int]

    @property
    def boxes_2d(self) -> Floats:
        """n x 4 [px], clipped to [0, W - 1] x [0, H - 1], as KITTI clips."""
        width, height = self.size
        return np.clip(self.whole, 0, [width - 1, height - 1, width - 1, height - 1])

    @property
    def truncation(self) -> Floats:
        """n: the share of the outline's bounds outside the picture, in [0, 1]."""
        shares: Floats = 1 - area_2d(self.boxes_2d) / np.maximum(area_2d(self.whole), 1e-9)
        return shares.clip(0, 1)


def outlines(boxes: OrientedBoxes, camera: Camera, size: tuple[int, int]) -> Outlines:
    """The projections of the boxes' parts with z >= 0.1 m: corners there, and edges cut at that depth.

    A box is visible if its centre is 0.5 m ahead and its outline covers 1 px^2 of the picture; size: (width, height).
    """
    whole, visible = np.zeros((len(boxes), 4)), np.zeros(len(boxes), bool)
    corners = boxes.corners()
    for index in np.flatnonzero(boxes.centre[:, 2] > MIN_DEPTH_M):
        uv = camera.project(_before_camera(corners[index]))
        whole[index] = [*uv.min(0), *uv.max(0)]
        visible[index] = _area_inside(uv, size) >= MIN_AREA_PX
    result = Outlines(whole, visible, size)
    sides = result.boxes_2d[:, 2:] - result.boxes_2d[:, :2]
    return Outlines(whole, visible & (sides >= MIN_SIDE_PX).all(1), size)


@dataclass(frozen=True)
class Labels:
    """The label rows of a picture.

    objects: nearest first; index: of each, the box that it is; left_out: boxes that the picture shows and that become
    no label, by category.
    """

    objects: Objects
    index: NDArray[np.int64]
    left_out: Mapping[str, int]


def label(
    boxes: OrientedBoxes,
    categories: Sequence[Sequence[str]],
    occlusion: NDArray[np.int64],
    *,
    classes: ClassMap,
    camera: Camera,
    size: tuple[int, int],
) -> Labels:
    """What a picture of `size` (width, height) shows of the boxes, which are in the camera's frame.

    categories: the names that each goes by, the most specific first; occlusion: KITTI's, of each.
    """
    seen = outlines(boxes, camera, size)
    names = [classes(*some) for some in categories]
    order = np.argsort(boxes.centre[:, 2], kind="stable")
    shown = order[seen.visible[order]].tolist()
    kept = np.array([index for index in shown if names[index] is not None], np.int64)
    rows = _rows(np.array([name or "" for name in names], np.str_), occlusion, boxes, seen)
    left_out = Counter(categories[index][0] for index in shown if names[index] is None)
    return Labels(rows[kept], kept, {f"objects of {category}": count for category, count in left_out.items()})


def _rows(names: NDArray[np.str_], occlusion: NDArray[np.int64], boxes: OrientedBoxes, seen: Outlines) -> Objects:
    """The boxes as KITTI writes them, all of them, in their order.

    Its 7 numbers hold a box that stands upright in the camera's frame: a tilted one keeps its bottom centre and its
    heading seen from above.
    """
    forward, up = boxes.axes[:, :, 0], boxes.axes[:, :, 2]
    bottom = boxes.centre - boxes.dimensions[:, :1] / 2 * up
    yaw = wrap(np.arctan2(-forward[:, 2], forward[:, 0]))
    return Objects(
        names=names,
        truncation=seen.truncation,
        occlusion=occlusion,
        alpha=wrap(yaw - np.arctan2(bottom[:, 0], bottom[:, 2])),
        boxes_2d=seen.boxes_2d,
        dimensions=boxes.dimensions,
        bottom=bottom,
        yaw=yaw,
    )


def tilt_deg(up: Any) -> float:
    """The angle between the scene's up direction, a unit vector in the camera's frame, and the picture's up (-y)."""
    x, y, z = (float(value) for value in up)
    return float(np.degrees(np.arctan2(np.hypot(x, z), -y)))


def inverse(transform: Floats) -> Floats:
    """The inverse of a 4 x 4 rigid transform."""
    inverted = np.eye(4)
    inverted[:3, :3] = transform[:3, :3].T
    inverted[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return inverted


def _before_camera(corners: Floats) -> Floats:
    """8 x 3 corners to the points that span the part of the box with z >= 0.1 m."""
    points = list(corners[corners[:, 2] >= NEAR_M])
    for a, b in _EDGES:
        start, end = corners[a], corners[b]
        if (start[2] < NEAR_M) != (end[2] < NEAR_M):
            points.append(start + (NEAR_M - start[2]) / (end[2] - start[2]) * (end - start))
    return np.array(points)


def _area_inside(uv: Floats, size: tuple[int, int]) -> float:
    """Area [px^2] of the picture that the points' convex hull covers.

    Points of the hull's outline outside the picture move to its nearest border: what the outline then encloses is the
    part inside. The outline needs a point wherever it crosses a border's line.
    """
    limit = np.array(size, np.float64)
    if (uv.max(0) <= 0).any() or (uv.min(0) >= limit).any() or (np.ptp(uv, axis=0) == 0).any():
        return 0.0
    start = uv[ConvexHull(uv, qhull_options="QJ").vertices]
    edge = np.roll(start, -1, axis=0) - start
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.nan_to_num(np.hstack([-start / edge, (limit - start) / edge]), nan=0, posinf=0, neginf=0)
    along = np.sort(np.hstack([np.zeros((len(start), 1)), crossings.clip(0, 1)]), axis=1)
    x, y = np.clip(start[:, None] + along[..., None] * edge[:, None], 0, limit).reshape(-1, 2).T
    return float(abs(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2
