"""Head tensors to detections: what the network says in cells becomes boxes in original pixels and metres."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BINS, decode_heading, yaw_from_alpha
from monoskd.models.did_m3d.structures import HEAD_STRIDE, DidM3DOutput
from monoskd.structures import Detections, Views


@dataclass(frozen=True)
class DecodedRegions:
    """What n regions say, good or not, in the order of the output's `rois`."""

    scores: Float[Tensor, " n"]  # heat times depth confidence
    boxes_2d: Float[Tensor, "n 4"]  # left, top, right, bottom [original px]
    boxes_3d: Boxes3D
    alpha: Float[Tensor, " n"]  # [rad]


def decode_regions(output: DidM3DOutput, views: Views, *, mean_sizes: Float[Tensor, "c 3"]) -> DecodedRegions:
    """Every region's box, in tensors of fixed size.

    mean_sizes: (h, w, l) [m] of each class. The 3D centre (not the bottom) is what projects to cell + offset_3d.
    """
    rois, heads = output.rois, output.heads
    letterbox, camera = views.letterbox[rois.image], Camera(views.cameras.P[rois.image])
    boxes_2d = letterbox.invert(output.boxes.reshape(-1, 2, 2) * HEAD_STRIDE).flatten(1).to(output.boxes)
    centre_px = letterbox.invert((rois.cell + heads["offset_3d"]) * HEAD_STRIDE)
    depth_m, confidence = merge_depth(heads["depth"], heads["depth_log_variance"])
    dimensions = mean_sizes[rois.label] + heads["size_3d"]

    centre = camera.back_project(centre_px, depth_m).to(output.boxes)
    below = torch.zeros_like(centre)
    below[:, 1] = dimensions[:, 0] / 2
    alpha = heading_angle(heads["heading"])
    yaw = yaw_from_alpha(alpha, u=(boxes_2d[:, 0] + boxes_2d[:, 2]) / 2, camera=camera).to(alpha)
    return DecodedRegions(output.scores * confidence, boxes_2d, Boxes3D(centre + below, dimensions, yaw), alpha)


def merge_depth(
    depth: Float[Tensor, "n 7 7"], log_variance: Float[Tensor, "n 7 7"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """One depth [m] from a patch of them, and how far to trust it.

    With p = exp(-exp(u / 2)) a point's weight: depth = sum(p d) / sum(p), confidence = sum(p^2) / sum(p). Computed
    from log p, so that points without any trust do not divide zero by zero.
    """
    log_p = -torch.exp(log_variance.flatten(1) / 2)
    merged = (log_p.softmax(1) * depth.flatten(1)).sum(1)
    return merged, torch.exp(torch.logsumexp(2 * log_p, 1) - torch.logsumexp(log_p, 1))


def heading_angle(heading: Float[Tensor, "n 24"]) -> Float[Tensor, " n"]:
    """alpha [rad]: the likeliest of 12 bins plus its residual."""
    logits, residuals = heading[:, :BINS], heading[:, BINS:]
    index = logits.argmax(1, keepdim=True)
    angle: Tensor = decode_heading(index, residuals.gather(1, index)).squeeze(1)
    return angle


def detections_by_image(
    regions: DecodedRegions, output: DidM3DOutput, *, classes: Sequence[str], images: int
) -> list[Detections]:
    """The regions of each image as detections, best first; boxes with a negative dimension are dropped."""
    rois = output.rois
    sound = (regions.boxes_3d.dimensions >= 0).all(1)
    order = regions.scores.argsort(descending=True, stable=True)
    found = []
    for image in range(images):
        rows = order[(sound & (rois.image == image))[order]]
        found.append(
            Detections(
                classes=tuple(classes),
                labels=rois.label[rows],
                scores=regions.scores[rows],
                boxes_2d=regions.boxes_2d[rows],
                boxes_3d=regions.boxes_3d[rows],
                alpha=regions.alpha[rows],
                heat=output.scores[rows],
            )
        )
    return found
