"""Two silent faults: networks that share weights are refused; a teacher that writes into its input writes to a copy."""

import copy
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
    owned = _by_memory(student)
    for memory, name in _by_memory(teacher).items():
        if memory in owned:
            raise InputError(f'student and {role} share "{owned[memory]}" (the {role}\'s "{name}"): {_APART}')


def _by_memory(network: nn.Module) -> dict[tuple[str, int], str]:
    """Names of parameters and buffers by what holds their values."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    return {_memory(x): name for name, x in tensors.items() if is_lazy(x) or x.numel()}


def _memory(x: Tensor) -> tuple[str, int]:
    x = getattr(x, "_local_tensor", x)  # of a DTensor, which FSDP makes
    if is_lazy(x) or x.is_meta:
        return "object", id(x)
    return str(x.device), x.data_ptr()


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
