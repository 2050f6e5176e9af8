"""A distillation loss on the depth features of single objects."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.distill.center import RunningMean
from monoskd.distill.maps import MOMENTUM
from monoskd.errors import InputError
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.parallel import normaliser


class ObjectLoss(nn.Module):
    """How far an object's features lie from the teacher's, object by object and channel by channel.

    student, teacher: n x c x h x w, the patch of each of the n objects of `targets` inside a regional head, such as the
    tap `regional.visual_depth.1`, from which the last layer reads the depth. With x the teacher's values, averaged over
    the n objects and the h x w points of their patches:

        L = 1 / n  sum_i q_i  1 / c  sum_c a_c  mean_hw (s_ic - t_ic)^2 / (2 var x_c)

    q_i, the teacher's quality on object i: exp(-|z_t - z| / (tolerance z)) where the object is labelled, with z_t the
    median of the teacher's depths on its patch; its score where the object is the teacher's own detection. So the
    student learns little where the teacher is wrong. quality=False: 1.

    a_c, the importance of channel c: |correlation of the patch's mean x_c with log z_t| over objects, divided by its
    mean over channels, so that channels that carry the depth count more than the others. importance=False: 1.

    Variances and correlations are running ones of the teacher (see `RunningMean`). The idea of both weights is
    from LeAD-M3D (2026); their formulas are ours.
    """

    def __init__(
        self,
        *,
        quality: bool = True,
        importance: bool = True,
        tolerance: float = 0.05,
        momentum: float = MOMENTUM,
    ) -> None:
        super().__init__()
        if not tolerance > 0:
            raise InputError(f"ObjectLoss: tolerance: expected more than 0, a share of the depth, got {tolerance}")
        self.quality = quality
        self.importance = importance
        self.tolerance = tolerance
        self.moments = RunningMean(momentum)

    def forward(
        self,
        *,
        student: Float[Tensor, "n c h w"],
        teacher: Float[Tensor, "n c h w"],
        targets: DidM3DTargets,
        teacher_output: DidM3DOutput,
    ) -> Float[Tensor, ""]:
        """The loss; 0, with a gradient of 0, without objects."""
        if student.shape != teacher.shape or len(student) != len(targets.label):
            raise InputError(
                f"ObjectLoss: expected two maps of {len(targets.label)} objects, n x c x h x w, got "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}: tap a regional head, and give the term this tap"
            )
        student, teacher = student.float(), teacher.detach().float()
        depth_m = teacher_output.heads["depth"].detach().flatten(1).median(1).values
        moments = self._moments(teacher, log_depth=depth_m.clamp(min=1).log())
        weight = (self._importance(moments) if self.importance else 1.0) / (2 * _spread(moments))
        errors = ((student - teacher).square().mean((2, 3)) * weight).mean(1)
        weighted = errors * (self._quality(depth_m, targets) if self.quality else 1.0)
        return weighted.sum() / normaliser(len(weighted), like=weighted)

    def _moments(self, teacher: Tensor, *, log_depth: Float[Tensor, " n"]) -> Float[Tensor, "6 c"]:
        """Running means over objects of x, x^2, mean_hw x^2, y, y^2 and x y; x the patch's mean, y the log depth."""
        x = teacher.mean((2, 3))
        y = log_depth[:, None].expand_as(x)
        now = torch.stack([x, x * x, teacher.square().mean((2, 3)), y, y * y, x * y], 1)
        if self.training:
            self.moments.learn([now])
        return self.moments.mean(0, now)

    def _quality(self, depth_m: Float[Tensor, " n"], targets: DidM3DTargets) -> Float[Tensor, " n"]:
        error = (depth_m - targets.depth).abs() / (self.tolerance * targets.depth)
        return torch.where(targets.labelled[targets.image], torch.exp(-error), targets.weight)

    @staticmethod
    def _importance(moments: Float[Tensor, "6 c"]) -> Float[Tensor, " c"]:
        """|Correlation| of each channel with the log depth over its mean; 1 each where none has any."""
        x, xx, _, y, yy, xy = moments
        spread = ((xx - x * x).clamp(min=0) * (yy - y * y).clamp(min=0)).sqrt()
        correlation = torch.where(spread > 0, (xy - x * y).abs() / spread, 0)
        mean = correlation.mean()
        return torch.where(mean > 0, correlation / mean, torch.ones_like(correlation))


def _spread(moments: Float[Tensor, "6 c"]) -> Float[Tensor, " c"]:
    """Variance of each channel over objects and points; 1 for a channel that is constant."""
    variance = moments[2] - moments[0] ** 2
    return torch.where(variance > 1e-6 * moments[2].clamp(min=1e-12), variance, 1)
