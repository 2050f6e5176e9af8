"""Losses on what networks return instead of on features: logits and regressed values."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div

from monoskd.distill.maps import constant, wide
from monoskd.errors import InputError
from monoskd.parallel import average, normaliser


class LogitLoss(nn.Module):
    """T^2 KL(teacher || student) of the class probabilities softmax(logits / T) (Hinton et al., 2015).

    Logits are n x k x ...: classes on axis 1. The mean is over all other axes, weighted by the mask n x ... or
    n x 1 x ..., if there is one, such as the teacher's certainty. T^2 keeps the size of the gradient while
    `temperature` T flattens both. A class with teacher probability 0 (logit -inf) adds nothing. Compared in float32 at
    least.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"LogitLoss: temperature: expected more than 0, got {temperature}")
        self.temperature = temperature

    def forward(
        self, *, student: Float[Tensor, "n k ..."], teacher: Float[Tensor, "n k ..."], mask: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """The loss; no gradient to the teacher."""
        student, teacher, weights = _comparable("LogitLoss", student, teacher, mask)
        log_s = (student / self.temperature).log_softmax(1)
        p = (teacher / self.temperature).softmax(1)
        lowest = torch.finfo(log_s.dtype).min  # -inf would make NaN of a class of probability 0
        divergence = kl_div(torch.threshold(log_s, lowest, lowest), p, reduction="none")
        return _weighted_mean(divergence, weights, factor=self.temperature**2)


class BoxLoss(nn.Module):
    """The mean |student - teacher| of regressed values n x k x ..., or n: boxes, depths, offsets.

    The mask n x ... or n x 1 x ... weighs each of the n x ... outputs: 1 where an object is, or the quality of the
    teacher's output (its score, or its overlap with the label). scale: k divisors, one for each error, so that one mean
    can hold metres, radians and cells. Compared in float32 at least.
    """

    scale: Tensor | None

    def __init__(self, scale: list[float] | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", None if scale is None else torch.tensor(scale), persistent=False)

    def forward(
        self, *, student: Float[Tensor, "n ..."], teacher: Float[Tensor, "n ..."], mask: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """The loss; no gradient to the teacher."""
        if student.ndim == teacher.ndim == 1:
            student, teacher = student[:, None], teacher[:, None]
        student, teacher, weights = _comparable("BoxLoss", student, teacher, mask)
        error = (student - teacher).abs()
        if self.scale is not None:
            error = error / self.scale.view(-1, *[1] * (error.ndim - 2))
        return _weighted_mean(error, weights, factor=1 / max(error.shape[1], 1))


def _weighted_mean(
    values: Float[Tensor, "n k ..."], weights: Float[Tensor, "n ..."] | None, *, factor: float
) -> Float[Tensor, ""]:
    """The mean of the sums over axis 1, times `factor`; 0, with a gradient of 0, where there are no values."""
    if weights is None:
        return values.sum() * (factor / normaliser(values.numel() // (values.shape[1] or 1), like=values))
    total = average({"weights": weights.sum()})["weights"]
    return (values.sum(1) * weights).sum() * (factor / torch.where(total > 0, total, 1))


def _comparable(
    name: str, student: Tensor, teacher: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both in float32 at least, zeros where the mask n x ... is 0, even for NaN; the mask in their type."""
    if student.shape != teacher.shape or student.ndim < 2:
        raise InputError(
            f"{name}: expected student and teacher of one shape n x k x ..., got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    student, teacher = wide(student), wide(constant(teacher))
    if mask is None:
        return student, teacher, None
    places = (len(student), *student.shape[2:])
    weights = mask[:, 0] if mask.ndim == student.ndim and mask.shape[1] == 1 else mask
    if weights.shape == places[:-1] and places[-1] == 1:
        weights = weights[..., None]  # of tokens, which taps give as n x k x tokens x 1
    if weights.shape != places:
        raise InputError(
            f"{name}: mask: expected a weight for each of the answers, {places}, got {tuple(mask.shape)}: "
            "resize it, or keep it from this term with Term(..., masked=False)"
        )
    inside = weights[:, None] > 0
    return torch.where(inside, student, 0), torch.where(inside, teacher, 0), weights.to(student.dtype)
