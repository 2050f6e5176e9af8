"""The nouns of MonoDLE: its targets and its quirks. n in shapes: objects of the whole batch laid flat."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from jaxtyping import Bool
from torch import Tensor

from monoskd.models.dense import CellTargets

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


@dataclass(frozen=True, kw_only=True)
class MonoDLETargets(CellTargets):
    """The targets of the n objects of a batch; `cell` is that of the projected 3D centre."""

    has_3d: Bool[Tensor, " n"]  # whether 3D centre, size and depth are supervised
