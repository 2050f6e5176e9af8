"""Checkpoints of the published MonoDLE implementation as networks of this library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monoskd.errors import InputError
from monoskd.models.account import (
    UNUSED_OF_DLA,
    Account,
    convert_checkpoint,
    published_neck_name,
    shapes_of,
    sorted_tensors,
)
from monoskd.models.monodle.network import MonoDLE, MonoDLEConfig

IMPLEMENTATIONS = "MonoDLE"
CONVERTER = 1  # raised when the same checkpoint would give another model file


def fits(state: Mapping[str, Any]) -> bool:
    """Whether a published state dict is one of this detector. By its neck, so that one missing tensor is named."""
    return any(str(name).removeprefix("module.").startswith("neck.ida_") for name in state)


def convert(source: str | Path, out: str | Path, *, part: str = "student") -> Account:
    """Write the published checkpoint `source` as the model file `out`.

    Raises InputError for what is no such checkpoint, and for tensors that are missing, unknown or of another shape.
    """
    if part != "student":
        raise InputError(f"part: expected student, got {part}: a checkpoint of MonoDLE holds one network")
    return convert_checkpoint(source, out, build=from_published, converter=CONVERTER)


def from_published(state: Mapping[str, Any]) -> tuple[MonoDLE, Account]:
    """The detector that a published state dict describes, with its weights, and the account of the tensors."""
    config = MonoDLEConfig(pretrained=False, geometry="published")
    with torch.device("meta"):
        shapes = shapes_of(MonoDLE(config).state_dict())
    tensors, unused = sorted_tensors(
        state,
        names={published_name(name): name for name in shapes},
        shapes=shapes,
        unused=UNUSED_OF_DLA,
        implementation=IMPLEMENTATIONS,
    )
    detector = MonoDLE(config)
    detector.load_state_dict(tensors, strict=False)  # batch counters may be missing, all else was checked above
    return detector.eval(), Account(used=len(tensors), unused=unused)


def published_name(name: str) -> str:
    """The published name of a tensor of ours."""
    return published_neck_name(name, neck="neck") or name.replace("backbone.net.", "backbone.").removeprefix("heads.")
