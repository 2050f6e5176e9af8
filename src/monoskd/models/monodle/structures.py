"""The nouns of MonoDLE: its targets, its quirks and the stride of its maps.

Letters in shapes: b images, n objects of the whole batch laid flat, c classes, u x v cells of the head map.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monoskd.models.heatmap import Peaks
from monoskd.structures import DetectorOutput, Targets, renumbered

HEAD_STRIDE = 4  # network pixels a cell

Quirk: TypeAlias = Literal[
    "label_alpha",
    "uncropped_3d",
    "lens_blind_depth",
    "absolute_sizes",
    "clamped_heat",
    "unbounded_score",
    "negative_sizes",
    "small_start",
]


@dataclass(frozen=True)
class MonoDLEOutput(DetectorOutput):
    """The output of one forward pass: the heat map b x c x v x u, all other heads n x outputs.

    where: the n cells at which these were evaluated: those of the targets in training, else the heat map's peaks.
    """

    where: Peaks

    def of(self, images: Bool[Tensor, " b"]) -> "MonoDLEOutput":
        """The output for the chosen images, which are numbered anew; without the features."""
        rows, where = images[self.where.image], self.where
        heads = {name: head[images if name == "heatmap" else rows] for name, head in self.heads.items()}
        image = renumbered(where.image[rows], images)
        return MonoDLEOutput({}, heads, Peaks(image, where.cell[rows], where.label[rows], where.heat[rows]))


@dataclass(frozen=True, kw_only=True)
class MonoDLETargets(Targets):
    """What the n supervised objects of a batch should make the network say.

    Positions and sizes in cells unless a unit is named. On frames without labels the objects are a teacher's
    detections: soft targets, each as high and as heavy as its score.
    """

    BY_IMAGE: ClassVar[tuple[str, ...]] = ("labelled", "heatmap")

    heatmap: Float[Tensor, "b c v u"]
    cell: Int64[Tensor, "n 2"]  # (column, row) of the projected 3D centre
    label: Int64[Tensor, " n"]
    offset_2d: Float[Tensor, "n 2"]  # centre of the 2D box minus cell
    size_2d: Float[Tensor, "n 2"]  # (width, height) of the 2D box
    offset_3d: Float[Tensor, "n 2"]  # projected 3D centre minus cell
    dimensions: Float[Tensor, "n 3"]  # (h, w, l) [m]
    mean_size: Float[Tensor, "n 3"]  # what the network's sizes are relative to [m]
    heading_bin: Int64[Tensor, " n"]
    heading_residual: Float[Tensor, " n"]  # [rad]
    depth: Float[Tensor, " n"]  # z [m]
    has_3d: Bool[Tensor, " n"]  # whether 3D centre, size and depth are supervised
    weight: Float[Tensor, " n"]  # 1 for a label, the teacher's score for its detection
