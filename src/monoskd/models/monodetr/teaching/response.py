"""The teacher's detections on frames without labels, as soft targets (pseudo-labels) for the student."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.models.monodetr.losses import task_losses
from monoskd.models.monodetr.structures import MonoDETROutput, MonoDETRTargets


class ResponseLoss(nn.Module):
    """The task losses on the frames without labels, against what a teacher of any kind detected there.

        classes       the matched queries' probabilities should be as high as the scores, not 1
        depth_map     the task loss of that name; a detection is painted whatever its score
        all others    the task loss of that name, each object times its score

    Normalised by the number of detections, or of frames where these are more. Labelled frames of the batch do not
    count; without any other the loss is 0.
    """

    def forward(self, *, student: MonoDETROutput, targets: MonoDETRTargets) -> Float[Tensor, ""]:
        """The sum of the parts."""
        return torch.stack(list(self.parts(student=student, targets=targets).values())).sum()

    def parts(self, *, student: MonoDETROutput, targets: MonoDETRTargets) -> dict[str, Tensor]:
        """The losses by name, as scalars with the tasks' weights."""
        soft = targets.of(~targets.labelled)
        return task_losses(student.of(~targets.labelled), soft, least_count=len(soft.labelled))
