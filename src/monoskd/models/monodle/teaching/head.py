"""The predictions themselves as knowledge: what the teacher's heads say where objects are."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div

from monoskd.geometry.heading import BINS
from monoskd.models.monodle.losses import at_objects, mean
from monoskd.models.monodle.structures import MonoDLETargets
from monoskd.structures import DetectorOutput


class HeadLoss(nn.Module):
    """Student and teacher should say the same at the cells of the n objects. There is no heat-map part.

    Each part is a mean over objects and components, with s the student's and t the teacher's numbers:

        head_offset_2d, head_size_2d, head_offset_3d   |s - t| [cells]
        head_size_3d                                   |s - t| [m]
        head_depth                                     |s - t| / true depth
        head_heading                                   sum t ln(t / s) over 12 bin probabilities
                                                       + |s - t| of the true bin's residual [rad]
    """

    def forward(
        self, *, student: DetectorOutput, teacher: DetectorOutput, targets: MonoDLETargets
    ) -> Float[Tensor, ""]:
        """The sum of the parts."""
        return torch.stack(list(self.parts(student=student, teacher=teacher, targets=targets).values())).sum()

    def parts(self, *, student: DetectorOutput, teacher: DetectorOutput, targets: MonoDLETargets) -> dict[str, Tensor]:
        """The scalars of the table above by name; zero where there is nothing to compare."""
        s, t = (at_objects(output.heads, targets) for output in (student, teacher))
        t = {name: value.detach() for name, value in t.items()}
        parts = {
            f"head_{name}": mean((s[name] - t[name]).abs()) for name in ("offset_2d", "size_2d", "offset_3d", "size_3d")
        }
        log_s, log_t = s["heading"][:, :BINS].log_softmax(1), t["heading"][:, :BINS].log_softmax(1)
        divergence = kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)
        residual = (s["heading"] - t["heading"])[:, BINS:].gather(1, targets.heading_bin[:, None])
        parts["head_depth"] = mean((s["depth"] - t["depth"]).abs() / targets.depth[:, None])
        parts["head_heading"] = mean(divergence) + mean(residual.abs())
        return parts
