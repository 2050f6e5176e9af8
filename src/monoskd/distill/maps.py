"""What all losses on feature maps have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from monoskd.distill.center import RunningMean
from monoskd.errors import InputError
from monoskd.precision import no_autocast

Maps: TypeAlias = Tensor | Sequence[Tensor]

MOMENTUM = 0.99  # of running mean maps, by default


class MapLoss(nn.Module, ABC):
    """The sum over levels of the loss of two maps, with a gradient to the student alone.

    center: None, or "running": both networks' maps are replaced by their deviation from a running mean map, one for
    each network and level (see `RunningMean`). This removes what all images have in common - horizon, road,
    borders - and leaves what is specific to *this* image. momentum: of those means, per training step (0.99).

    mask: which places count, b x h x w or b x 1 x h x w, or a list with one for each level; brought to a level's size
    by maximum, so that no object is lost on a coarse map. For tokens b x n, such as an attention mask: 0 where a token
    is padding. An image whose mask is empty adds nothing, but counts in the mean over images. Values where the mask is
    0 do not matter. Half-precision maps are compared in float32. A level without values, such as that of an empty
    batch, costs 0, with a gradient of 0.

    same_channels: whether student and teacher maps need equal channels; False for losses that compare places.
    """

    same_channels = True

    def __init__(self, *, center: Literal["running"] | None = None, momentum: float | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        if center not in (None, "running"):
            raise InputError(f"{name}: center: expected None or 'running', got {center!r}")
        if center is None and momentum is not None:
            raise InputError(f"{name}: momentum: expected only with center='running', got {momentum}: drop it")
        self.student_mean, self.teacher_mean = None, None
        if center == "running":
            momentum = MOMENTUM if momentum is None else momentum
            self.student_mean, self.teacher_mean = RunningMean(momentum), RunningMean(momentum)

    def forward(self, *, student: Maps, teacher: Maps, mask: Maps | None = None) -> Float[Tensor, ""]:
        """The loss, summed over levels."""
        students, teachers = as_levels(student), [constant(level) for level in as_levels(teacher)]
        _check_shapes(type(self).__name__, students, teachers, same_channels=self.same_channels)
        if self.student_mean is not None and self.teacher_mean is not None:
            students, teachers = self.student_mean(students), self.teacher_mean(teachers)
        return self._sum(students, teachers, mask)

    def floor(self, *, teacher: Maps, mask: Maps | None = None) -> Float[Tensor, ""]:
        """The loss of a student that outputs the teacher's mean map, whatever the image; no gradient.

        Its map of an image is the mean of the teacher's maps of the *other* images of the batch. A student has learned
        something about images only as far as its loss lies below this one. At least two images; with a running centre
        both sides deviate from the teacher's mean, and no mean is updated.
        """
        teachers = [constant(level) for level in as_levels(teacher)]
        priors = [static_prior(level) for level in teachers]
        if self.teacher_mean is not None:
            teachers, priors = self.teacher_mean.deviations(teachers), self.teacher_mean.deviations(priors)
        return self._sum(priors, teachers, mask)

    def _sum(self, students: list[Tensor], teachers: list[Tensor], mask: Maps | None) -> Tensor:
        masks = _masks(type(self).__name__, mask, students)
        with no_autocast(students[0].device.type):
            levels = [
                self.compare(student, teacher, weight) if student.numel() else student.sum()
                for student, teacher, weight in zip(students, teachers, masks, strict=True)
            ]
            return sum(levels[1:], levels[0])

    @abstractmethod
    def compare(
        self,
        student: Float[Tensor, "b c h w"],
        teacher: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b 1 h w"] | None,
    ) -> Float[Tensor, ""]:
        """The loss of one level."""


def as_levels(maps: Maps) -> list[Tensor]:
    """One level or several as a list, in float32 at least."""
    return [wide(level) for level in ([maps] if isinstance(maps, Tensor) else maps)]


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x if x.dtype == torch.float32 else x.to(torch.promote_types(x.dtype, torch.float32))


def constant(x: Tensor) -> Tensor:
    """Without gradient."""
    return x.detach() if x.requires_grad else x


def _masks(name: str, mask: Maps | None, levels: Sequence[Tensor]) -> list[Tensor | None]:
    """The mask of each level, b x 1 x h x w in the level's type."""
    if mask is None:
        return [None] * len(levels)
    given = [mask] * len(levels) if isinstance(mask, Tensor) else mask
    if len(given) != len(levels):
        raise InputError(f"{name}: mask: expected one, or one for each of the {len(levels)} levels, got {len(given)}")
    return [_sized(name, m, level) if level.numel() else None for m, level in zip(given, levels, strict=True)]


def _sized(name: str, mask: Tensor, level: Tensor) -> Tensor:
    """A mask b x h x w or b x 1 x h x w at the level's size."""
    batch, size = len(level), level.shape[2:]
    if mask.ndim == 2 and mask.shape == (batch, size[0]) and size[1] == 1:
        mask = mask[:, :, None]  # of tokens
    if mask.shape[:-2] not in ((batch,), (batch, 1)):
        raise InputError(
            f"{name}: mask: expected b x h x w or b x 1 x h x w with b = {batch}, got {tuple(mask.shape)}: give one "
            "map of weights for each image, or for tokens b x n with their number n"
        )
    mask = mask.reshape(batch, 1, *mask.shape[-2:]).to(level)
    return mask if mask.shape[2:] == size else adaptive_max_pool2d(mask, size)


def static_prior(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """For each image of the batch, the mean map of the other images."""
    if len(maps) < 2:
        raise InputError(f"static prior: expected a batch of at least 2 images, got {len(maps)}")
    return (maps.sum(0) - maps) / (len(maps) - 1)


def _check_shapes(name: str, students: Sequence[Tensor], teachers: Sequence[Tensor], *, same_channels: bool) -> None:
    if len(students) != len(teachers) or not students:
        raise InputError(f"{name}: expected as many student as teacher maps, got {len(students)} and {len(teachers)}")
    for level, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        same = student.shape == teacher.shape
        if not same and not same_channels:
            same = student.shape[:1] + student.shape[2:] == teacher.shape[:1] + teacher.shape[2:]
        if not same or student.ndim != 4:
            raise InputError(
                f"{name}: level {level}: expected student and teacher maps of one shape b x c x h x w, got "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}: adapt channels and resize first"
            )
