"""Distillation of the predictions: what the teacher's query says of the same object."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from monoskd.errors import InputError
from monoskd.models.heads import heading_distances
from monoskd.models.monodetr.losses import WEIGHTS
from monoskd.models.monodetr.matching import match
from monoskd.models.monodetr.structures import MonoDETROutput, MonoDETRTargets
from monoskd.parallel import normaliser
from monoskd.structures import DetectorOutput


class HeadLoss(nn.Module):
    """Student and teacher should say the same of an object, each by the query that is matched to it.

    In training the student has a query in each group, and all of them learn from the teacher's one. With s the
    student's and t the teacher's numbers after the last decoder layer, and the tasks' weights:

        head_classes    2   sum over classes of the cross-entropy of s and t, less its least value
        head_centre    10   sum |s - t| [shares of the input]
        head_edges      5   sum |s - t|
        head_size_3d    1   sum |s - t| [m]
        head_depth      1   |s - t| / true depth
        head_heading    1   sum t ln(t / s) over 12 bin probabilities + |s - t| of the true bin's residual [rad]

    Each is a mean over pairs; 0, with a gradient of 0, without objects.
    """

    def forward(
        self, *, student: MonoDETROutput, teacher: MonoDETROutput, targets: MonoDETRTargets
    ) -> Float[Tensor, ""]:
        """The sum of the parts."""
        return torch.stack(list(self.parts(student=student, teacher=teacher, targets=targets).values())).sum()

    def parts(self, *, student: MonoDETROutput, teacher: DetectorOutput, targets: MonoDETRTargets) -> dict[str, Tensor]:
        """The scalars of the table above by name, with their weights."""
        if not isinstance(teacher, MonoDETROutput):
            raise InputError(
                f"HeadLoss: expected a MonoDETR teacher, whose queries say what the student's do, got "
                f"{type(teacher).__name__}: compare features, or use ResponseLoss"
            )
        query, row, answer = paired(student, teacher, targets)
        image = targets.image[row]
        s = {name: student.heads[name][image, query] for name in _COMPARED}
        t = {name: teacher.heads[name][image, answer].detach() for name in _COMPARED}
        apart = {name: (s[name] - t[name]).abs() for name in ("boxes", "size_3d", "depth")}
        p = t["logits"].sigmoid()
        surprise = binary_cross_entropy_with_logits(s["logits"], p, reduction="none")
        least = binary_cross_entropy_with_logits(t["logits"], p, reduction="none")
        divergence, residual = heading_distances(s["heading"], t["heading"], bins=targets.heading_bin[row])
        parts = {
            "classes": (surprise - least).sum(1),
            "centre": apart["boxes"][:, :2].sum(1),
            "edges": apart["boxes"][:, 2:].sum(1),
            "size_3d": apart["size_3d"].sum(1),
            "depth": apart["depth"][:, 0] / targets.depth[row],
            "heading": divergence.sum(1) + residual,
        }
        count = normaliser(len(row), like=targets.depth)
        return {f"head_{name}": WEIGHTS[name] * part.sum() / count for name, part in parts.items()}


_COMPARED = ("logits", "boxes", "size_3d", "depth", "heading")


def paired(student: MonoDETROutput, teacher: MonoDETROutput, targets: MonoDETRTargets) -> tuple[Tensor, Tensor, Tensor]:
    """The student's query, the object and the teacher's query of each pair; objects that both have a query for."""
    query, row = match(student.heads, targets, groups=student.groups)
    theirs, their_row = match(teacher.heads, targets, groups=teacher.groups)
    answer = torch.full_like(targets.image, -1)
    answer[their_row] = theirs
    both = answer[row] >= 0
    return query[both], row[both], answer[row[both]]
