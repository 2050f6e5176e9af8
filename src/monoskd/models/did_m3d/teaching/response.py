"""The teacher's detections on frames without labels, as soft targets (pseudo-labels) for the student."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.models.did_m3d.losses import object_losses
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.models.heatmap import quality_focal_loss


class ResponseLoss(nn.Module):
    """The task losses on the frames without labels, against the teacher's detections there.

    The teacher's input is the frame without augmentation; `targets` holds its detections after the student's
    augmentation. Each counts by the teacher's score:

        heatmap       `quality_focal_loss`: peaks as high as the scores, not 1
        all others    the task loss of that name at the teacher's peaks, each object times its score; the visual depth
                      is the depth map's inside the detected box, as it is for labelled objects

    Normalised by the number of detections, or of frames where these are more, so that frames without
    detections do not dominate the loss. Labelled frames of the batch do not count; without any other the loss
    is 0.
    """

    def forward(self, *, student: DidM3DOutput, targets: DidM3DTargets) -> Float[Tensor, ""]:
        """The sum of the parts."""
        return torch.stack(list(self.parts(student=student, targets=targets).values())).sum()

    def parts(self, *, student: DidM3DOutput, targets: DidM3DTargets) -> dict[str, Tensor]:
        """The losses by name, as scalars."""
        heads, soft = student.of(~targets.labelled).heads, targets.of(~targets.labelled)
        counts = {"objects": len(soft.label), "least": len(soft.heatmap)}
        heatmap = quality_focal_loss(heads["heatmap"], soft.heatmap, **counts)
        return {"heatmap": heatmap, **object_losses(heads, soft)}
