"""Masks of the objects on feature maps."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from monoskd.distill.maps import Maps
from monoskd.models.did_m3d.masks import centre_squares as centre_squares
from monoskd.models.did_m3d.masks import rectangles
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
        scale = targets.box_2d.new_tensor([width / columns, height / rows] * 2)
        box = targets.box_2d * scale
        low, high = box[:, :2], box[:, 2:]
        low, high = (low.trunc(), high.trunc()) if published else (low.floor(), high.ceil())
        masks.append(rectangles(low, high, targets.image, batch=batch, height=height, width=width))
    return masks


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
