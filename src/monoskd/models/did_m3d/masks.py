"""Where the objects are on the head map."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monoskd.geometry.heatmap import gaussian_radius
from monoskd.models.did_m3d.structures import DidM3DTargets


def cells_near(targets: DidM3DTargets) -> Bool[Tensor, "b 1 v u"]:
    """The cells that losses read at objects: their own, and `centre_squares` in either form."""
    mask = centre_squares(targets, published=True)
    mask[targets.image, 0, targets.cell[:, 1], targets.cell[:, 0]] = True
    return mask


def centre_squares(targets: DidM3DTargets, *, published: bool = False) -> Bool[Tensor, "b 1 v u"]:
    """The cells of the head map within r of a 2D box's centre cell, r the box's Gaussian radius in whole cells.

    A square of 2 r + 1 cells. published: in an image with objects that are listed but not supervised the cell (0, 0)
    counts too, since the original reads a box of zeros for each of them.
    """
    batch, _, height, width = targets.heatmap.shape
    low, high = targets.box_2d[:, :2], targets.box_2d[:, 2:]
    centre = ((low + high) / 2).floor()
    radius = gaussian_radius(high[:, 0] - low[:, 0], high[:, 1] - low[:, 1]).floor()[:, None]
    mask = rectangles(centre - radius, centre + radius + 1, targets.image, batch=batch, height=height, width=width)
    if published:
        mask[:, 0, 0, 0] |= targets.unsupervised > 0
    return mask


def rectangles(
    low: Float[Tensor, "n 2"],
    high: Float[Tensor, "n 2"],
    image: Int64[Tensor, " n"],
    *,
    batch: int,
    height: int,
    width: int,
) -> Bool[Tensor, "b 1 {height} {width}"]:
    """Cells (column, row) with low <= cell < high for any of n rectangles, each in its image."""
    column = torch.arange(width, device=low.device)
    row = torch.arange(height, device=low.device)
    in_column = (column >= low[:, :1]) & (column < high[:, :1])
    in_row = (row >= low[:, 1:]) & (row < high[:, 1:])
    in_image = torch.arange(batch, device=image.device)[:, None] == image
    count = torch.einsum("bn,nh,nw->bhw", in_image.to(low), in_row.to(low), in_column.to(low))
    return (count > 0)[:, None]
