"""Two silent faults, refused: networks that share weights, and a teacher that writes into the student's input."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from monoskd.errors import InputError

_APART = "give the teacher its own with copy.deepcopy"


def check_apart(student: nn.Module, teacher: nn.Module, *, role: str) -> None:
    """Raise InputError where student and teacher share a module or the memory of a parameter or buffer."""
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


@contextmanager
def unwritten(inputs: Any, *, role: str) -> Iterator[None]:
    """Raise InputError when a tensor in `inputs` has been written to at the end of the block."""
    before = [(x, x._version) for x in tensors(inputs) if not x.is_inference()]
    yield
    if any(x._version != version for x, version in before):
        raise InputError(
            f"the {role} writes into its input, which the student sees too: expected it to stay as it is; give the "
            f"{role} a copy with teacher_inputs=(x.clone(),), or remove its in-place operation"
        )


def copied(inputs: Any) -> Any:
    """`inputs` with copies of the tensors on which torch counts no writes: those made in inference mode."""
    if not any(x.is_inference() for x in tensors(inputs)):
        return inputs
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) and x.is_inference() else x, inputs)


def tensors(inputs: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    return [x for x in tree_leaves(inputs) if isinstance(x, Tensor)]
