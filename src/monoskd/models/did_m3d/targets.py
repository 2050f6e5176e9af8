"""Labelled objects to the network's targets. The inverse is the detector's decoding."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from monoskd.geometry.camera import Camera, Letterbox
from monoskd.geometry.heading import alpha_from_yaw
from monoskd.models.did_m3d.structures import HEAD_STRIDE, ROI_CELLS, DidM3DTargets
from monoskd.models.targets import as_float, in_map, peak_fields
from monoskd.objects import MIN_HEIGHT_PX, Objects, class_index, is_supervised
from monoskd.structures import DepthMap, PublishedData

# A visual depth belongs to the object if it is this near to the object's own.
MAX_DEPTH_GAP_M = 3


def make_targets(
    objects: Objects,
    *,
    camera: Camera,
    letterbox: Letterbox,
    classes: Sequence[str],
    mean_sizes: Mapping[str, tuple[float, float, float]],
    depth_m: DepthMap | None,
    soft: bool = False,
    min_height_px: float = MIN_HEIGHT_PX,
    published: PublishedData,
) -> DidM3DTargets:
    """The targets of one image (all with image index 0).

    objects, camera: in original pixels; letterbox: to network pixels; mean_sizes: (h, w, l) [m] of each class;
    depth_m: the depth map in network pixels, 0 where unknown, or None: then there is no visual depth anywhere;
    min_height_px: of the 2D box of an object that is supervised, in original pixels; soft: the objects are a teacher's
    detections, and their scores say how high their heat is and how much they weigh.
    """
    supervised = objects[is_supervised(objects, classes, min_height_px=min_height_px)]
    centres = _cells(camera.project(supervised.boxes_3d.centres), letterbox)
    cells = np.trunc(centres) if published.truncated_cells else np.floor(centres)
    inside = in_map(cells, letterbox)

    kept = supervised[inside]
    fields = peak_fields(
        kept,
        cell=cells[inside],
        centre=centres[inside],
        alpha=alpha_from_yaw(kept.yaw, u=(kept.boxes_2d[:, 0] + kept.boxes_2d[:, 2]) / 2, camera=camera),
        letterbox=letterbox,
        classes=classes,
        soft=soft,
    )
    means = np.array([mean_sizes[name] for name in classes])[class_index(kept.names, classes)]
    box_2d = as_float(_cells(kept.boxes_2d.reshape(-1, 2, 2), letterbox).reshape(-1, 4))
    visual, known = visual_depth(depth_m, boxes=box_2d, fill_unknown=published.plain_bilinear)
    gap = fields["depth"][:, None, None] - visual
    mask = known & (gap.abs() < MAX_DEPTH_GAP_M)
    return DidM3DTargets(
        **fields,
        box_2d=box_2d,
        size_3d=as_float(kept.dimensions - means),
        visual_depth=visual * mask,
        attribute_depth=gap * mask,
        depth_mask=mask,
        unsupervised=torch.tensor([len(objects) - len(kept)]),
    )


def visual_depth(depth_m: DepthMap | None, *, boxes: Tensor, fill_unknown: bool) -> tuple[Tensor, Tensor]:
    """What the depth map shows on a 7 x 7 grid over each box: metres n x 7 x 7, and where there is any.

    depth_m: network pixels, 0 where unknown; boxes: n x 4 in cells. Averaged over the pixels of a cell, then by
    RoIAlign over the cells. Unknown pixels have no say: both averages run over depth and over knownness, and their
    quotient is the mean of the known; below half of the weight known there is no depth. `fill_unknown` averages them in
    as zeros.
    """
    if depth_m is None:
        nothing = torch.zeros(len(boxes), ROI_CELLS, ROI_CELLS)
        return nothing, nothing.bool()
    size = (depth_m.shape[1] // HEAD_STRIDE, depth_m.shape[0] // HEAD_STRIDE)
    maps = (depth_m, (depth_m > 0).astype(np.float32))
    cells = np.stack([cv2.resize(map_, size, interpolation=cv2.INTER_AREA) for map_ in maps])  # the mean of each cell
    depth, weight = roi_align(torch.from_numpy(cells)[None], [boxes], ROI_CELLS).unbind(1)
    if fill_unknown:
        return depth, depth > 0
    known = weight >= 0.5
    return torch.where(known, depth / weight.clamp(min=0.5), 0.0), known


def _cells(uv: NDArray[Any], letterbox: Letterbox) -> NDArray[Any]:
    """Original pixels ... x 2 in cells of the network's map."""
    cells: NDArray[Any] = letterbox.apply(uv) / HEAD_STRIDE
    return cells
