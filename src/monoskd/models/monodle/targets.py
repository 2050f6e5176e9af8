"""Labelled objects to the network's targets. The inverse is the detector's decoding."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from monoskd.geometry.camera import Camera, Letterbox, PublishedLetterbox
from monoskd.geometry.heading import alpha_from_yaw
from monoskd.models.dense import cell_fields
from monoskd.models.heatmap import HEAD_STRIDE
from monoskd.models.monodle.structures import MonoDLETargets, Quirk
from monoskd.models.targets import in_map
from monoskd.objects import MIN_HEIGHT_PX, Objects, is_supervised
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
    near = is_supervised(objects, classes, min_height_px=min_height_px) & (objects.bottom[:, 2] <= max_depth_m)
    supervised = objects[near]
    pixels = camera.project(supervised.boxes_3d.centres)
    centres = letterbox.apply(pixels) / HEAD_STRIDE
    cells = np.trunc(centres) if published.truncated_cells else np.floor(centres)
    inside = in_map(cells, letterbox)

    kept, pixel = supervised[inside], pixels[inside]
    fields = cell_fields(
        kept,
        cell=cells[inside],
        centre=centres[inside],
        alpha=kept.alpha if "label_alpha" in quirks else alpha_from_yaw(kept.yaw, u=pixel[:, 0], camera=camera),
        letterbox=letterbox,
        classes=classes,
        mean_sizes=mean_sizes,
        soft=soft,
    )
    has_3d = not ("uncropped_3d" in quirks and _is_cropped(letterbox))
    return MonoDLETargets(**fields, has_3d=torch.full((len(kept),), has_3d))


def _is_cropped(letterbox: Letterbox) -> bool:
    """Whether the network sees another region than the whole picture, which begins at (0, 0)."""
    return isinstance(letterbox, PublishedLetterbox) and bool((letterbox.region[0] != 0).any())
