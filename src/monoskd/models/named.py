"""Classes named by a dotted path in a file: their module is judged by its source before it is imported."""

import importlib.util
import os
import re
import site
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from monoskd.errors import InputError, first_line
from monoskd.structures import Detector

_PACKAGE = "monoskd"
_DETECTORS = "monoskd.models"
_MOST_MODULES = 50  # of one package, read to find out where its classes come from
_IMPORT = re.compile(r"^[ \t]*(?:from|import)[ \t]+([.\w]+)", re.MULTILINE)


def detector_class(path: Any) -> type[Detector]:
    """The detector that a model file names.

    It must be part of monoskd, of an installed package, or of a folder that `PYTHONPATH` names. Nothing else is
    imported, and nothing is called. Raises InputError with the reason.
    """
    module, name = _split(path)
    if module not in sys.modules:
        if module.partition(".")[0] == _PACKAGE:
            if not f"{module}.".startswith(f"{_DETECTORS}."):
                raise InputError(f"monoskd's detectors are in {_DETECTORS}")
        else:
            _check_foreign(module)
    cls = vars(_imported(module)).get(name)
    if not (isinstance(cls, type) and issubclass(cls, Detector)):
        raise InputError(f"{module} has no detector of the name {name}")
    return cls


def named(path: Any, *, words: Sequence[str]) -> Any:
    """The object that a config names, from any module on Python's path whose source holds one of the words.

    Raises InputError with the reason.
    """
    module, name = _split(path)
    if module not in sys.modules and module.partition(".")[0] != _PACKAGE:
        spec = locate(module)
        if spec is not None and not _holds(spec, words):
            raise InputError(f"{module} does not use {' or '.join(words)}, so it was not imported")
    try:
        return getattr(_imported(module), name)
    except AttributeError as error:
        raise InputError(str(error)) from error


def locate(module: str) -> ModuleSpec | None:
    """What an import of the module would run, found level by level; neither it nor its packages are imported."""
    name, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(name)
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = f"{name}.{part}"
            spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    except (ValueError, KeyError):  # a module without a spec; a namespace package inside another
        return None
    return spec


def _split(path: Any) -> tuple[str, str]:
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise InputError("it is no dotted path")
    if "__main__" in path.split(".")[1:]:
        raise InputError("a __main__ module is a program")
    return module, name


def _check_foreign(module: str) -> None:
    """Raise InputError where a module outside monoskd is none that a model file may name."""
    top, spec = locate(module.partition(".")[0]), locate(module)
    if top is None or spec is None:
        raise InputError(f"there is no module {module}")
    places = [Path(place).parent for place in top.submodule_search_locations or [top.origin or ""]]
    allowed = {os.path.realpath(folder) for folder in (*_installed(), *_python_path())}
    if not (_is_editable(top) or all(os.path.realpath(place) in allowed for place in places)):
        raise InputError(f"{module} lies in {places[0]}, which is neither installed nor named in PYTHONPATH")
    if not _holds(spec, [_PACKAGE]):
        raise InputError(f"{module} does not use {_PACKAGE}, so it was not imported")


def _python_path() -> list[str]:
    """The folders that the variable names; an empty entry would be the working directory."""
    value = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return [folder for folder in value.split(os.pathsep) if folder]


def _installed() -> list[str]:
    """The folders of installed packages, with those that `.pth` files add, as editable installations do."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    files = [path for folder in folders for path in Path(folder).glob("*.pth")]
    lines = [line.strip() for path in files for line in path.read_text(errors="replace").splitlines()]
    return folders + [line for line in lines if os.path.isabs(line) and os.path.isdir(line)]  # noqa: PTH112, PTH117


def _is_editable(spec: ModuleSpec) -> bool:
    """Whether an editable installation by setuptools, which has a finder of its own, leads to this place."""
    finders = [finder for finder in sys.meta_path if getattr(finder, "__module__", "").startswith("__editable__")]
    places = [editable.origin for finder in finders if (editable := finder.find_spec(spec.name, None))]
    return spec.origin is not None and spec.origin in places


def _holds(spec: ModuleSpec, words: Sequence[str]) -> bool:
    """Whether the source holds one of the words, or that of a module of the same package which it imports."""
    package, waiting, seen = spec.name.partition(".")[0], [spec], {spec.name}
    while waiting and len(seen) <= _MOST_MODULES:
        spec = waiting.pop()
        source = _source(spec)
        if any(re.search(rf"\b{word}\b", source) for word in words):
            return True
        for name in _IMPORT.findall(source):
            try:
                full = importlib.util.resolve_name(name, spec.parent)
            except ImportError:
                continue
            if full.partition(".")[0] == package and full not in seen:
                seen.add(full)
                waiting += [imported] if (imported := locate(full)) is not None else []
    return False


def _source(spec: ModuleSpec) -> str:
    """A module's source; empty where there is none, as for an extension in C."""
    try:
        return getattr(spec.loader, "get_source", str)(spec.name) or ""
    except (ImportError, SyntaxError, UnicodeError, OSError):
        return ""


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except Exception as error:  # a module's own code may raise anything
        raise InputError(first_line(error)) from error
