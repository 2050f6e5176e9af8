"""A YAML file and options become a checked configuration; `configs/` holds the shipped ones."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from monoskd.engine.config import RunConfig
from monoskd.engine.faults import first_words, nulls, overlaid, unknown_keys, value_faults, without
from monoskd.errors import InputError
from monoskd.files import load_yaml, read_text

MOST_SEEDS = 2**32  # numpy's
PRETRAINED = "pretrained"  # a detector's option of this name fetches weights that a checkpoint replaces
MOVED = {
    "monoskd.data.kitti.KittiDataset": "monoskd.kitti.source.KittiFrames",
    "monoskd.distill.Foreground": "monoskd.models.did_m3d.teaching.Foreground",
    "monoskd.distill.HeadLoss": "monoskd.models.did_m3d.teaching.HeadLoss",
    "monoskd.distill.ObjectLoss": "monoskd.models.did_m3d.teaching.ObjectLoss",
    "monoskd.models.ResponseLoss": "monoskd.models.did_m3d.teaching.ResponseLoss",
}
"""Class paths of earlier versions, which configs and run folders may still name."""
_MOST_FAULTS = 10
_MOST_CONFIG_BYTES = 2**20
_MOST_VALUES = 10_000


@dataclass(frozen=True)
class LoadedConfig:
    """A checked configuration. `run` builds its objects once the seed is set; text: of `config.yaml`."""

    seed: int
    out: Path
    text: str
    parser: Any
    namespace: Any

    def run(self, *, resumed: bool = False) -> RunConfig:
        """The configuration with its modules built; their weights are random, from torch's global generator.

        resumed: a checkpoint holds all weights, so no pretrained ones are fetched.
        """
        namespace = self.namespace.clone()
        for key in list(namespace.keys()) if resumed else ():
            if key.startswith("detector.") and key.endswith(f".{PRETRAINED}") and namespace[key]:
                namespace[key] = False
        try:
            made = self.parser.instantiate(namespace)
        except (ValueError, TypeError) as error:
            raise InputError(f"config: {first_words(error)}") from error
        return RunConfig(**{field.name: getattr(made, field.name) for field in fields(RunConfig)})

    def settings(self) -> RunConfig:
        """The configuration without its modules: no network, evaluator or distillation term is built."""
        namespace = self.namespace.clone()
        namespace.detector = namespace.distillation = namespace.validation.evaluator = None
        made, lines = value_faults(RunConfig, namespace)
        if lines:
            raise InputError(f"config: {' | '.join(lines)}")
        settings: RunConfig = made
        return settings


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read a YAML file and `--a.b VALUE` overrides.

    path: a file, or the name of a shipped one such as `kitti/monoskd.yaml`. Raises one InputError with all unknown keys
    (with the nearest known ones) and unfit classes, or else with all values of the wrong kind.
    """
    from jsonargparse import ArgumentParser

    source = find_config(path)
    try:
        document = _bounded(load_yaml(read_text(source, at_most=_MOST_CONFIG_BYTES)), path)
        document = _moved(document)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"{path}: expected a config, got values nested too deeply: replace the file") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a YAML mapping such as `epochs: 150`, got {type(document).__name__}")
    overrides = [*map(_moved, overrides)]
    if any(word.startswith("--start.") for word in overrides):  # a part beside a path, which is the model
        overrides = [re.sub(r"^--start(?==|$)", "--start.model", word) for word in overrides]
        if isinstance(document.get("start"), str):
            document["start"] = {"model": document["start"]}
    complete = overlaid(document, overrides)
    _refuse(path, unknown_keys(complete, RunConfig))
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, prog="monoskd train")
    parser.add_class_arguments(RunConfig, None, fail_untyped=True)
    parser.add_argument("--config", action="config")
    try:
        namespace = parser.parse_args(["--config", json.dumps(document, default=str), *overrides])
    except (Exception, SystemExit) as error:  # jsonargparse raises many kinds; each is the user's input
        raise InputError(f"{path}: {' | '.join(_parser_faults(parser, first_words(error), complete))}") from error
    namespace.pop("config")
    _refuse(path, nulls(RunConfig, namespace))
    if not 0 <= namespace.seed < MOST_SEEDS:
        raise InputError(f"{path}: seed: expected 0 to {MOST_SEEDS - 1}, got {namespace.seed}")
    text = parser.dump(namespace, skip_unset=False)
    _refuse(path, unknown_keys(yaml.safe_load(text), RunConfig))  # also what an option took from another file
    return LoadedConfig(
        seed=namespace.seed,
        out=Path(namespace.out),
        text=text,
        parser=parser,
        namespace=namespace,
    )


def _bounded(document: Any, path: Path) -> Any:
    """The document. Raises InputError where it is huge or endless once each alias is replaced by what it stands for."""
    waiting, values = [document], 0
    while waiting:
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        values += 1
        if values > _MOST_VALUES:
            raise InputError(f"{path}: expected at most {_MOST_VALUES} values, got more: do aliases hold each other?")
    return document


def _refuse(path: Path, faults: Iterable[str]) -> None:
    if lines := list(dict.fromkeys(faults)):
        raise InputError(f"{path}: {' | '.join(lines)}")


def _parser_faults(parser: Any, line: str, document: dict[str, Any]) -> list[str]:
    """The parser's first complaint, and those that follow once the value it names is left out."""
    lines = [line]
    while len(lines) < _MOST_FAULTS:
        rest = without(document, lines[-1].partition(": ")[0])
        if rest is None:
            break
        document = rest
        try:
            parser.parse_args(["--config", json.dumps(document, default=str)])
            break
        except (Exception, SystemExit) as error:
            line = first_words(error)
            if "required" in line:  # because it was left out
                break
            lines.append(line)
    return lines


def find_config(path: Path) -> Path:
    """`path` if there is such a file, else the shipped configuration of that name."""
    shipped = Path(str(files("monoskd"))) / "configs"
    for candidate in (path, shipped / path, shipped / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    names = sorted(str(file.relative_to(shipped)) for file in shipped.rglob("*.yaml"))
    raise InputError(f"{path}: no such configuration file; give a path or one of: {', '.join(names)}")


def _moved(value: Any) -> Any:
    """A document with the class paths of earlier versions replaced."""
    if isinstance(value, dict):
        return {key: _moved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item) for item in value]
    return MOVED.get(value, value) if isinstance(value, str) else value
