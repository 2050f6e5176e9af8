"""The model file: a safetensors file that says in its header how to build the detector whose weights it holds.

The header's `monoskd` entry is JSON: schema, library version, the detector's class path, its config and where the
weights come from. A detector fits if it is an `nn.Module` called with one argument, a dataclass of plain values, that
it keeps as `config`.
"""

import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from monoskd import __version__
from monoskd.errors import InputError
from monoskd.files import write_atomically
from monoskd.structures import Detector

SCHEMA = "monoskd/model/1"
LONGEST_DESCRIPTION = 1_000_000  # characters; a safetensors header may not pass 100 MB and readers hold it in memory


def save_model(detector: Detector, path: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write the detector's architecture and weights to `path`, whole or not at all.

    provenance: where the weights come from; plain values that JSON can hold.
    """
    config: Any = getattr(detector, "config", None)
    if not (isinstance(detector, nn.Module) and is_dataclass(config) and not isinstance(config, type)):
        raise TypeError(f"a model file holds an nn.Module with a dataclass `config`, got {type(detector).__name__}")
    description = json.dumps(
        {
            "schema": SCHEMA,
            "version": __version__,
            "detector": _public_path(type(detector)),
            "config": asdict(config),
            "provenance": dict(provenance),
        },
        default=str,
    )
    if len(description) > LONGEST_DESCRIPTION:
        raise InputError(
            f"{path}: expected a description of at most {LONGEST_DESCRIPTION} characters, got {len(description)}; "
            "keep the provenance short"
        )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    if Path(path).is_dir():
        raise InputError(f"{path}: expected a file to write the model to, got a folder; give a file name")
    write_atomically(path, save(state, metadata={"format": "pt", "monoskd": description}))


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> Detector:
    """The detector in a model file, in evaluation mode on `device`.

    Raises InputError for what is no model file, and for tensors that are missing, unknown or of another shape.
    """
    description = describe_model(path)
    detector = _built(description, path)
    with _opened(path) as file:
        state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check(state, detector.state_dict(), path)
    detector.load_state_dict(state)
    loaded = detector.eval().to(device)
    assert isinstance(loaded, Detector)
    return loaded


def describe_model(path: str | Path) -> dict[str, Any]:
    """What a model file says of itself: `schema`, `version`, `detector`, `config`, `provenance`."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if "monoskd" not in metadata:
        raise InputError(f"{path}: expected a model file of monoskd, got a safetensors file without its description")
    try:
        description: dict[str, Any] = json.loads(metadata["monoskd"])
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: expected a description in JSON, got {error}; the file is damaged") from error
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        found = description.get("schema") if isinstance(description, dict) else type(description).__name__
        raise InputError(f"{path}: expected schema {SCHEMA}, got {found}; was it written by a newer version?")
    return description


def _public_path(cls: type) -> str:
    """Where a class is found: in the package of its module if that exports it, which moves less often than a file."""
    package = cls.__module__.rpartition(".")[0]
    exported = package and getattr(import_module(package), cls.__name__, None) is cls
    return f"{package if exported else cls.__module__}.{cls.__qualname__}"


def _opened(path: str | Path) -> Any:
    """The safetensors file; what is wrong with it becomes one line."""
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "no file"
        raise InputError(f"{path}: expected a model file, got {found}; `monoskd train` and `convert` write them")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: expected a model file (safetensors), got a damaged file or another format: {error}; published "
            "checkpoints go through `monoskd convert`"
        ) from error


def _built(description: dict[str, Any], path: str | Path) -> nn.Module:
    """An untrained detector as the description says. Only a class of detectors is ever called."""
    module, _, name = str(description.get("detector")).rpartition(".")
    try:
        cls = getattr(import_module(module), name)
        config_type = _config_type(cls) if isinstance(cls, type) and issubclass(cls, nn.Module) else None
    except (ImportError, AttributeError, NameError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected an installed detector, got {description.get('detector')}: {error}"
        ) from error
    if config_type is None:
        raise InputError(f"{path}: expected a detector's class, got {description['detector']}")
    try:
        detector: nn.Module = cls(_config(config_type, description.get("config")))
    except Exception as error:  # a constructor says in any way it likes that it cannot work with these values
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{path}: expected a config that {cls.__name__} can be built from, got one where {reason}; the file is "
            "damaged or of another version"
        ) from error
    return detector


def _config_type(cls: type[nn.Module]) -> Any:
    """The dataclass that a detector's constructor takes as `config`, or None: then it is no detector."""
    hint = typing.get_type_hints(cls.__init__).get("config")
    return next((kind for kind in (hint, *typing.get_args(hint)) if is_dataclass(kind)), None)


def _config(config_type: Any, values: Any) -> Any:
    """The detector's config from JSON, lists turned back into tuples."""
    hints = typing.get_type_hints(config_type)
    if not isinstance(values, dict):
        raise InputError(f"there are no settings but {values}")
    odd = sorted(set(values) - set(hints))
    if odd:
        raise InputError(f"nobody knows the settings {odd}")
    return config_type(**{name: _typed(value, hints[name]) for name, value in values.items()})


def _typed(value: Any, hint: Any) -> Any:
    """A JSON value as the type hint wants it: lists become tuples, also inside mappings."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _typed(item, arguments[1]) for key, item in value.items()}
    return value


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Every tensor there, none too many, all of the right shape; else one line that names it."""
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        fault = " and ".join(
            f"{len(names)} {kind} (first {names[0]})"
            for kind, names in (("missing", missing), ("unknown", extra))
            if names
        )
        raise InputError(f"{path}: expected the {len(expected)} tensors of its detector, got tensors {fault}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(f"{path}: {name}: expected shape {tuple(expected[name].shape)}, got {tuple(tensor.shape)}")
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name}: expected finite weights, got NaN or infinity; train the model again")
