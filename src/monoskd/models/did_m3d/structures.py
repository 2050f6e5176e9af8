"""The types of DID-M3D: regions, targets and the output of a forward pass.

Letters in shapes: b images, n objects (or regions) of the whole batch laid flat, c classes, u x v cells of the head
map.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monoskd.models.heatmap import HEAD_STRIDE as HEAD_STRIDE
from monoskd.structures import DetectorOutput, Targets, renumbered

ROI_CELLS = 7  # cells along either side of a region
DENSE = ("heatmap", "offset_2d", "size_2d")  # heads with a value for every cell; the others have one for each region


@dataclass(frozen=True)
class Rois:
    """The regions of the RoI heads: one cell of the head map for each of n objects."""

    image: Int64[Tensor, " n"]
    cell: Int64[Tensor, "n 2"]  # (column, row)
    label: Int64[Tensor, " n"]


@dataclass(frozen=True, kw_only=True)
class DidM3DTargets(Targets):
    """What the n supervised objects of a batch should make the network say. See METHOD in docs/method.md.

    Positions and sizes in cells unless a unit is named. A region's 7 x 7 grid lies over the object's 2D box. On frames
    without labels the objects are a teacher's detections: soft targets, each as high and as heavy as its score.
    """

    BY_IMAGE: ClassVar[tuple[str, ...]] = ("labelled", "heatmap", "unsupervised")

    heatmap: Float[Tensor, "b c v u"]
    cell: Int64[Tensor, "n 2"]  # (column, row) of the projected 3D centre, truncated
    label: Int64[Tensor, " n"]
    box_2d: Float[Tensor, "n 4"]  # left, top, right, bottom; as labelled, not clipped to the crop
    offset_2d: Float[Tensor, "n 2"]  # centre of the 2D box minus cell
    size_2d: Float[Tensor, "n 2"]  # (width, height) of the 2D box
    offset_3d: Float[Tensor, "n 2"]  # projected 3D centre minus cell
    size_3d: Float[Tensor, "n 3"]  # (h, w, l) minus the class mean [m]
    heading_bin: Int64[Tensor, " n"]
    heading_residual: Float[Tensor, " n"]  # [rad]
    depth: Float[Tensor, " n"]  # z of the 3D centre [m]
    visual_depth: Float[Tensor, "n 7 7"]  # [m]
    attribute_depth: Float[Tensor, "n 7 7"]  # depth minus visual depth [m]
    depth_mask: Bool[Tensor, "n 7 7"]  # where a visual depth exists
    unsupervised: Int64[Tensor, " b"]  # objects listed in the label but not supervised; only `published` counts them
    weight: Float[Tensor, " n"]  # 1 for a label, the teacher's score for its detection

    @property
    def rois(self) -> Rois:
        """The training regions: the true peak cells."""
        return Rois(self.image, self.cell, self.label)


@dataclass(frozen=True)
class DidM3DOutput(DetectorOutput):
    """The output of one forward pass: dense heads b x k x v x u, regional ones n x ...

    rois: the cells that the regional heads looked at, n of them; boxes: their 2D boxes (left, top, right, bottom)
    in cells; scores: the heat there.
    """

    rois: Rois
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]

    def of(self, images: Bool[Tensor, " b"]) -> "DidM3DOutput":
        """The output for the chosen images, which are numbered anew; without the features."""
        rows = images[self.rois.image]
        heads = {name: head[images if name in DENSE else rows] for name, head in self.heads.items()}
        rois = Rois(renumbered(self.rois.image[rows], images), self.rois.cell[rows], self.rois.label[rows])
        return DidM3DOutput({}, heads, rois, self.boxes[rows], self.scores[rows])
