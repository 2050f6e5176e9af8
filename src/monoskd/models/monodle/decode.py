"""Head tensors to detections: what the network says in cells becomes boxes in original pixels and metres."""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BINS, decode_heading, yaw_from_alpha
from monoskd.models.monodle.structures import HEAD_STRIDE, MonoDLEOutput, Quirk
from monoskd.structures import Detections, Views


def decode_cells(
    output: MonoDLEOutput,
    views: Views,
    *,
    classes: tuple[str, ...],
    mean_sizes: Float[Tensor, "c 3"],
    quirks: Collection[Quirk],
) -> Detections:
    """The box at each of the output's n cells, good or not.

    mean_sizes: (h, w, l) [m] that sizes are relative to. The 3D centre (not the bottom) is what projects to
    cell + offset_3d. Score = heat times the confidence exp(-u), which stays below 1 unless `unbounded_score`.
    """
    best, at = output.where, output.heads
    letterbox, camera = views.letterbox[best.image], Camera(views.cameras.P[best.image])
    centre_2d, half = best.cell + at["offset_2d"], at["size_2d"] / 2
    corners = torch.stack([centre_2d - half, centre_2d + half], 1)
    boxes_2d = letterbox.invert(corners * HEAD_STRIDE).flatten(1).to(corners)
    centre_px = letterbox.invert((best.cell + at["offset_3d"]) * HEAD_STRIDE)
    dimensions = mean_sizes[best.label] + at["size_3d"]
    centre = camera.back_project(centre_px, at["depth"].squeeze(1)).to(corners)
    below = torch.zeros_like(centre)
    below[:, 1] = dimensions[:, 0] / 2
    index = at["heading"][:, :BINS].argmax(1, keepdim=True)
    alpha = decode_heading(index, at["heading"][:, BINS:].gather(1, index)).squeeze(1)
    confidence = torch.exp(-at["depth_log_std"].squeeze(1))
    if "unbounded_score" not in quirks:
        confidence = confidence.clamp(max=1)
    return Detections(
        classes=classes,
        labels=best.label,
        scores=best.heat * confidence,
        boxes_2d=boxes_2d,
        boxes_3d=Boxes3D(centre + below, dimensions, yaw_from_alpha(alpha, u=centre_px[:, 0], camera=camera).to(alpha)),
        alpha=alpha,
        heat=best.heat,
        depth_std_m=at["depth_log_std"].squeeze(1).exp(),
    )
