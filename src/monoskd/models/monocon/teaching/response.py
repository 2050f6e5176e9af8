"""The teacher's answers on frames without labels, as soft targets for the student."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.models.heatmap import quality_focal_loss
from monoskd.models.monocon.losses import object_losses
from monoskd.models.monocon.structures import KEYPOINTS, MonoConTargets
from monoskd.structures import DetectorOutput


class ResponseLoss(nn.Module):
    """The task losses on the frames without labels, against what a teacher of any kind detected there.

        heatmap, keypoint_heatmap   `quality_focal_loss`: peaks as high as the scores, not 1
        all others                  the task loss of that name at the teacher's detections, each object times its score

    Normalised by the number of detections (or keypoints), or of frames where these are more. Labelled frames of the
    batch do not count; without any other the loss is 0.
    """

    def forward(self, *, student: DetectorOutput, targets: MonoConTargets) -> Float[Tensor, ""]:
        """The sum of the parts."""
        return torch.stack(list(self.parts(student=student, targets=targets).values())).sum()

    def parts(self, *, student: DetectorOutput, targets: MonoConTargets) -> dict[str, Tensor]:
        """The losses by name, as scalars."""
        heads, soft = student.of(~targets.labelled).heads, targets.of(~targets.labelled)
        count, least = len(soft.label), len(soft.heatmap)
        return {
            "heatmap": quality_focal_loss(heads["heatmap"], soft.heatmap, objects=count, least=least),
            "keypoint_heatmap": quality_focal_loss(
                heads["keypoint_heatmap"], soft.keypoint_heatmap, objects=KEYPOINTS * count, least=least
            ),
            **object_losses(heads, soft),
        }
