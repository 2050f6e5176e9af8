"""The nouns of MonoDETR: its output, its targets and its quirks.

Letters in shapes: b images, n objects of the whole batch laid flat, c classes, g groups of q queries, v x u cells of
the depth map (stride 16). Positions and distances are fractions of the network's input.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, TypeAlias

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monoskd.structures import DetectorOutput, Targets

STRIDES = (8, 16, 32, 64)  # of the maps that queries look at
DEPTH_STRIDE = 16

Quirk: TypeAlias = Literal[
    "unmirrored_camera",
    "lens_blind_depth",
    "near_edge_bins",
    "far_background",
    "wrapped_boxes",
    "box_alpha",
    "unbounded_score",
    "negative_sizes",
    "small_start",
]


@dataclass(frozen=True)
class MonoDETROutput(DetectorOutput):
    """`heads`: what the last decoder layer says; `earlier`: the same of the layers before it, by number.

    groups: in training the queries are g groups, one after another, each of which finds all objects; 1 otherwise.
    """

    earlier: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    groups: int = 1

    def of(self, images: Bool[Tensor, " b"]) -> Self:
        """The output for the chosen images, which are numbered anew; without the features."""
        chosen = {layer: {name: head[images] for name, head in heads.items()} for layer, heads in self.earlier.items()}
        return replace(super().of(images), earlier=chosen)


@dataclass(frozen=True, kw_only=True)
class MonoDETRTargets(Targets):
    """What the n supervised objects of a batch should make the network say.

    On frames without labels the objects are a teacher's detections, each as heavy as its score.
    """

    BY_IMAGE: ClassVar[tuple[str, ...]] = ("labelled", "magnification", "depth_bin", "foreground")

    magnification: Float[Tensor, " b"]  # k: depth [m] = k times what the network says; see docs/detectors.md
    depth_bin: Int64[Tensor, "b v u"]  # of the nearest object whose 2D box covers the cell; the last one: none
    foreground: Bool[Tensor, "b v u"]  # cells inside a 2D box
    label: Int64[Tensor, " n"]
    box: Float[Tensor, "n 6"]  # projected 3D centre (x, y), then its distances to the 2D box: left, right, top, bottom
    dimensions: Float[Tensor, "n 3"]  # (h, w, l) [m]
    heading_bin: Int64[Tensor, " n"]
    heading_residual: Float[Tensor, " n"]  # [rad]
    depth: Float[Tensor, " n"]  # z [m]
    weight: Float[Tensor, " n"]  # 1 for a label, the teacher's score for its detection
