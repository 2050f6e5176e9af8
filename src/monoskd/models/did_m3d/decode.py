"""Head tensors to detections: values in cells become boxes in original pixels and metres."""

import torch
from jaxtyping import Float
from torch import Tensor

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.models.did_m3d.structures import HEAD_STRIDE, DidM3DOutput
from monoskd.models.heads import angles
from monoskd.structures import Detections, Views


def decode_regions(
    output: DidM3DOutput, views: Views, *, classes: tuple[str, ...], mean_sizes: Float[Tensor, "c 3"], published: bool
) -> Detections:
    """The box of every region, whatever its score, in the order of the output's `rois`, in tensors of fixed size.

    mean_sizes: (h, w, l) [m] of each class. The 3D centre (not the bottom) is what projects to cell + offset_3d. Scores
    are heat times depth confidence. published: alpha is that at the middle of the 2D box.
    """
    rois, heads = output.rois, output.heads
    letterbox, camera = views.letterbox[rois.image], Camera(views.cameras.P[rois.image])
    boxes_2d = letterbox.invert(output.boxes.reshape(-1, 2, 2) * HEAD_STRIDE).flatten(1).to(output.boxes)
    centre_px = letterbox.invert((rois.cell + heads["offset_3d"]) * HEAD_STRIDE)
    depth_m, confidence = merge_depth(heads["depth"], heads["depth_log_variance"])
    dimensions = mean_sizes[rois.label] + heads["size_3d"]
    centre = camera.back_project(centre_px, depth_m).to(output.boxes)
    middle = (boxes_2d[:, 0] + boxes_2d[:, 2]) / 2
    alpha, yaw = angles(heads["heading"], camera=camera, u=middle, centre_u=centre_px[:, 0], published=published)
    return Detections(
        classes=classes,
        labels=rois.label,
        scores=output.scores * confidence,
        boxes_2d=boxes_2d,
        boxes_3d=Boxes3D.around(centre, dimensions, yaw),
        alpha=alpha,
        heat=output.scores,
        depth_std_m=depth_deviation(heads["depth"], heads["depth_log_variance"]),
    )


def merge_depth(
    depth: Float[Tensor, "n 7 7"], log_variance: Float[Tensor, "n 7 7"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """One depth [m] from a patch of depths, and its confidence.

    With p = exp(-exp(u / 2)) a point's weight: depth = sum(p d) / sum(p), confidence = sum(p^2) / sum(p). Computed
    from log p, so that weights that underflow do not give 0 / 0.
    """
    log_p = -torch.exp(log_variance.flatten(1) / 2)
    merged = (log_p.softmax(1) * depth.flatten(1)).sum(1)
    return merged, torch.exp(torch.logsumexp(2 * log_p, 1) - torch.logsumexp(log_p, 1))


def depth_deviation(depth: Float[Tensor, "n 7 7"], log_variance: Float[Tensor, "n 7 7"]) -> Float[Tensor, " n"]:
    """Standard deviation [m] of the merged depth: of the mixture of the points' distributions, with their weights.

    variance = sum(p (v + (d - merged)^2)) / sum(p), with v = exp(u) a point's variance and p as in `merge_depth`.
    """
    u, depth = log_variance.flatten(1), depth.flatten(1)
    log_share = (-torch.exp(u / 2)).log_softmax(1)
    spread = depth - (log_share.exp() * depth).sum(1, keepdim=True)
    own, between = torch.logsumexp(log_share + u, 1).exp(), (log_share.exp() * spread**2).sum(1)
    return (own + between).sqrt()
