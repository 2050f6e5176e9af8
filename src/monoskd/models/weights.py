"""The model file: a safetensors file that says in its header how to build the detector whose weights it holds.

The header's `monoskd` entry is JSON: schema, library version, the detector's class path, its config, where the weights
come from, and a checksum. A detector fits if its constructor takes one argument, `config`, a dataclass of plain values,
and keeps it under that name.
"""

import hashlib
import json
import re
import typing
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from monoskd import __version__
from monoskd.errors import InputError, first_line
from monoskd.files import write_atomically
from monoskd.models.bounds import MisfitError, built, check_settings
from monoskd.models.named import detector_class
from monoskd.structures import Detector

SCHEMA = "monoskd/model/1"
LONGEST_DESCRIPTION = 1_000_000  # characters; a safetensors header may not pass 100 MB and readers hold it in memory
_ENTRIES = {"schema", "version", "detector", "config", "provenance", "checksum"}
_LONGEST_REASON = 300  # characters of what a constructor objects to, which may quote a huge setting
_NO_CHECKSUM = "0" * 64  # stands in the file while its checksum is computed
_CHUNK_BYTES = 2**24


def save_model(detector: Detector, path: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write the detector's architecture and weights to `path`, whole or not at all.

    provenance: where the weights come from; plain values that JSON can hold.
    """
    config: Any = getattr(detector, "config", None)
    if not (isinstance(detector, Detector) and is_dataclass(config) and not isinstance(config, type)):
        raise TypeError(f"a model file holds a Detector with a dataclass `config`, got {type(detector).__name__}")
    settings = asdict(config)
    description = json.dumps(
        {
            "checksum": _NO_CHECKSUM,  # first, so that its place is found first
            "schema": SCHEMA,
            "version": __version__,
            "detector": _public_path(type(detector)),
            "config": settings | ({"pretrained": False} if settings.get("pretrained") else {}),
            "provenance": dict(provenance),
        },
        default=str,
    )
    if len(description) > LONGEST_DESCRIPTION:
        raise InputError(
            f"{path}: expected a description of at most {LONGEST_DESCRIPTION} characters, got {len(description)}; "
            "keep the provenance short"
        )
    # A copy of each: safetensors takes no tensors that share memory, as tied weights do.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in detector.state_dict().items()
    }
    if Path(path).is_dir():
        raise InputError(f"{path}: expected a file to write the model to, got a folder; give a file name")
    content = bytearray(save(state, metadata={"format": "pt", "monoskd": description}))
    place = content.index(_NO_CHECKSUM.encode())
    content[place : place + len(_NO_CHECKSUM)] = hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, bytes(content))


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> Detector:
    """The detector in a model file, in evaluation mode on `device`.

    Raises InputError for what is no model file or a damaged one, and for tensors that are missing, unknown or of
    another shape.
    """
    description = describe_model(path)
    _check_sum(description.get("checksum"), path)
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        detector = _built(description, shapes, path)
        state: dict[str, Tensor] = {name: file.get_tensor(name) for name in shapes}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name}: expected finite weights, got NaN or infinity; train the model again")
    detector.load_state_dict(state)
    return detector.eval().to(device)


def describe_model(path: str | Path) -> dict[str, Any]:
    """The header of a model file: `schema`, `version`, `detector`, `config`, `provenance`, `checksum`."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if "monoskd" not in metadata:
        raise InputError(f"{path}: expected a model file of monoskd, got a safetensors file without its description")
    try:
        description: dict[str, Any] = json.loads(metadata["monoskd"])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a description in JSON, got {error}; the file is damaged") from error
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        schema = description.get("schema") if isinstance(description, dict) else type(description).__name__
        raise InputError(f"{path}: expected schema {SCHEMA}, got {schema}; was it written by a newer version?")
    if unknown := sorted(set(description) - _ENTRIES):
        raise InputError(
            f"{path}: expected a description with {', '.join(sorted(_ENTRIES))}, got {unknown[0]!r}; it is damaged"
        )
    return description


def _check_sum(checksum: Any, path: str | Path) -> None:
    """Raise InputError where the file is not, bit by bit, what was written. Older files have no checksum.

    It is SHA-256 of the file with 64 zeros in the checksum's place.
    """
    if checksum is None:
        return
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        digest.update(length + header.replace(str(checksum).encode(), _NO_CHECKSUM.encode(), 1))
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if not re.fullmatch("[0-9a-f]{64}", str(checksum)) or digest.hexdigest() != checksum:
        raise InputError(
            f"{path}: expected the checksum {str(checksum)[:12]}..., got {digest.hexdigest()[:12]}...: the file is "
            "damaged, copy or train it again"
        )


def _public_path(cls: type) -> str:
    """Where a class is found: monoskd's own in the package that exports it, which moves less often than a file."""
    package = cls.__module__.rpartition(".")[0]
    exported = package.startswith("monoskd.") and getattr(import_module(package), cls.__name__, None) is cls
    return f"{package if exported else cls.__module__}.{cls.__qualname__}"


def _opened(path: str | Path) -> Any:
    """The safetensors file; what is wrong with it becomes one line."""
    if not Path(path).is_file():
        if inside := sorted(Path(path).glob("*.safetensors")):
            raise InputError(f"{path}: expected a model file, got a folder: give a file in it, such as {inside[0]}")
        kind = "a folder" if Path(path).is_dir() else "no file"
        raise InputError(f"{path}: expected a model file, got {kind}; `monoskd train` and `convert` write them")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: expected a model file (safetensors), got a damaged file or another format: {error}; published "
            "checkpoints go through `monoskd convert`"
        ) from error


def _built(description: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], path: str | Path) -> Detector:
    """An untrained detector as the description says, with tensors of these shapes."""
    try:
        cls = detector_class(description.get("detector"))
        config_type = _config_type(cls)
    except InputError as error:
        raise InputError(
            f"{path}: expected an installed detector, got {description.get('detector')}: {error}"
        ) from error
    try:
        check_settings(description.get("config"))
        return built(lambda: cls(_config(config_type, description.get("config"))), shapes)
    except MisfitError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a constructor says in any way it likes that it cannot work with these values
        reason = first_line(error)[:_LONGEST_REASON]
        raise InputError(
            f"{path}: expected a config that {cls.__name__} can be built from, got one where {reason}; the file is "
            "damaged or of another version"
        ) from error


def _config_type(cls: Any) -> Any:
    """The dataclass that a detector's constructor takes as `config`."""
    try:
        hint = typing.get_type_hints(cls.__init__).get("config")
    except (NameError, TypeError) as error:
        raise InputError(str(error)) from error
    for kind in (hint, *typing.get_args(hint)):
        if is_dataclass(kind):
            return kind
    raise InputError("its constructor takes no dataclass as `config`")


def _config(config_type: Any, values: Any) -> Any:
    """The detector's config from JSON, lists turned back into tuples."""
    hints = typing.get_type_hints(config_type)
    if not isinstance(values, dict):
        raise InputError(f"there are no settings but {values}")
    if unknown := sorted(set(values) - set(hints)):
        raise InputError(f"the settings {unknown} are unknown")
    return config_type(**{name: _typed(value, hints[name]) for name, value in values.items()})


def _typed(value: Any, hint: Any) -> Any:
    """A JSON value as the type hint wants it: lists become tuples, also inside mappings."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _typed(item, arguments[1]) for key, item in value.items()}
    return value
