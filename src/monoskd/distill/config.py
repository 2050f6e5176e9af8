"""A distiller from plain values: dicts, lists, strings and numbers, as YAML and JSON give them.

Every key is checked and all faults are reported at once. A config names classes and functions by dotted path, and may
name no others than: losses, adapters and fusions that are `nn.Module` classes; views and schedules of this package, or
`nn.Module` classes.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_args

import torch
from torch import nn

from monoskd.distill.taps import AdapterKind, Outlet, Tap
from monoskd.distill.terms import Term
from monoskd.errors import InputError

_OPTIONS = ("taps", "terms", "fusion", "teacher_batch_statistics", "teacher_dtype", "teacher_device")
_PACKAGE = __package__

# Kinds of plain values, each with its name in an error.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "a string": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "a number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "a name or a list of names": lambda value: isinstance(value, str) or _strings(value),
    "a list of names": lambda value: _strings(value),
    'a whole number or "all"': lambda value: value == "all" or (isinstance(value, int) and not isinstance(value, bool)),
}
_TAP = {"name": "a string", "of": "a name or a list of names"}
_OUTLET = {"path": "a string", "call": 'a whole number or "all"', "side": "a string"}
_TERM = {
    "weight": "a number",
    "taps": "a list of names",
    "each": "true or false",
    "resize": "a string",
    "between": "a string",
    "masked": "true or false",
    "key": "a string",
    "of": "a name or a list of names",
    "share": "a number",
    "uncertainty": "true or false",
}


def parts_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Distiller`, without the networks. Raises InputError with all faults in one line."""
    faults: list[str] = []
    if not isinstance(config, Mapping):
        raise InputError(f"config: expected a mapping with taps and terms, got {type(config).__name__}")
    _check_keys(config, _OPTIONS, "", faults)
    parts: dict[str, Any] = {}
    parts["taps"] = [_tap(tap, f"taps[{index}]", faults) for index, tap in enumerate(_listed(config, "taps", faults))]
    terms = config.get("terms")
    if not isinstance(terms, Mapping) or not terms:
        faults.append(f"terms: expected a mapping from names to terms, got {terms!r}")
        terms = {}
    parts["terms"] = {str(name): _term(term, f"terms.{name}", faults) for name, term in terms.items()}
    if config.get("fusion") is not None:
        parts["fusion"] = _made(config["fusion"], "fusion", faults)
    if "teacher_batch_statistics" in config:
        parts |= _plain(config, {"teacher_batch_statistics": "true or false"}, "", faults)
    if config.get("teacher_dtype") is not None:
        parts["teacher_dtype"] = _for_teachers(config["teacher_dtype"], _dtype, "teacher_dtype", faults)
    if config.get("teacher_device") is not None:
        parts["teacher_device"] = _for_teachers(config["teacher_device"], _device, "teacher_device", faults)
    if faults:
        raise InputError(f"config: {'; '.join(faults)}")
    return parts


def _tap(value: Any, where: str, faults: list[str]) -> Tap | None:
    if isinstance(value, str):
        value = {"student": value}
    if not _is_mapping(value, "a path, or a mapping with student", where, faults):
        return None
    _check_keys(value, [field.name for field in fields(Tap)], where, faults)
    options = _plain(value, _TAP, where, faults)
    for role in ("student", "teacher"):
        if value.get(role) is not None:
            options[role] = _outlet(value[role], f"{where}.{role}", faults)
        elif role == "student":
            faults.append(f"{where}: student: expected a path, got none")
    adapter = value.get("adapter", "auto")
    kinds = get_args(AdapterKind)
    if isinstance(adapter, Mapping):
        adapter = _made(adapter, f"{where}.adapter", faults)
    elif adapter not in kinds:
        faults.append(f"{where}.adapter: expected one of {', '.join(kinds)} or a class_path, got {adapter!r}")
    result: Tap | None = _built(lambda: Tap(adapter=adapter, **options), where, faults)
    return result


def _outlet(value: Any, where: str, faults: list[str]) -> str | Outlet | None:
    if isinstance(value, str):
        return value
    if not _is_mapping(value, "a path, or a mapping with path", where, faults):
        return None
    _check_keys(value, [field.name for field in fields(Outlet)], where, faults)
    options = _plain(value, _OUTLET, where, faults)
    if "path" not in value:
        faults.append(f"{where}: path: expected a string, got none")
    if value.get("view") is not None:
        options["view"] = _made(value["view"], f"{where}.view", faults, ours=True)
    result: Outlet | None = _built(lambda: Outlet(**options), where, faults)
    return result


def _term(value: Any, where: str, faults: list[str]) -> Term | None:
    if isinstance(value, str) or (isinstance(value, Mapping) and "class_path" in value):
        value = {"loss": value}
    if not _is_mapping(value, "a mapping with loss", where, faults):
        return None
    _check_keys(value, [field.name for field in fields(Term)], where, faults)
    options = _plain(value, _TERM, where, faults)
    if value.get("loss") is None:
        faults.append(f"{where}: loss: expected a class_path, got none")
    else:
        options["loss"] = _made(value["loss"], f"{where}.loss", faults)
    if value.get("schedule") is not None:
        options["schedule"] = _schedule(value["schedule"], f"{where}.schedule", faults)
    result: Term | None = _built(lambda: Term(**options), where, faults)
    return result


