"""Building the detector of a model file within the bounds that its tensors set."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from monoskd.errors import InputError
from monoskd.structures import Detector

LARGEST_SIDE_PX = 4096  # of a network's input

# What a constructor may make beyond the tensors of the file, such as a classifier that it then drops.
_SPARE_PARTS = 1000
_SPARE_NUMBERS = 2**28
_FETCHED = ("pretrained", "checkpoint_path")


def check_settings(settings: Any) -> None:
    """Raise InputError where settings would make a constructor fetch or read weights: the file holds them all."""
    if not isinstance(settings, Mapping):
        return
    for name, value in settings.items():
        if name in _FETCHED and value:
            raise InputError(f"{name} is {value!r} although the file holds all weights")
        check_settings(value)


def built(make: Callable[[], Detector], shapes: Mapping[str, tuple[int, ...]]) -> Detector:
    """The detector, once a trial without memory has shown that it has exactly tensors of these shapes.

    A constructor that cannot be tried (it reads a value of a tensor) is built at once, within the same bounds.
    Raises InputError with the reason, and whatever the constructor raises.
    """
    with _bounded(shapes):
        try:
            with torch.device("meta"):
                trial = make()
        except InputError:
            raise
        except Exception:
            trial = None  # what is wrong with the settings is wrong without the trial, too
        if trial is not None:
            _check_input_size(trial)
            check_shapes(shapes, _shapes(trial))
        detector = make()
    _check_input_size(detector)
    check_shapes(shapes, _shapes(detector))
    return detector


def check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Every tensor there, none too many, all of the right shape; else InputError names the first that is not."""
    missing, extra = sorted(set(expected) - set(shapes)), sorted(set(shapes) - set(expected))
    if missing or extra:
        fault = " and ".join(
            f"{len(names)} {kind} (first {names[0]})"
            for kind, names in (("missing", missing), ("unknown", extra))
            if names
        )
        raise MisfitError(f"expected the {len(expected)} tensors of its detector, got tensors {fault}")
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise MisfitError(f"{name}: expected shape {expected[name]}, got {shape}")


class MisfitError(InputError):
    """The tensors of a file are not those of its detector."""


def _shapes(detector: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}


def _check_input_size(detector: Detector) -> None:
    size = detector.input_size
    if len(size) != 2 or not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE_PX for side in size):
        raise InputError(f"input_size is {tuple(size)} where each side is 1 to {LARGEST_SIDE_PX} px")


@contextmanager
def _bounded(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """Stop a constructor that registers far more parameters or modules than the file has tensors."""
    thread = threading.get_ident()
    most_parts = 6 * len(shapes) + _SPARE_PARTS
    most_numbers = 4 * sum(torch.Size(shape).numel() for shape in shapes.values()) + _SPARE_NUMBERS
    parts = numbers = 0

    def count(_module: nn.Module, _name: str, part: Any) -> None:
        nonlocal parts, numbers
        if threading.get_ident() != thread:
            return
        parts += 1
        if isinstance(part, torch.Tensor) and not isinstance(part, nn.UninitializedParameter):
            numbers += part.numel()
        if parts > most_parts or numbers > most_numbers:
            raise InputError("the network is many times larger than the file")

    handles = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
        hooks.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
