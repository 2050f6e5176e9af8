"""The type checker of `make test-shapes`: beartype, on the annotations that state a shape. mypy checks the others.

Tests give wrong words and numbers to functions on purpose, to read the error. beartype on every annotation would raise
before the function does.
"""

import typing
from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import AbstractArray


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype on `function`, which jaxtyping generates for the signature of one of ours, so it may be changed."""
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if states_a_shape(hint)}
    return beartype(function)


def states_a_shape(hint: Any) -> bool:
    """Whether `hint` is a jaxtyping array, or holds one: `Float[Tensor, "n 3"] | None`, `list[...]`."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(states_a_shape(argument) for argument in typing.get_args(hint))
