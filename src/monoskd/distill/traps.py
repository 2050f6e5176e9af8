"""Two silent faults: networks that share weights are refused; a teacher that writes into its input writes to a copy."""

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from monoskd.errors import InputError

_APART = "give the teacher its own with copy.deepcopy"


def check_module(network: Any, *, role: str) -> None:
    """Raise InputError where what should be a network is none."""
    if not isinstance(network, nn.Module):
        raise InputError(f"{role}: expected an nn.Module, got {type(network).__name__}")


def check_apart(student: nn.Module, teacher: nn.Module, *, role: str) -> None:
    """Raise InputError where student and teacher share a module or the memory of a parameter or buffer."""
    check_module(student, role="student")
    if not set(student.modules()).isdisjoint(teacher.modules()):
        raise InputError(f"student and {role} share modules: {_APART}")
    owned: dict[tuple[str, int], list[tuple[range, str]]] = {}
    for memory, place, name in _placed(student):
        owned.setdefault(memory, []).append((place, name))
    for memory, place, name in _placed(teacher):
        for other, own in owned.get(memory, []):
            if place.start < other.stop and other.start < place.stop:
                raise InputError(f'student and {role} share "{own}" (the {role}\'s "{name}"): {_APART}')


def _placed(network: nn.Module) -> Iterator[tuple[tuple[str, int], range, str]]:
    """The memory that holds each parameter's or buffer's values, between which of its bytes, and the name."""
    for name, x in (*network.named_parameters(), *network.named_buffers()):
        x = getattr(x, "_local_tensor", x)  # of a DTensor, which FSDP makes
        if is_lazy(x) or x.is_meta:
            yield ("object", id(x)), range(1), name
        elif x.numel():
            reach = 1 + sum((count - 1) * step for count, step in zip(x.shape, x.stride(), strict=True))
            start = x.storage_offset() * x.element_size()
            yield (str(x.device), x.untyped_storage().data_ptr()), range(start, start + reach * x.element_size()), name


def copied(inputs: Any) -> Any:
    """`inputs` with tensors and arrays of its own: whatever a teacher does to them, the student sees its own unchanged.

    Looks into nested lists, tuples and dicts, and into objects that hold tensors. A copy, since torch counts no
    writes through `.data`, `.numpy()` and the like, so that they could not be found; it is cheap beside a pass.
    """
    return inputs.clone() if isinstance(inputs, Tensor) else tree_map(_own, inputs)


def _own(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, np.ndarray):
        return x.copy()
    if isinstance(x, nn.Module | type) or not (is_dataclass(x) or hasattr(x, "__dict__")):
        return x
    names = [field.name for field in fields(x)] if is_dataclass(x) else list(vars(x))
    held = {name: getattr(x, name) for name in names if _holds_values(getattr(x, name))}
    twin = copy.copy(x) if held else x
    for name, value in held.items():
        object.__setattr__(twin, name, copied(value))  # also of a frozen dataclass
    return twin


def _holds_values(tree: Any) -> bool:
    return any(isinstance(x, Tensor | np.ndarray) or is_dataclass(x) for x in tree_leaves(tree))


def tensors(inputs: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    return [x for x in tree_leaves(inputs) if isinstance(x, Tensor)]
