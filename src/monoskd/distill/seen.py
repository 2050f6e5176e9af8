"""What a forward pass of the networks gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.distill.terms import Tapped
from monoskd.distill.weights import Weight
from monoskd.errors import InputError


@dataclass(slots=True)
class Seen:
    """What a forward pass of the networks gives.

    student, teacher: what they return, untouched; None for a teacher that no term asks for. Several teachers: a dict by
    name. maps: what each tap gave, by name. hints: the mask and the targets of this call.
    """

    student: Any
    teacher: Any
    maps: dict[str, Tapped] = field(repr=False)
    hints: dict[str, Any] = field(repr=False)


@dataclass(slots=True)
class Distilled(Seen):
    """What a distilling forward pass gives besides.

    terms: each term's scalar, unweighted. weights: their factors at this point of the training. total: the weighted
    sum, to be added to the task loss.
    """

    terms: dict[str, Tensor]
    weights: dict[str, Weight]
    total: Float[Tensor, ""]


def mean(values: Sequence[Any], *, where: str) -> Any:
    """One teacher's answer as it is, or the mean of several teachers' tensors of one shape."""
    if len(values) == 1:
        return values[0]
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in values]
    if len(set(shapes)) > 1 or not isinstance(values[0], Tensor):
        raise InputError(
            f"{where}: the mean of several teachers: expected tensors of one shape, got {', '.join(map(str, shapes))}: "
            'choose with key="...", or give each teacher a term of its own'
        )
    return torch.stack(list(values)).mean(0)


def modes_of(module: nn.Module) -> dict[nn.Module, bool]:
    """Whether each submodule is in training mode."""
    return {child: child.training for child in module.modules()}


def restore(modes: dict[nn.Module, bool]) -> None:
    """Set the modes that `modes_of` gave."""
    for module, training in modes.items():
        module.training = training
