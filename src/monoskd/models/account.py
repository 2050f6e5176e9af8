"""What the importers of published checkpoints share: every tensor is used, known to be unused, or named in an error."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from monoskd.errors import InputError
from monoskd.models.checkpoints import read_checkpoint
from monoskd.models.weights import save_model
from monoskd.structures import Detector

BATCH_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

UNUSED_OF_DLA = {
    "ImageNet classifier": r"backbone\.fc\.(weight|bias)",
    "projection that the backbone never calls": rf"backbone\.level[34]\.project\.(0\.weight|1\.{BATCH_NORM})",
}
"""Tensors of a published DLA-34 that are not used, by reason: patterns of their names."""

_NECK = re.compile(r"neck\.rounds\.(\d)\.(project|up|node)\.(\d)\.(0\.|1\.|)(\w+)")
_NECK_LAYERS = {"0.": "conv.", "1.": "bn.", "": ""}


@dataclass(frozen=True)
class Account:
    """How many tensors of a checkpoint are used, and how many are not, by reason."""

    used: int
    unused: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        unused = ", ".join(f"{count} ({reason})" for reason, count in self.unused.items()) or "none"
        return f"{self.used} tensors used; not used: {unused}"


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    build: Callable[[Mapping[str, Any]], tuple[Detector, Account]],
    **provenance: Any,
) -> Account:
    """Write the published checkpoint `source` as the model file `out`.

    build: the detector of a state dict, and the account of its tensors. provenance: further entries of the model file.
    Raises InputError for what is no checkpoint, and with the file's name whatever InputError `build` raises.
    """
    checkpoint = read_checkpoint(source)
    state = checkpoint.get("model_state", checkpoint)
    if not isinstance(state, Mapping):
        raise InputError(f"{source}: model_state: expected tensors by name, got {type(state).__name__}")
    try:
        detector, account = build(state)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    epoch = checkpoint.get("epoch")
    with Path(source).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {
        "converted_from": Path(source).name,
        "sha256": digest,
        "epoch": epoch if isinstance(epoch, int) else None,
        "tensors": asdict(account),
    }
    save_model(detector, out, provenance=origin | provenance)
    return account


def sorted_tensors(
    state: Mapping[str, Any],
    *,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    unused: Mapping[str, str],
    implementation: str,
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The tensors of a published state dict by our names, and the count of the others by reason.

    names: published names to ours; shapes: by our names; unused: a pattern of published names by reason. Raises
    InputError for tensors that are unknown (or there twice), missing, of another shape or not finite.
    """
    tensors: dict[str, Tensor] = {}
    others: Counter[str] = Counter()
    unknown: list[str] = []
    for name, value in state.items():
        bare = str(name).removeprefix("module.")
        reason = next((reason for reason, pattern in unused.items() if re.fullmatch(pattern, bare)), None)
        if reason is not None:
            others[reason] += 1
        elif bare in names and isinstance(value, Tensor) and names[bare] not in tensors:
            tensors[names[bare]] = value
        else:
            unknown.append(str(name))
    if unknown:
        raise InputError(f"unknown {listed(unknown)}; expected a checkpoint of {implementation}")
    # Old versions of PyTorch did not store how many batches a BatchNorm has seen; nothing here reads it.
    absent = [
        theirs for theirs, name in names.items() if name not in tensors and not name.endswith("num_batches_tracked")
    ]
    if absent:
        raise InputError(f"missing {listed(absent)}; is this a whole checkpoint?")
    for theirs, name in names.items():
        if name in tensors and tuple(tensors[name].shape) != shapes[name]:
            raise InputError(f"{theirs}: expected shape {shapes[name]}, got {tuple(tensors[name].shape)}")
        if name in tensors and not tensors[name].isfinite().all():
            raise InputError(f"{theirs}: expected finite numbers, got NaN or infinity: the checkpoint is not usable")
    return tensors, dict(others)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def published_neck_name(name: str, *, neck: str) -> str | None:
    """The published name of a tensor of our `DLAUp`, whose published name is `neck`; None for any other tensor."""
    match = _NECK.fullmatch(name)
    if match is None:
        return None
    number, block, merge, layer, leaf = match.groups()
    theirs = block.replace("project", "proj")
    return f"{neck}.ida_{number}.{theirs}_{int(merge) + 1}.{_NECK_LAYERS[layer]}{leaf}"


def listed(names: Sequence[str]) -> str:
    """The first names of a list and how many more there are."""
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
