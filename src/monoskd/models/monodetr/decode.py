"""What queries say becomes boxes in original pixels and metres."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.models.heads import angles
from monoskd.models.monodetr.matching import corners
from monoskd.structures import Detections, Views


def decode_queries(
    heads: dict[str, Tensor],
    views: Views,
    *,
    magnification: Float[Tensor, " b"],
    classes: tuple[str, ...],
    top_k: int,
    bounded_score: bool,
    box_alpha: bool,
) -> tuple[Detections, Int64[Tensor, " n"]]:
    """The `top_k` best pairs of query and class of each image, good or not, and the image of each.

    A query may come twice, under two classes. Score = probability times the confidence exp(-u), which stays below 1 if
    `bounded_score`. alpha is that at the projected 3D centre, as in KITTI's labels, or with `box_alpha` as it was said.
    """
    images, queries, _ = heads["logits"].shape
    heat, index = heads["logits"].sigmoid().flatten(1).topk(min(top_k, queries * len(classes)))
    image = torch.arange(images, device=heat.device)[:, None].expand_as(index).flatten()
    query, label = index.flatten() // len(classes), index.flatten() % len(classes)
    said = {name: head[image, query] for name, head in heads.items()}
    letterbox, camera = views.letterbox[image], Camera(views.cameras.P[image])
    boxes_2d = letterbox.invert(_pixels(corners(said["boxes"]).reshape(-1, 2, 2), letterbox.size)).flatten(1).to(heat)
    centre_px = letterbox.invert(_pixels(said["boxes"][:, :2], letterbox.size))
    centre = camera.back_project(centre_px, said["depth"].squeeze(1)).to(heat)
    middle = (boxes_2d[:, 0] + boxes_2d[:, 2]) / 2
    alpha, yaw = angles(said["heading"], camera=camera, u=middle, centre_u=centre_px[:, 0], published=box_alpha)
    confidence = torch.exp(-said["depth_log_std"].squeeze(1))
    if bounded_score:
        confidence = confidence.clamp(max=1)
    detections = Detections(
        classes=classes,
        labels=label,
        scores=heat.flatten() * confidence,
        boxes_2d=boxes_2d,
        boxes_3d=Boxes3D.around(centre, said["size_3d"], yaw),
        alpha=alpha,
        heat=heat.flatten(),
        depth_std_m=said["depth_log_std"].squeeze(1).exp() * magnification[image].to(alpha),
    )
    return detections, image


def _pixels(points: Float[Tensor, "... 2"], size: tuple[int, int]) -> Float[Tensor, "... 2"]:
    """Network pixels of points given as shares of the input."""
    return torch.stack([points[..., 0] * size[0], points[..., 1] * size[1]], -1)
