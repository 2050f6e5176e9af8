"""What the student should share with its teacher: the order of features, their geometry, or their values.

Every loss here is called with keyword-only `student=` and `teacher=`: maps b x c x h x w of equal shapes, or lists of
such maps, one for each level, over which it sums. No gradient reaches the teacher. docs/losses.md has the formulas on
one page.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from monoskd.distill.maps import MapLoss, Maps, as_levels
from monoskd.distill.ranks import Group, Regularization, correlation, degeneracy, spearman
from monoskd.errors import InputError


class PearsonLoss(MapLoss):
    """1 - Pearson's correlation of the values. A mask weighs them.

    per_channel=False: over the c h w values of each image, mean over images: independent of how a batch is split.
    per_channel=True: over the b h w values of each channel, mean over channels. With both maps brought to mean 0 and
    variance 1 there, this is half their mean squared difference: PKD (Cao et al., "PKD: General Distillation Framework
    for Object Detectors via Pearson Correlation Coefficient", NeurIPS 2022). Each channel counts the same, whatever
    its scale, but the statistics are the batch's, so the value depends on how the batch is split.
    """

    def __init__(
        self, *, per_channel: bool = False, center: Literal["running"] | None = None, momentum: float | None = None
    ) -> None:
        super().__init__(center=center, momentum=momentum)
        self.per_channel = per_channel

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of one level."""
        if self.per_channel:
            student, teacher = student.transpose(0, 1), teacher.transpose(0, 1)
            mask = None if mask is None else mask.transpose(0, 1)
        return _decorrelation(student, teacher, "sample", mask)


class SpearmanLoss(MapLoss):
    """1 - correlation of ranks: MonoSKD's loss (Wang & Zheng, ECAI 2023), as it was meant and as it was published.

    mode="spearman" (default): values are ranked within each group on both sides, ties averaged, and the loss is exactly
        1 - Spearman's coefficient: 0 if the ranks agree, 2 if they are reversed, the same for any increasing function
        of either map. Ranks have no gradient, so the student's get that of its soft ranks (straight-through):
        dL/dx = J(x)^T dL/dr, J the Jacobian of `soft_rank(x, strength, regularization)` and dL/dr the derivative at the
        hard ranks r. So the strength decides which values get a gradient, never the loss, and where the ranks agree
        the gradient is 0.
    mode="pearson": the values themselves instead of ranks.
    mode="published": what the released code computes, which ranks nothing: 1 - Pearson's correlation of student and
        teacher over the whole batch, each image's teacher map less its own mean (docs/method.md has the proof). Takes
        no group, centre or mask. In float32 the original differs from it by the rounding of its ranks, some 1e-4.

    group (default "sample"): what is ranked and correlated together: the c h w values of an image, the h w values of a
        channel of an image, or all of the batch. Groups are averaged, so that only "batch" (and "published") depends on
        how a batch is split.
    strength (default "auto"), regularization (default "l2"): of `soft_rank`; for mode="spearman" alone.
    mask: for "spearman", where it is > 0 values are ranked, among themselves; for "pearson" it weighs the values.
    """

    def __init__(
        self,
        mode: Literal["spearman", "pearson", "published"] = "spearman",
        *,
        group: Group | None = None,
        center: Literal["running"] | None = None,
        momentum: float | None = None,
        strength: float | Literal["auto"] | None = None,
        regularization: Regularization | None = None,
    ) -> None:
        super().__init__(center=center, momentum=momentum)
        _check_choice("SpearmanLoss", "mode", mode, ("spearman", "pearson", "published"))
        _check_choice("SpearmanLoss", "group", group, (None, "sample", "channel", "batch"))
        if mode != "spearman":
            _refuse(f"SpearmanLoss(mode={mode!r})", strength=strength, regularization=regularization)
        if mode == "published":
            _refuse("SpearmanLoss(mode='published')", group=group, center=center)
        self.mode = mode
        self.group: Group = "batch" if mode == "published" else group or "sample"
        self.strength: float | Literal["auto"] = "auto" if strength is None else strength
        self.regularization: Regularization = regularization or "l2"

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of one level."""
        if self.mode == "published":
            _refuse("SpearmanLoss(mode='published')", mask=mask)
            teacher = teacher - teacher.mean((1, 2, 3), keepdim=True)
        elif self.mode == "spearman":
            if mask is not None:
                return self._compare_inside(student, teacher, mask[:, 0] > 0)
            student, teacher = _rows(student, self.group), _rows(teacher, self.group)
            return (1 - spearman(student, teacher, self.strength, self.regularization)).mean()
        return _decorrelation(student, teacher, self.group, mask)

    def degeneracy(self, *, student: Maps) -> Float[Tensor, ""]:
        """The share of a group's values in the largest pooled block of its soft ranks, averaged over groups and levels.

        1: the gradient is Pearson's; 1 / n: no value gets a gradient. Modes without ranks give 1.
        """
        levels = [level.detach() for level in as_levels(student)]
        if self.mode != "spearman":
            return torch.ones_like(levels[0].sum())
        if self.student_mean is not None:
            levels = self.student_mean.deviations(levels)
        rows = [_rows(level, self.group) for level in levels]
        return torch.stack([degeneracy(values, self.strength, self.regularization).mean() for values in rows]).mean()

    def _compare_inside(self, student: Tensor, teacher: Tensor, inside: Tensor) -> Tensor:
        """The loss of the values inside a mask b x h x w."""
        pairs = zip(_cut_out(student, inside, self.group), _cut_out(teacher, inside, self.group), strict=True)
        losses = [self.compare(*pair, None) if pair[0].numel() else pair[0].sum() for pair in pairs]
        return torch.stack(losses).mean()


class AffinityLoss(MapLoss):
    """The mean difference between the relations of places within an image. F: c x hw, the features of an image.

    mode="scale_free" (default): mean |cos(Fs)^T cos(Fs) - cos(Ft)^T cos(Ft)| over hw x hw and images, cos(F) being F
        with columns of length 1: the cosine between any two places. Neither the features' scale nor the number of
        images changes it. A mask weighs the pairs of places by the product of their weights.
    mode="published": mean |Fs^T Fs - Ft^T Ft| over hw x hw and images, divided by the number of images once more, so
        that it grows with the square of the features and halves when the batch doubles. No mask.

    Needs memory for (hw)^2 values per image: give it small maps. Student and teacher may have different channels.
    """

    same_channels = False

    def __init__(self, mode: Literal["scale_free", "published"] = "scale_free") -> None:
        super().__init__()
        _check_choice("AffinityLoss", "mode", mode, ("scale_free", "published"))
        self.mode = mode

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of one level."""
        if self.mode == "published":
            _refuse("AffinityLoss(mode='published')", mask=mask)
            return (_gram(student.flatten(2)) - _gram(teacher.flatten(2))).abs().mean() / len(student)
        student, teacher = _masked(student, mask), _masked(teacher, mask)
        difference = (_gram(_unit_columns(student.flatten(2))) - _gram(_unit_columns(teacher.flatten(2)))).abs()
        if mask is None:
            return difference.mean()
        weights = _gram(mask.flatten(2))
        return _weighted_mean_by_image(difference, weights)


class ImitationLoss(MapLoss):
    """Half the squared difference of the values, where the mask is (everywhere without one).

    mode="corrected" (default): per image the mean over the channels and places inside, weighted by the mask; then the
        mean over images: independent of how a batch is split.
    mode="published": MonoDistill's. The mean runs over the places inside of the whole batch, is divided by the number
        of images once more, and leaves out places where the teacher is 0 in every channel. Needs a mask.
    """

    def __init__(self, mode: Literal["corrected", "published"] = "corrected") -> None:
        super().__init__()
        _check_choice("ImitationLoss", "mode", mode, ("corrected", "published"))
        self.mode = mode

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of one level."""
        student, teacher = _masked(student, mask), _masked(teacher, mask)
        squares = (student - teacher).square().mean(1, keepdim=True) / 2
        if self.mode == "published":
            if mask is None:
                raise InputError("ImitationLoss(mode='published'): mask: expected the boxes' foreground, got none")
            inside = (mask > 0) & (teacher != 0).any(1, keepdim=True)
            return (squares * inside).sum() / inside.sum().clamp(min=1) / len(student)
        return squares.mean() if mask is None else _weighted_mean_by_image(squares, mask)


def _decorrelation(student: Tensor, teacher: Tensor, group: Group, mask: Tensor | None) -> Tensor:
    """1 - correlation, averaged over groups; a group that the mask leaves empty adds nothing."""
    losses = 1 - correlation(student, teacher, group, weight=mask)
    if mask is not None:
        not_empty = mask.any() if group == "batch" else mask.flatten(1).any(1)
        losses = losses * not_empty.view(-1, *[1] * (losses.ndim - 1))
    return losses.mean()


def _rows(maps: Float[Tensor, "b c h w"], group: Group) -> Float[Tensor, "... n"]:
    """The values of each group on the last axis."""
    return maps.flatten({"batch": 0, "sample": 1, "channel": 2}[group])


def _cut_out(maps: Tensor, inside: Tensor, group: Group) -> list[Float[Tensor, "1 c 1 n"]]:
    """The values inside a mask b x h x w: of each image, or of the whole batch."""
    if group == "batch":
        return [maps.transpose(0, 1)[:, inside][None, :, None]]
    return [image[:, where][None, :, None] for image, where in zip(maps, inside, strict=True)]


def _masked(maps: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"] | None) -> Float[Tensor, "b c h w"]:
    """The maps with zeros where the mask is 0, even in place of NaN."""
    return maps if mask is None else torch.where(mask > 0, maps, 0)


def _gram(features: Float[Tensor, "b c n"]) -> Float[Tensor, "b n n"]:
    return features.transpose(1, 2) @ features


class _UnitColumns(torch.autograd.Function):
    """u = x / |x| of columns x; du^T g = (g - u (u g)) / |x|. In few operations, since on a GPU each one costs."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Unit columns; their squares stay in range."""
        largest = features.abs().amax(dim=1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1)
        units = features / largest
        length = torch.linalg.vector_norm(units, dim=1, keepdim=True)
        length = torch.where(length > 0, length, 1)
        units /= length
        ctx.save_for_backward(units, length, largest)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Two divisions, as the length of a column may be out of range."""
        units, length, largest = ctx.saved_tensors
        along = torch.linalg.vecdot(units, grad, dim=1)[:, None]
        return torch.addcmul(grad, units, along, value=-1).div_(length).div_(largest)


def _unit_columns(features: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
    """Columns of length 1; a column of zeros stays, with a finite gradient."""
    units: Tensor = _UnitColumns.apply(features)
    return units


def _weighted_mean_by_image(values: Float[Tensor, "b ..."], weights: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """The mean over images of each image's weighted mean, which is 0 where all weights are."""
    total = weights.flatten(1).sum(1)
    return ((values * weights).flatten(1).sum(1) / torch.where(total > 0, total, 1)).mean()


def _check_choice(where: str, name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise InputError(f"{where}: {name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def _refuse(where: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{where}: {name}: expected none, since it has no effect here, got one: drop it")
