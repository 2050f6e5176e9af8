"""Distillation of the predictions: the teacher's heads at the objects."""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.errors import InputError
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.models.did_m3d.teaching.masks import centre_squares
from monoskd.models.heads import heading_distances, mean

DepthUnit: TypeAlias = Literal["relative", "metres"]


class HeadLoss(nn.Module):
    """L1 between student and teacher, head by head, where objects are. There is no heat-map part.

    With m the cells of `centre_squares`, each part is a mean over all of its elements in the batch:

        head_offset2d, head_size2d   |s - t| over the cells in m [cells]
        head_offset3d                |s - t| over the n training regions [cells]
        head_size3d                  |s - t| over them [m]
        head_depth                   |s - t| of visual + attribute + instance depth over their 7 x 7 cells
        head_heading                 t ln(t / s) over 12 bin probabilities + |s - t| of the true bin's residual [rad]

    depth: "relative" (default) divides each depth error by the object's labelled depth. The error of a camera's depth
    grows with the distance, and the visual depth is exp(-raw) times a factor, so that |s - t| / z is to first order
    |raw_s - raw_t|: near and far objects have gradients of similar size, similar to those of the other heads. "metres"
    is the original's, where depth outweighs all other parts and the detection losses.

    published: the original's term: metres, and see `centre_squares`. Excludes `depth`.

    Both networks must have run at the same regions (`at=targets`). Means run over the objects of the batch,
    so the value of a batch is not the mean of its halves' values when these hold different numbers of objects.
    """

    def __init__(self, *, depth: DepthUnit | None = None, published: bool = False) -> None:
        super().__init__()
        if published and depth is not None:
            raise InputError(f"HeadLoss: published is in metres, got depth={depth!r} as well: drop one of the two")
        if depth not in (None, "relative", "metres"):
            raise InputError(f"HeadLoss: depth: expected 'relative' or 'metres', got {depth!r}")
        self.published = published
        self.depth: DepthUnit = depth or ("metres" if published else "relative")

    def forward(self, *, student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets) -> Float[Tensor, ""]:
        """The sum of the parts."""
        return torch.stack(list(self.parts(student=student, teacher=teacher, targets=targets).values())).sum()

    def parts(self, *, student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets) -> dict[str, Tensor]:
        """The scalars of the table above by name; zero where there is nothing to compare."""
        _check_regions(student, teacher, targets)
        s, t = student.heads, {name: value.detach() for name, value in teacher.heads.items()}
        squares = centre_squares(targets, published=self.published)
        unit = (
            targets.depth[:, None, None] if self.depth == "relative" else torch.ones_like(targets.depth[:, None, None])
        )
        return {
            "head_offset2d": mean((s["offset_2d"] - t["offset_2d"]).abs(), squares),
            "head_size2d": mean((s["size_2d"] - t["size_2d"]).abs(), squares),
            "head_offset3d": mean((s["offset_3d"] - t["offset_3d"]).abs()),
            "head_depth": torch.stack(
                [mean((s[name] - t[name]).abs() / unit) for name in ("visual_depth", "attribute_depth", "depth")]
            ).sum(),
            "head_size3d": mean((s["size_3d"] - t["size_3d"]).abs()),
            "head_heading": _heading(s["heading"], t["heading"], targets),
        }


def _heading(
    student: Float[Tensor, "n 24"], teacher: Float[Tensor, "n 24"], targets: DidM3DTargets
) -> Float[Tensor, ""]:
    """Mean over objects *and* bins of t ln(t / s), plus the L1 of the true bin's residual."""
    divergence, residual = heading_distances(student, teacher, bins=targets.heading_bin)
    return mean(divergence) + mean(residual)


def _check_regions(student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets) -> None:
    counts = {"student": len(student.heads["depth"]), "teacher": len(teacher.heads["depth"])}
    for role, count in counts.items():
        if count != len(targets.label):
            raise InputError(
                f"HeadLoss: {role}: expected one region for each of the {len(targets.label)} objects, got {count}: "
                "call the network with at=targets"
            )