def _schedule(value: Any, where: str, faults: list[str]) -> Any:
    """A `Ramp` from its numbers, or a class_path."""
    if isinstance(value, Mapping) and "class_path" not in value:
        value = {"class_path": f"{_PACKAGE}.Ramp", "init_args": dict(value)}
    return _made(value, where, faults, ours=True)


def _made(value: Any, where: str, faults: list[str], *, ours: bool = False) -> Any:
    """What `class_path` and `init_args` say. ours: views and schedules, of this package or an `nn.Module`."""
    if isinstance(value, str):
        value = {"class_path": value}
    if not _is_mapping(value, "class_path and init_args", where, faults):
        return None
    _check_keys(value, ("class_path", "init_args"), where, faults)
    path, arguments = value.get("class_path"), value.get("init_args") or {}
    made = _imported(path, where, faults)
    if made is None or not _is_mapping(arguments, "a mapping of arguments", f"{where}.init_args", faults):
        return None
    if ours and str(getattr(made, "__module__", "")).startswith(f"{_PACKAGE}."):
        if not isinstance(made, type):
            return made  # a function, such as channels_first
    elif not (isinstance(made, type) and issubclass(made, nn.Module)):
        kinds = "an nn.Module class" + (f", or a class or function of {_PACKAGE}" if ours else "")
        faults.append(f"{where}: expected {kinds}, got {path}")
        return None
    known = inspect.signature(made).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        before = len(faults)
        _check_keys(arguments, list(known), f"{where}.init_args", faults)
        if len(faults) > before:
            return None
    return _built(lambda: made(**arguments), where, faults)


def _imported(path: Any, where: str, faults: list[str]) -> Any:
    """The object at a dotted path."""
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        known = getattr(import_module(_PACKAGE), "__all__", ())
        nearest = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; nearest: {_PACKAGE}.{nearest[0]}" if nearest else ""
        faults.append(f"{where}: class_path: expected the dotted path of a class, got {path!r}{hint}")
        return None


def _built(make: Callable[[], Any], where: str, faults: list[str]) -> Any:
    """`make()`, or None where other faults stand in the way or it refuses its arguments."""
    if any(fault.startswith(where) for fault in faults):
        return None
    try:
        return make()
    except (ValueError, TypeError, RuntimeError) as error:
        faults.append(f"{where}: {' '.join(str(error).split())}")
        return None


def _plain(value: Mapping[str, Any], kinds: Mapping[str, str], where: str, faults: list[str]) -> dict[str, Any]:
    """The values of these kinds that are given. null is the default, as is a key left out."""
    chosen = {key: value[key] for key in kinds if value.get(key) is not None}
    for key, one in chosen.items():
        if not _KINDS[kinds[key]](one):
            faults.append(f"{_join(where, key)}: expected {kinds[key]}, got {one!r}")
    return chosen


def _check_keys(value: Mapping[str, Any], known: Sequence[str], where: str, faults: list[str]) -> None:
    """Note each unknown key with the nearest known one."""
    for key in value:
        if key not in known:
            nearest = get_close_matches(str(key), known, n=1, cutoff=0.3)
            hint = f"nearest: {nearest[0]}" if nearest else f"known: {', '.join(known)}"
            faults.append(f"{_join(where, str(key))}: unknown key; {hint}")


def _is_mapping(value: Any, expected: str, where: str, faults: list[str]) -> bool:
    if not isinstance(value, Mapping):
        faults.append(f"{where}: expected {expected}, got {value!r}")
    return isinstance(value, Mapping)


def _listed(config: Mapping[str, Any], key: str, faults: list[str]) -> list[Any]:
    value = config.get(key)
    if value is not None and not isinstance(value, list | tuple):
        faults.append(f"{key}: expected a list, got {value!r}")
        return []
    return list(value or ())


def _for_teachers(value: Any, read: Callable[[Any, str, list[str]], Any], where: str, faults: list[str]) -> Any:
    """One value for all teachers, or one by name."""
    if isinstance(value, Mapping):
        return {str(name): read(part, f"{where}.{name}", faults) for name, part in value.items()}
    return read(value, where, faults)


def _dtype(value: Any, where: str, faults: list[str]) -> torch.dtype | None:
    dtype = getattr(torch, value, None) if isinstance(value, str) else None
    if not isinstance(dtype, torch.dtype):
        faults.append(f"{where}: expected a type such as bfloat16, got {value!r}")
        return None
    return dtype


def _device(value: Any, where: str, faults: list[str]) -> Any:
    return _built(lambda: torch.device(value), where, faults)


def _strings(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
