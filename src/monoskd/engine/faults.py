"""What is wrong with a config document, all at once, before anything that it names is called."""

import collections.abc
import difflib
import inspect
import re
import types
import typing
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from monoskd.errors import InputError
from monoskd.evaluation.evaluator import Evaluator
from monoskd.models.named import named

_WORDS = ("monoskd", "torch")  # what the source of a module holds that has something for a training
_OPEN = (nn.Module, Evaluator)  # base classes of what a config may name where the type says nothing
_OWN = "monoskd.distill"  # the package of views and schedules


def unknown_keys(value: Any, kind: Any, where: str = "") -> Iterator[str]:
    """One line for each key that its type does not know, with the nearest known key, and for each unfit class."""
    kinds = _alternatives(kind)
    if _names_class(value, kinds):
        yield from _class_faults(value, kinds, where)
        return
    kind = next(filter(is_dataclass, kinds), kinds[0] if kinds else Any)  # a path or a mapping, such as a tap's student
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_keys(item, (typing.get_args(kind) or (Any,))[0], f"{where}[{index}]")
    if not isinstance(value, dict):
        return
    known, is_open = _known(value, kind)
    for key, item in value.items():
        path = f"{where}.{key}".lstrip(".")
        if key in known:
            yield from unknown_keys(item, known[key], path)
        elif not is_open:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
            yield f"unknown key {path!r}; {hint}"


def _known(value: Mapping[Any, Any], kind: Any) -> tuple[dict[Any, Any], bool]:
    """The type of each key of a mapping, and whether it takes further keys."""
    if is_dataclass(kind):
        return {field.name: field.type for field in fields(kind)}, False
    if typing.get_origin(kind) in (dict, collections.abc.Mapping):
        return dict.fromkeys(value, typing.get_args(kind)[1]), False
    if inspect.isfunction(kind) or (inspect.isclass(kind) and kind.__module__ != "builtins"):
        parameters = inspect.signature(kind).parameters.values()
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        return {parameter.name: parameter.annotation for parameter in parameters}, takes_any
    return dict.fromkeys(value, Any), False


