"""Which query answers for which object: the assignment of least cost, per image and group of queries."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from monoskd.models.monodetr.structures import MonoDETRTargets

CLASS_COST, CENTRE_COST, EDGE_COST, OVERLAP_COST = 2.0, 10.0, 5.0, 2.0
ALPHA, GAMMA = 0.25, 2  # of the focal loss
_EPSILON = 1e-8
_HOPELESS = 1e6  # the cost of an answer that is not a number


@torch.no_grad()
def match(
    heads: dict[str, Tensor], targets: MonoDETRTargets, *, groups: int
) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
    """Query and object (row of the targets) of each pair: in every group a query for each object of the image.

    Image after image, group after group. An image with more objects than a group has queries leaves some out.
    """
    costs = np.nan_to_num(matching_costs(heads, targets).double().cpu().numpy(), nan=_HOPELESS, posinf=_HOPELESS)
    size = costs.shape[1] // groups
    image = targets.image.cpu().numpy()
    pairs = [np.zeros((2, 0), np.int64)]
    for number in np.unique(image):
        rows = np.flatnonzero(image == number)
        for first in range(0, groups * size, size):
            query, place = linear_sum_assignment(costs[rows, first : first + size].T)
            pairs.append(np.stack([first + query, rows[place]]))
    query, row = torch.from_numpy(np.concatenate(pairs, 1)).to(targets.image.device)
    return query, row


def matching_costs(heads: dict[str, Tensor], targets: MonoDETRTargets) -> Float[Tensor, "n q"]:
    """2 class + 10 L1 of the centre + 5 L1 of the distances to the 2D box - 2 GIoU of the 2D boxes.

    With p the probability of the object's class: class = 0.25 (1 - p)^2 (-log p) - 0.75 p^2 (-log(1 - p)).
    """
    p = heads["logits"].sigmoid()[targets.image, :, targets.label]
    positive = ALPHA * (1 - p) ** GAMMA * -(p + _EPSILON).log()
    negative = (1 - ALPHA) * p**GAMMA * -(1 - p + _EPSILON).log()
    boxes, true = heads["boxes"][targets.image], targets.box[:, None].to(heads["boxes"])
    apart = (boxes - true).abs()
    overlap = generalised_overlap(corners(boxes), corners(true))
    return (
        CLASS_COST * (positive - negative)
        + CENTRE_COST * apart[..., :2].sum(-1)
        + EDGE_COST * apart[..., 2:].sum(-1)
        - OVERLAP_COST * overlap
    )


def corners(boxes: Float[Tensor, "... 6"]) -> Float[Tensor, "... 4"]:
    """(left, top, right, bottom) of boxes given as (x, y) and the distances left, right, top, bottom from there."""
    x, y, left, right, top, bottom = boxes.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], -1)


def generalised_overlap(a: Float[Tensor, "... 4"], b: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """GIoU (Rezatofighi et al., CVPR 2019): IoU minus the share of the common hull that neither box covers."""
    size_a, size_b = (a[..., 2:] - a[..., :2]), (b[..., 2:] - b[..., :2])
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = size_a.prod(-1) + size_b.prod(-1) - shared
    tiny = torch.finfo(a.dtype).tiny
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)
