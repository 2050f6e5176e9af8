"""The objects of one frame, in numpy: shared by files, renderer, data and evaluation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monoskd.geometry.boxes import Boxes3D

# KITTI's mean (height, width, length) [m] of each class, as the published networks use them.
KITTI_MEAN_SIZES: dict[str, tuple[float, float, float]] = {
    "Pedestrian": (1.76255119, 0.66068622, 0.84422524),
    "Car": (1.52563191462, 1.62856739989, 3.88311640418),
    "Cyclist": (1.73698127, 0.59706367, 1.76282397),
}

# A supervised object is at least as easy as KITTI's "hard", and not so near that only a fragment is seen.
KITTI_HEIGHT_PX = 375  # of a picture; least object heights are meant for pictures this tall
MIN_HEIGHT_PX = 25.0
MAX_TRUNCATION = 0.5
MAX_OCCLUSION = 2
MIN_DEPTH_M = 2
MOST_ANGLE_RAD = 10.0  # of alpha and rotation_y; more are degrees

KITTI_CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
NO_ALPHA = -10.0  # an observation angle that is not given, as KITTI has it in DontCare regions
_SPELLING = {name.lower(): name for name in KITTI_CLASSES}


def canonical_name(name: str) -> str:
    """A class name in KITTI's spelling, from any case; other names stay as they are."""
    return _SPELLING.get(name.lower(), name)


def class_index(names: Iterable[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Which of the classes each name is, or -1. Names are compared without case."""
    index = {name.lower(): number for number, name in reversed(list(enumerate(classes)))}
    return np.array([index.get(str(name).lower(), -1) for name in names], np.int64)


@dataclass(frozen=True)
class Objects:
    """The objects of one frame, one row per object: the values of a line in a KITTI `label_2` or result file. Float64.

    names: n strings; truncation: n in [0, 1], -1 where unknown; occlusion: n integers (0 visible .. 2 largely hidden,
    3 unknown, -1 don't care); alpha: n [rad]; boxes_2d: n x 4 (left, top, right, bottom) [px]; dimensions: n x 3
    (h, w, l) [m]; bottom: n x 3 [m], the bottom centre in the camera frame; yaw: n [rad] about +y (`ry`);
    scores: n, or None for a label file.
    """

    names: NDArray[np.str_]
    truncation: NDArray[np.float64]
    occlusion: NDArray[np.int64]
    alpha: NDArray[np.float64]
    boxes_2d: NDArray[np.float64]
    dimensions: NDArray[np.float64]
    bottom: NDArray[np.float64]
    yaw: NDArray[np.float64]
    scores: NDArray[np.float64] | None = None

    @classmethod
    def empty(cls, *, scored: bool = False) -> "Objects":
        """No objects; with `scored`, no detections."""
        none, four, three = np.zeros(0), np.zeros((0, 4)), np.zeros((0, 3))
        names, occlusion = np.zeros(0, np.str_), np.zeros(0, np.int64)
        return cls(names, none, occlusion, none, four, three, three, none, none if scored else None)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> "Objects":
        """The rows that a slice, a mask or an index array selects."""
        columns = ((field.name, getattr(self, field.name)) for field in fields(self))
        rows: dict[str, Any] = {name: None if column is None else column[index] for name, column in columns}
        return Objects(**rows)

    @property
    def boxes_3d(self) -> Boxes3D:
        """The 3D boxes, as float64 numpy."""
        return Boxes3D(self.bottom, self.dimensions, self.yaw)


def has_3d_box(objects: Objects) -> NDArray[np.bool_]:
    """Which objects have a real 3D box: finite, every dimension above 0, in front of the camera.

    Labels of 2D boxes only write 0, -1 or -1000 there.
    """
    numbers = np.column_stack([objects.dimensions, objects.bottom, objects.yaw])
    return np.isfinite(numbers).all(1) & (objects.dimensions > 0).all(1) & (objects.bottom[:, 2] > 0)


def is_only_2d(objects: Objects) -> NDArray[np.bool_]:
    """Which objects are labelled in 2D only: they are no 3D targets. A `DontCare` area is no object."""
    only_2d: NDArray[np.bool_] = (objects.names != "DontCare") & ~has_3d_box(objects)
    return only_2d


def has_2d_box(objects: Objects) -> NDArray[np.bool_]:
    """Which objects have a real 2D box, whose corners are not swapped."""
    real: NDArray[np.bool_] = np.all(objects.boxes_2d[:, :2] < objects.boxes_2d[:, 2:], axis=1)
    return real


def lacks_alpha(objects: Objects) -> NDArray[np.bool_]:
    """Which objects have no observation angle."""
    lacks: NDArray[np.bool_] = objects.alpha == NO_ALPHA
    return lacks


def is_supervised(
    objects: Objects, classes: Sequence[str], *, min_height_px: float = MIN_HEIGHT_PX
) -> NDArray[np.bool_]:
    """Which objects the network is trained on, as far as their labels say; they must also lie in the crop."""
    height = objects.boxes_2d[:, 3] - objects.boxes_2d[:, 1]
    return (
        (class_index(objects.names, classes) >= 0)
        & (height + 1 >= min_height_px)
        & (objects.truncation <= MAX_TRUNCATION)
        & (objects.occlusion <= MAX_OCCLUSION)
        & (objects.bottom[:, 2] >= MIN_DEPTH_M)
        & has_2d_box(objects)
        & has_3d_box(objects)
    )
