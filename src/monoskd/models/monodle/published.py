"""Checkpoints of the published MonoDLE implementation as networks of this library.

Every tensor is accounted for: used, known and unused, or an error that names it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoskd.errors import InputError
from monoskd.models.checkpoints import read_checkpoint
from monoskd.models.monodle.network import MonoDLE, MonoDLEConfig
from monoskd.models.weights import save_model

IMPLEMENTATIONS = "MonoDLE"
CONVERTER = 1  # raised when the same checkpoint would give another model file

_NECK = re.compile(r"neck\.rounds\.(\d)\.(project|up|node)\.(\d)\.(0\.|1\.|)(\w+)")
_NECK_LAYERS = {"0.": "conv.", "1.": "bn.", "": ""}
_BATCH_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_UNUSED = {
    "ImageNet classifier": r"backbone\.fc\.(weight|bias)",
    "projection that the backbone never calls": rf"backbone\.level[34]\.project\.(0\.weight|1\.{_BATCH_NORM})",
}


@dataclass(frozen=True)
class Account:
    """Where the tensors of a checkpoint went: how many are used, and how many are not, by reason."""

    used: int
    unused: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        unused = ", ".join(f"{count} ({reason})" for reason, count in self.unused.items()) or "none"
        return f"{self.used} tensors used; not used: {unused}"


def fits(state: Mapping[str, Any]) -> bool:
    """Whether a published state dict is one of this detector: its depth head is dense and there are no mean sizes."""
    names = {str(name).removeprefix("module.") for name in state}
    return "depth.2.weight" in names and "mean_size" not in names


def convert(source: str | Path, out: str | Path, *, part: str = "student") -> Account:
    """Write the published checkpoint `source` as the model file `out`.

    Raises InputError for what is no such checkpoint, and for tensors that are missing, unknown or of another shape.
    """
    if part != "student":
        raise InputError(f"part: expected student, got {part}: a checkpoint of MonoDLE holds one network")
    checkpoint = read_checkpoint(source)
    state = checkpoint.get("model_state", checkpoint)
    if not isinstance(state, Mapping):
        raise InputError(f"{source}: model_state: expected tensors by name, got {type(state).__name__}")
    try:
        detector, account = from_published(state)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    epoch = checkpoint.get("epoch")
    with Path(source).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {
        "converted_from": Path(source).name,
        "sha256": digest,
        "epoch": epoch if isinstance(epoch, int) else None,
        "tensors": asdict(account),
        "converter": CONVERTER,
    }
    save_model(detector, out, provenance=provenance)
    return account


def from_published(state: Mapping[str, Any]) -> tuple[MonoDLE, Account]:
    """The detector that a published state dict describes, with its weights, and the account of the tensors."""
    config = MonoDLEConfig(pretrained=False, geometry="published")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in MonoDLE(config).state_dict().items()}
    ours = {published_name(name): name for name in shapes}
    found: dict[str, Tensor] = {}
    unused: dict[str, int] = {}
    unknown: list[str] = []
    for name, value in state.items():
        bare = str(name).removeprefix("module.")
        reason = next((reason for reason, pattern in _UNUSED.items() if re.fullmatch(pattern, bare)), None)
        if reason is not None:
            unused[reason] = unused.get(reason, 0) + 1
        elif bare in ours and isinstance(value, Tensor):
            found[ours[bare]] = value
        else:
            unknown.append(str(name))
    if unknown:
        raise InputError(f"unknown {_listed(unknown)}; expected a checkpoint of {IMPLEMENTATIONS}")
    # Old versions of PyTorch did not store how many batches a BatchNorm has seen; nothing here reads it.
    absent = [theirs for theirs, name in ours.items() if name not in found and not name.endswith("num_batches_tracked")]
    if absent:
        raise InputError(f"missing {_listed(absent)}; is this a whole checkpoint?")
    for name, tensor in found.items():
        if tuple(tensor.shape) != shapes[name]:
            raise InputError(f"{published_name(name)}: expected shape {shapes[name]}, got {tuple(tensor.shape)}")
    detector = MonoDLE(config)
    detector.load_state_dict(found, strict=False)  # batch counters may be missing, all else was checked above
    return detector.eval(), Account(used=len(found), unused=unused)


def published_name(name: str) -> str:
    """The published name of a tensor of ours."""
    if neck := _NECK.fullmatch(name):
        number, block, merge, layer, leaf = neck.groups()
        block = block.replace("project", "proj")
        return f"neck.ida_{number}.{block}_{int(merge) + 1}.{_NECK_LAYERS[layer]}{leaf}"
    return name.replace("backbone.net.", "backbone.").removeprefix("heads.")


def _listed(names: list[str]) -> str:
    """The first names of a list and how many more there are."""
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
