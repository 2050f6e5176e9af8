"""Labelled objects -> what the network should say of them. The inverse is the detector's decoding."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monoskd.geometry.camera import Camera, Letterbox, PublishedLetterbox
from monoskd.geometry.heading import alpha_from_yaw, encode_heading
from monoskd.models.heatmap import draw_heatmap
from monoskd.models.monodle.structures import HEAD_STRIDE, MonoDLETargets, Quirk
from monoskd.objects import MIN_HEIGHT_PX, Objects, class_index, is_supervised
from monoskd.structures import DepthMap, PublishedData


def make_targets(
    objects: Objects,
    *,
    camera: Camera,
    letterbox: Letterbox,
    classes: Sequence[str],
    mean_sizes: Mapping[str, tuple[float, float, float]],
    max_depth_m: float,
    quirks: Collection[Quirk],
    depth_m: DepthMap | None = None,
    soft: bool = False,
    min_height_px: float = MIN_HEIGHT_PX,
    published: PublishedData,
) -> MonoDLETargets:
    """The targets of one image (all with image index 0).

    objects, camera: in original pixels; letterbox: to network pixels; mean_sizes: (h, w, l) [m] that sizes are relative
    to; soft: the objects are a teacher's detections, and their scores say how high their heat is and how much they
    weigh.
    """
    columns, rows = letterbox.size[0] // HEAD_STRIDE, letterbox.size[1] // HEAD_STRIDE
    near = is_supervised(objects, classes, min_height_px=min_height_px) & (objects.bottom[:, 2] <= max_depth_m)
    supervised = objects[near]
    pixels = camera.project(supervised.boxes_3d.centres)
    centres = letterbox.apply(pixels) / HEAD_STRIDE
    cells = np.trunc(centres) if published.truncated_cells else np.floor(centres)
    inside = ((cells >= 0) & (cells < (columns, rows))).all(-1)

    kept, pixel, centre, cell = supervised[inside], pixels[inside], centres[inside], cells[inside]
    label = class_index(kept.names, classes)
    corners = letterbox.apply(kept.boxes_2d.reshape(-1, 2, 2)) / HEAD_STRIDE
    size = corners[:, 1] - corners[:, 0]
    alpha = kept.alpha if "label_alpha" in quirks else alpha_from_yaw(kept.yaw, u=pixel[:, 0], camera=camera)
    heading_bin, heading_residual = encode_heading(alpha)
    weight = np.ones(len(kept)) if kept.scores is None or not soft else kept.scores.clip(0, 1)
    return MonoDLETargets(
        heatmap=draw_heatmap(cell, label, size, height=weight, shape=(len(classes), rows, columns))[None],
        image=torch.zeros(len(kept), dtype=torch.int64),
        cell=torch.from_numpy(cell.astype(np.int64)),
        label=torch.from_numpy(label),
        offset_2d=_float(corners.mean(1) - cell),
        size_2d=_float(size),
        offset_3d=_float(centre - cell),
        dimensions=_float(kept.dimensions),
        mean_size=_float(np.array([mean_sizes[name] for name in classes])[label]),
        heading_bin=torch.from_numpy(heading_bin.astype(np.int64)),
        heading_residual=_float(heading_residual),
        depth=_float(kept.bottom[:, 2]),
        has_3d=torch.full((len(kept),), not ("uncropped_3d" in quirks and _is_cropped(letterbox))),
        weight=_float(weight),
        labelled=torch.tensor([not soft]),
    )


def _is_cropped(letterbox: Letterbox) -> bool:
    """Whether the network sees another region than the whole picture, which begins at (0, 0)."""
    return isinstance(letterbox, PublishedLetterbox) and bool((letterbox.region[0] != 0).any())


def _float(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
