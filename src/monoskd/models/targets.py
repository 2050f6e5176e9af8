"""What the targets of several detectors have in common: the fields of objects at a cell of a heat map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monoskd.geometry.camera import Letterbox
from monoskd.geometry.heading import encode_heading
from monoskd.models.heatmap import HEAD_STRIDE, draw_heatmap
from monoskd.objects import Objects, class_index


def map_shape(letterbox: Letterbox) -> tuple[int, int]:
    """(rows, columns) of the heads' map."""
    return letterbox.size[1] // HEAD_STRIDE, letterbox.size[0] // HEAD_STRIDE


def in_map(cells: NDArray[Any], letterbox: Letterbox) -> NDArray[np.bool_]:
    """Which cells ... x 2 (column, row) lie in the heads' map."""
    rows, columns = map_shape(letterbox)
    return np.asarray(((cells >= 0) & (cells < (columns, rows))).all(-1))


def peak_fields(
    kept: Objects,
    *,
    cell: NDArray[Any],
    centre: NDArray[Any],
    alpha: NDArray[Any],
    letterbox: Letterbox,
    classes: Sequence[str],
    soft: bool,
) -> dict[str, Any]:
    """The fields of one image's targets (with image index 0) by name; `kept`: its n supervised objects.

    cell: n x 2 (column, row) of their peaks; centre: n x 2, their projected 3D centres [cells]; alpha: n [rad].
    soft: their scores say how high their heat is and how much they weigh.
    """
    label = class_index(kept.names, classes)
    corners = letterbox.apply(kept.boxes_2d.reshape(-1, 2, 2)) / HEAD_STRIDE
    size = corners[:, 1] - corners[:, 0]
    heading_bin, heading_residual = encode_heading(alpha)
    weight = object_weights(kept, soft=soft)
    return {
        "heatmap": draw_heatmap(cell, label, size, height=weight, shape=(len(classes), *map_shape(letterbox)))[None],
        "image": torch.zeros(len(kept), dtype=torch.int64),
        "cell": torch.from_numpy(cell.astype(np.int64)),
        "label": torch.from_numpy(label),
        "offset_2d": as_float(corners.mean(1) - cell),
        "size_2d": as_float(size),
        "offset_3d": as_float(centre - cell),
        "heading_bin": torch.from_numpy(heading_bin.astype(np.int64)),
        "heading_residual": as_float(heading_residual),
        "depth": as_float(kept.bottom[:, 2]),
        "weight": as_float(weight),
        "labelled": torch.tensor([not soft]),
    }


def object_weights(objects: Objects, *, soft: bool) -> NDArray[np.float64]:
    """1 for each label; with `soft`, the teacher's score for each of its detections."""
    return np.ones(len(objects)) if objects.scores is None or not soft else objects.scores.clip(0, 1)


def as_float(array: NDArray[Any]) -> Tensor:
    """The array as a tensor of float32."""
    return torch.from_numpy(array.astype(np.float32))
