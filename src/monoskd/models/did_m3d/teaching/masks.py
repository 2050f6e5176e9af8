"""Masks of the objects on feature maps."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from monoskd.distill.maps import Maps
from monoskd.geometry.heatmap import gaussian_radius
from monoskd.models.did_m3d.structures import DidM3DTargets


def foreground_masks(
    targets: DidM3DTargets, sizes: Sequence[tuple[int, int]], *, published: bool = False
) -> list[Bool[Tensor, "b 1 _h _w"]]:
    """For maps of the given (height, width): the cells that lie under a 2D box.

    Every cell that a box touches counts, so that no object is lost on a coarse map. published: from trunc(left) to
    trunc(right) without it, and so for the rows; a box within one cell then covers nothing.
    """
    batch, _, rows, columns = targets.heatmap.shape
    masks = []
    for height, width in sizes:
        x, y = targets.box_2d.reshape(len(targets.box_2d), 2, 2).unbind(2)
        low, high = torch.stack([x * (width / columns), y * (height / rows)], 2).unbind(1)
        low, high = (low.trunc(), high.trunc()) if published else (low.floor(), high.ceil())
        masks.append(_rectangles(low, high, targets.image, batch=batch, height=height, width=width))
    return masks


def centre_squares(targets: DidM3DTargets, *, published: bool = False) -> Bool[Tensor, "b 1 v u"]:
    """The cells of the head map within r of a 2D box's centre cell, r the box's Gaussian radius in whole cells.

    A square of 2 r + 1 cells. published: in an image with objects that are listed but not supervised the cell (0, 0)
    counts too, since the original reads a box of zeros for each of them.
    """
    batch, _, height, width = targets.heatmap.shape
    low, high = targets.box_2d[:, :2], targets.box_2d[:, 2:]
    centre = ((low + high) / 2).floor()
    radius = gaussian_radius(high[:, 0] - low[:, 0], high[:, 1] - low[:, 1]).floor()[:, None]
    mask = _rectangles(centre - radius, centre + radius + 1, targets.image, batch=batch, height=height, width=width)
    if published:
        mask[:, 0, 0, 0] |= targets.unsupervised > 0
    return mask


class Foreground(nn.Module):
    """A loss at the objects only: its mask on each level is `foreground_masks` of the targets.

    MonoDistill's imitation is `Foreground(ImitationLoss())`; as published, with `published=True` and
    `mode="published"`.
    """

    def __init__(self, loss: nn.Module, *, published: bool = False) -> None:
        super().__init__()
        self.loss = loss
        self.published = published

    def forward(self, *, student: Maps, teacher: Maps, targets: DidM3DTargets) -> Float[Tensor, ""]:
        """The loss inside the 2D boxes of `targets`."""
        levels = [student] if isinstance(student, Tensor) else student
        masks = foreground_masks(
            targets, [(level.shape[-2], level.shape[-1]) for level in levels], published=self.published
        )
        value: Tensor = self.loss(student=student, teacher=teacher, mask=masks)
        return value


def _rectangles(
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
