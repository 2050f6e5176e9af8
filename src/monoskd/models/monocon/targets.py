"""Labelled objects to the network's targets. The inverse is the detector's decoding."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from monoskd.geometry.camera import Camera, Letterbox
from monoskd.geometry.heading import alpha_from_yaw
from monoskd.models.dense import cell_fields
from monoskd.models.heatmap import HEAD_STRIDE, draw_heatmap
from monoskd.models.monocon.structures import CORNERS, KEYPOINTS, MonoConTargets
from monoskd.models.targets import as_float, in_map, map_shape
from monoskd.objects import MIN_HEIGHT_PX, Objects, is_supervised
from monoskd.structures import DepthMap

NEAREST_M = 1.0  # of a corner that is supervised: nearer ones are projected far out of the picture, or mirrored


def make_targets(
    objects: Objects,
    *,
    camera: Camera,
    letterbox: Letterbox,
    classes: Sequence[str],
    mean_sizes: Mapping[str, tuple[float, float, float]],
    max_depth_m: float,
    depth_m: DepthMap | None = None,
    soft: bool = False,
    min_height_px: float = MIN_HEIGHT_PX,
) -> MonoConTargets:
    """The targets of one image (all with image index 0).

    objects, camera: in original pixels; letterbox: to network pixels; mean_sizes: (h, w, l) [m] that sizes are relative
    to; soft: the objects are a teacher's detections, and their scores say how high their heat is and how much they
    weigh. The centre of the 2D box must lie in the network's input, the projected 3D centre need not.
    """
    near = is_supervised(objects, classes, min_height_px=min_height_px) & (objects.bottom[:, 2] <= max_depth_m)
    supervised = objects[near]
    cells = np.floor(letterbox.apply(supervised.boxes_2d.reshape(-1, 2, 2).mean(1)) / HEAD_STRIDE)
    inside = in_map(cells, letterbox)
    kept, cell = supervised[inside], cells[inside]

    points = np.concatenate([kept.boxes_3d.corners(), kept.boxes_3d.centres[:, None]], 1)  # n x 9 x 3 [m]
    in_front = points[..., 2] >= NEAREST_M
    pixel = camera.project(np.where(in_front[..., None], points, kept.boxes_3d.centres[:, None]))
    keypoint = letterbox.apply(pixel) / HEAD_STRIDE
    fields = cell_fields(
        kept,
        cell=cell,
        centre=keypoint[:, CORNERS],
        alpha=alpha_from_yaw(kept.yaw, u=pixel[:, CORNERS, 0], camera=camera),
        letterbox=letterbox,
        classes=classes,
        mean_sizes=mean_sizes,
        soft=soft,
    )
    keypoint_cell = np.floor(keypoint)
    seen = in_front & in_map(keypoint_cell, letterbox)
    keypoint_cell = np.where(seen[..., None], keypoint_cell, 0)
    object_of, number = seen.nonzero()
    heat = draw_heatmap(
        keypoint_cell[seen],
        number,
        fields["size_2d"].numpy()[object_of],
        height=fields["weight"].numpy()[object_of],
        shape=(KEYPOINTS, *map_shape(letterbox)),
    )
    return MonoConTargets(
        **fields,
        keypoint_heatmap=heat[None],
        corners=as_float(keypoint[:, :CORNERS] - cell[:, None]),
        has_corner=torch.from_numpy(in_front[:, :CORNERS]),
        keypoint_cell=torch.from_numpy(keypoint_cell.astype(np.int64)),
        keypoint_offset=as_float(np.where(seen[..., None], keypoint - keypoint_cell, 0)),
        has_keypoint=torch.from_numpy(seen),
    )