def _alternatives(kind: Any) -> list[Any]:
    """The types of a union, without None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [inner for part in typing.get_args(kind) for inner in _alternatives(part)]
    return [] if kind is types.NoneType else [kind]


def _classes(kinds: Sequence[Any]) -> list[Any]:
    """The types that classes and functions can be compared with."""
    return [kind for kind in kinds if _is_callable(kind) or (inspect.isclass(kind) and kind not in (Any, object))]


def _is_callable(kind: Any) -> bool:
    return typing.get_origin(kind) is collections.abc.Callable


def _names_class(value: Any, kinds: Sequence[Any]) -> bool:
    """Whether a value names a class or a function: by `class_path`, or by a dotted path in its place."""
    if isinstance(value, dict):
        return "class_path" in value
    if (
        not isinstance(value, str)
        or {str, Path} & {*kinds}
        or not all(part.isidentifier() for part in value.split("."))
    ):
        return False
    # A parser would import what a dotted path names in the place of a section, too.
    return "." in value and any(
        _is_callable(kind) or is_dataclass(kind) or issubclass(kind, _OPEN) for kind in _classes(kinds)
    )


def _class_faults(value: Any, kinds: Sequence[Any], where: str) -> Iterator[str]:
    path = value["class_path"] if isinstance(value, dict) else value
    try:
        chosen = named(path, words=_WORDS)
    except InputError as error:
        yield f"{where}: expected an importable class, got {path!r} ({error})"
        return
    if not _fits(chosen, kinds):
        yield f"{where}: expected {_expected(kinds)}, got {path!r}; it was not called"
    elif isinstance(value, dict):
        rest = {key: item for key, item in value.items() if key != "class_path"}
        for key in rest.keys() - {"init_args", "dict_kwargs"}:
            yield f"unknown key {f'{where}.{key}'!r}; known keys: class_path, init_args"
        yield from unknown_keys(rest.get("init_args"), chosen, f"{where}.init_args")


def _fits(chosen: Any, kinds: Sequence[Any]) -> bool:
    """Whether a class or function is of one of the kinds that its place takes."""
    if inspect.isclass(chosen):
        bases = tuple(filter(inspect.isclass, _classes(kinds)))
        if issubclass(chosen, bases or _OPEN):
            return True
    if not any(map(_is_callable, kinds)):
        return False
    if _is_loss(kinds) and inspect.isfunction(chosen):
        return "student" in inspect.signature(chosen).parameters
    is_own = str(getattr(chosen, "__module__", "")).startswith(f"{_OWN}.")
    return is_own or (inspect.isclass(chosen) and issubclass(chosen, nn.Module))


def _is_loss(kinds: Sequence[Any]) -> bool:
    return nn.Module in kinds and any(_is_callable(kind) and typing.get_args(kind)[-1] is Tensor for kind in kinds)


def _expected(kinds: Sequence[Any]) -> str:
    if _is_loss(kinds):
        return "an nn.Module class or a function called with student="
    if any(map(_is_callable, kinds)):
        return f"a class or function of {_OWN} or an nn.Module class"
    names = [kind.__name__ for kind in _classes(kinds) or _OPEN]
    return f"a subclass of {' or '.join(names)}"


def overlaid(document: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The document with the options `--a.b VALUE` and `--a.b=VALUE` in it, to look for faults."""
    document, rest = dict(document), list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            continue
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals and rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        _put(document, key, value)
    return document


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; `a+` appends to a list. Mappings on the way are copied, not changed."""
    *sections, last = key.split(".")
    for name in sections:
        inner = document.get(name)
        document[name] = dict(inner) if isinstance(inner, dict) else {"class_path": inner} if inner else {}
        document = document[name]
    if last.endswith("+"):
        last, before = last[:-1], document.get(last[:-1])
        value = [*(before if isinstance(before, list) else []), *(value if isinstance(value, list) else [value])]
    document[last] = value


def without(document: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """The document without a dotted key, or None where it has no such key."""
    name, _, rest = key.partition(".")
    if name not in document:
        return None
    if not rest:
        return {other: value for other, value in document.items() if other != name}
    inner = without(document[name], rest) if isinstance(document[name], dict) else None
    return None if inner is None else {**document, name: inner}


def nulls(kind: Any, values: Any, where: str = "") -> Iterator[str]:
    """One line for each field of a dataclass, section by section, that is null and may not be."""
    for field in fields(kind):
        value, key = getattr(values, field.name), f"{where}.{field.name}".lstrip(".")
        section = next(filter(is_dataclass, _alternatives(field.type)), None)
        if section is not None and isinstance(value, Namespace) and "class_path" not in value:
            yield from nulls(section, value, key)
        elif value is None and types.NoneType not in typing.get_args(field.type):
            yield f"{key}: expected a value, got null; leave it out for the default"


def value_faults(kind: Any, values: Any) -> tuple[Any, list[str]]:
    """A dataclass of parsed values, section by section, and what the sections object to."""
    made, lines = {}, []
    for field in fields(kind):
        value = getattr(values, field.name)
        section = next(filter(is_dataclass, _alternatives(field.type)), None)
        if section is not None and isinstance(value, Namespace):
            value, more = value_faults(section, value)
            lines += more
        made[field.name] = value
    try:
        return kind(**made), lines
    except (ValueError, TypeError, AttributeError) as error:
        return None, lines if lines and not isinstance(error, InputError) else [*lines, str(error)]


_GIVEN = "Given value: "
_PREAMBLE = ("Does not validate against", "Subtypes:", "Errors:", "Problem with given class_path")


def first_words(error: BaseException) -> str:
    """One line out of a parser's many about all types that it tried: the innermost key and what was expected there."""
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    lines = [line.strip(" -") for line in str(cause if isinstance(cause, InputError) else error).splitlines()]
    lines = [line for line in lines if line]
    keys = [index for index, line in enumerate(lines) if line.startswith('Parser key "') and line.endswith('":')]
    if not keys:
        lines = [line for line in lines if not line.startswith(_PREAMBLE)]
        return lines[0] if lines else f"{type(error).__name__}; see `--debug`"
    path = ".".join(lines[index].split('"')[1] for index in keys)
    reasons = [line for line in lines[keys[-1] + 1 :] if not line.startswith(_PREAMBLE)]
    return f"{path}: {_plain(reasons) if reasons else lines[-1]}"


def _plain(reasons: list[str]) -> str:
    """The parser's first reason in the words of our own errors: expected this, got that."""
    reason = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reasons[0])
    reason = re.sub(r"typing\.Literal\[(.*?)\]", lambda found: "one of " + found[1].replace("'", ""), reason)
    expected, _, got = reason.partition(". Got value: ")
    if not expected.startswith("Expected a "):
        return reason
    got = got or next((line.removeprefix(_GIVEN) for line in reasons if line.startswith(_GIVEN)), "")
    return f"expected {expected.removeprefix('Expected a ')}" + (f", got {got}" if got else "")
