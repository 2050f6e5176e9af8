"""The nouns of MonoCon: its output and its targets.

Letters in shapes: b images, n objects of the whole batch laid flat, u x v cells of the head map. An object has nine
keypoints: the eight corners of its box as in `Boxes3D.corners`, then its 3D centre.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monoskd.models.dense import CellOutput, CellTargets

CORNERS = 8
KEYPOINTS = CORNERS + 1


@dataclass(frozen=True)
class MonoConOutput(CellOutput):
    """The output of one forward pass; the auxiliary heads are there in training alone."""

    MAPS: ClassVar[tuple[str, ...]] = (*CellOutput.MAPS, "keypoint_heatmap")


@dataclass(frozen=True)
class Cells:
    """Cells of a batch's maps."""

    image: Int64[Tensor, " n"]
    cell: Int64[Tensor, "n 2"]  # (column, row)


@dataclass(frozen=True, kw_only=True)
class MonoConTargets(CellTargets):
    """The targets of the n objects of a batch; `cell` is that of the 2D box's centre. Below: the auxiliary ones."""

    BY_IMAGE: ClassVar[tuple[str, ...]] = (*CellTargets.BY_IMAGE, "keypoint_heatmap")

    keypoint_heatmap: Float[Tensor, "b 9 v u"]
    corners: Float[Tensor, "n 8 2"]  # projected corners minus cell [cells]
    has_corner: Bool[Tensor, "n 8"]  # whether the corner is well in front of the camera
    keypoint_cell: Int64[Tensor, "n 9 2"]  # (column, row) of the projected keypoints; the map's first where outside
    keypoint_offset: Float[Tensor, "n 9 2"]  # projected keypoint minus its cell [cells]
    has_keypoint: Bool[Tensor, "n 9"]  # whether it lies in the map, and well in front of the camera

    @property
    def keypoints(self) -> Cells:
        """The cells of all keypoints, object after object."""
        return Cells(self.image.repeat_interleave(KEYPOINTS), self.keypoint_cell.flatten(0, 1))
