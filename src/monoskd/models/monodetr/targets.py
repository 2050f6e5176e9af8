"""Labelled objects to the network's targets. The inverse is the detector's decoding."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monoskd.geometry.camera import Camera, Letterbox, PublishedLetterbox
from monoskd.geometry.heading import alpha_from_yaw, encode_heading
from monoskd.models.monodetr.depth import NEAREST_M, bin_size_m
from monoskd.models.monodetr.structures import DEPTH_STRIDE, MonoDETRTargets, Quirk
from monoskd.models.targets import as_float, object_weights
from monoskd.objects import MIN_HEIGHT_PX, Objects, class_index, is_supervised
from monoskd.structures import DepthMap


def make_targets(
    objects: Objects,
    *,
    camera: Camera,
    letterbox: Letterbox,
    classes: Sequence[str],
    max_depth_m: float,
    reference_focal_px: float,
    bins: int,
    quirks: Collection[Quirk],
    depth_m: DepthMap | None = None,
    soft: bool = False,
    min_height_px: float = MIN_HEIGHT_PX,
) -> MonoDETRTargets:
    """The targets of one image (all with image index 0).

    objects, camera: in original pixels; letterbox: to network pixels; soft: the objects are a teacher's detections, and
    their scores say how much they weigh. Objects whose projected 3D centre lies outside their 2D box or the network's
    input are left out: a query says both by distances that are not negative.
    """
    near = is_supervised(objects, classes, min_height_px=min_height_px) & (objects.bottom[:, 2] <= max_depth_m)
    supervised = objects[near]
    centre = letterbox.apply(camera.project(supervised.boxes_3d.centres))
    edges = letterbox.apply(supervised.boxes_2d.reshape(-1, 2, 2))
    to_edges = np.stack([centre - edges[:, 0], edges[:, 1] - centre], -1)  # n x 2 (axis) x 2 (before, after)
    inside = ((centre >= 0) & (centre < letterbox.size)).all(-1) & (to_edges >= 0).all((1, 2))

    kept, size = supervised[inside], np.array(letterbox.size)
    box = np.concatenate([centre / size, (to_edges / size[:, None]).reshape(-1, 4)], 1)[inside]
    column = (kept.boxes_2d[:, 0] + kept.boxes_2d[:, 2]) / 2
    seen_by = _unmirrored(camera, letterbox) if "unmirrored_camera" in quirks else camera
    heading_bin, heading_residual = encode_heading(alpha_from_yaw(kept.yaw, u=column, camera=seen_by))
    k = _magnification(camera, letterbox, reference_focal_px=reference_focal_px, quirks=quirks)
    depth = kept.bottom[:, 2]
    depth_bin, foreground = paint(
        (edges[inside] / DEPTH_STRIDE).reshape(-1, 4),
        depth_bins(depth / k, bins=bins, far_background="far_background" in quirks),
        depth,
        shape=(letterbox.size[1] // DEPTH_STRIDE, letterbox.size[0] // DEPTH_STRIDE),
        background=bins,
        wrapped="wrapped_boxes" in quirks,
    )
    return MonoDETRTargets(
        image=torch.zeros(len(kept), dtype=torch.int64),
        labelled=torch.tensor([not soft]),
        magnification=as_float(np.array([k])),
        depth_bin=depth_bin[None],
        foreground=foreground[None],
        label=torch.from_numpy(class_index(kept.names, classes)),
        box=as_float(box),
        dimensions=as_float(kept.dimensions),
        heading_bin=torch.from_numpy(heading_bin.astype(np.int64)),
        heading_residual=as_float(heading_residual),
        depth=as_float(depth),
        weight=as_float(object_weights(kept, soft=soft)),
    )


def depth_bins(depth_m: NDArray[Any], *, bins: int, far_background: bool) -> NDArray[np.int64]:
    """The bin of each apparent depth. Beyond the last one: the last one, or the background as published."""
    number = np.floor(-0.5 + 0.5 * np.sqrt(1 + 8 * (np.maximum(depth_m, NEAREST_M) - NEAREST_M) / bin_size_m(bins)))
    last = bins if far_background else bins - 1
    return np.asarray(number.clip(0, last), np.int64)


def paint(
    boxes: NDArray[Any],
    values: NDArray[np.int64],
    depth_m: NDArray[Any],
    *,
    shape: tuple[int, int],
    background: int,
    wrapped: bool,
) -> tuple[Tensor, Tensor]:
    """A map of `shape` (rows, columns) with the value of the nearest box that covers each cell, and where there is one.

    boxes: n x 4 (left, top, right, bottom) in cells, rounded outwards. wrapped: a negative edge counts from the far
    side of the map, as in a Python slice, so that such a box usually paints nothing.
    """
    painted, inside = np.full(shape, background, np.int64), np.zeros(shape, bool)
    whole = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1).astype(int)
    for number in np.argsort(-depth_m, kind="stable"):
        left, top, right, bottom = (whole[number] if wrapped else whole[number].clip(min=0)).tolist()
        window = (slice(top, bottom), slice(left, right))
        painted[window], inside[window] = values[number], True
    return torch.from_numpy(painted), torch.from_numpy(inside)


def _magnification(
    camera: Camera, letterbox: Letterbox, *, reference_focal_px: float, quirks: Collection[Quirk]
) -> float:
    """k of one picture; see `MonoDETR.magnification`."""
    if "lens_blind_depth" not in quirks:
        return float(letterbox.scale) * float(camera.focal_px) / reference_focal_px
    return 1 / float(letterbox.crop_scale) if isinstance(letterbox, PublishedLetterbox) else 1.0


def _unmirrored(camera: Camera, letterbox: Letterbox) -> Camera:
    """The camera before its picture was mirrored, as far as headings read it.

    KITTI's cameras on the left lie left of the reference, so p03 > 0; in a mirrored picture it is negative.
    """
    if not isinstance(letterbox, PublishedLetterbox) or camera.P[0, 3] >= 0:
        return camera
    return camera.mirrored(float(letterbox.picture[0]))
