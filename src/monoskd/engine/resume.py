"""What a run has done so far, and whether it can go on from there."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from torch import Tensor

from monoskd.engine.load import PRETRAINED, load_config
from monoskd.engine.run_folder import CHECKPOINT, CONFIG, MANIFEST, MANIFEST_SCHEMA, METRICS, MODEL
from monoskd.engine.training import Training
from monoskd.errors import InputError
from monoskd.files import is_whole_number, read_json, read_text
from monoskd.models.checkpoints import check_seal, read_checkpoint

_MAY_CHANGE = (
    *("out", "start", "data.root", "data.unlabelled.mapping", "distillation.teacher"),
    *("data.workers", "data.cache", "accelerator", "devices", "nodes", "precision", "threads"),
    *("epochs", "optimizer", "validation", "log_every", "distillation.record_every"),
    "distillation.teacher_precision",
    *("data.unlabelled.threshold",),
)
"""What may differ in a resumed run: paths, how it is computed, how long, at which rate."""

_NEEDED = {
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
    "weights": dict,
    "pytorch-lightning_version": str,
}


@dataclass(frozen=True)
class Past:
    """A run up to its last whole epoch.

    checkpoint: the file to go on from. epoch: the last one, from 0. shapes: of its tensors by name. rows: of
    `metrics.csv` before it; later ones will be repeated. note: what is lost of these rows, if anything.
    """

    checkpoint: Path
    epoch: int
    shapes: dict[str, tuple[int, ...]]
    rows: list[dict[str, str]]
    note: str | None

    @classmethod
    def of(cls, run: Path, *, config: str) -> Self:
        """The past of a run folder that is to go on with this text as its `config.yaml`.

        Raises InputError where it has none, where one of its files is damaged, and where the config is another run's.
        """
        checkpoint = run / CHECKPOINT
        if not checkpoint.is_file():
            raise InputError(f"{run}: expected a run folder with {CHECKPOINT} to resume from, got none; check the path")
        check_seal(checkpoint)
        state = read_checkpoint(checkpoint)
        if lacking := [name for name, kind in _NEEDED.items() if not isinstance(state.get(name), kind)]:
            raise InputError(f"{checkpoint}: expected a run's checkpoint, got one without {lacking[0]}: it is damaged")
        log, steps = run / METRICS, state["global_step"]
        rows, note = _rows(log)
        rows = [row for row in rows if int(row["step"]) < steps]
        if not rows and steps:
            note = f"{log}: the rows of the first {steps} steps are gone; it begins anew"
        elif len(rows) < (once := state["callbacks"].get("WholeLog", {}).get("rows", 0)) - (note is not None):
            note = (
                f"{log}: of the {once} rows of the first {steps} steps {once - len(rows)} are gone; the others are kept"
            )
        _check_same_run(run, config)
        return cls(
            checkpoint=checkpoint,
            epoch=state["epoch"],
            shapes=_shapes(state["state_dict"]),
            rows=rows,
            note=note,
        )

    def check(self, training: Training, *, epochs: int) -> None:
        """Raise InputError where the checkpoint is another network's, or is past the end."""
        shapes, expected = self.shapes, _shapes(training.state_dict())
        if different := sorted(name for name in shapes | expected if shapes.get(name) != expected.get(name)):
            name = different[0]
            raise InputError(
                f"{self.checkpoint}: expected the tensors of this run's network, got {name} of shape "
                f"{shapes.get(name)} instead of {expected.get(name)}: it is another network's"
            )
        if self.epoch >= epochs:
            raise InputError(
                f"{self.checkpoint}: expected less than the {epochs} epochs of the config behind it, got "
                f"{self.epoch + 1}: raise `--epochs`"
            )


def how_to_go_on(run: Path) -> str:
    """What to do once a run has ended early: the end of a line."""
    if (run / CHECKPOINT).exists():
        return f"go on with `--resume {run}`: its last whole epoch is safe"
    return "repeat the command: no epoch was complete yet"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def began(run: Path, *, config: str) -> bool:
    """Whether a folder holds a run with this text as its config that ended before its first whole epoch.

    Such a run begins anew. Its mark is the manifest, which each run writes first; a run of an earlier version may
    have left only its config. Raises InputError where the config is another run's.
    """
    if (run / CHECKPOINT).exists():
        return False
    path, manifest = run / CONFIG, run / MANIFEST
    if not manifest.is_file():
        return path.is_file() and not (run / MODEL).exists() and read_text(path) == config
    record = read_json(manifest)
    if not isinstance(record, dict) or record.get("schema") != MANIFEST_SCHEMA or record.get("finished") is not False:
        return False
    if path.is_file():
        _check_same_run(run, config)
    return True


def _rows(path: Path) -> tuple[list[dict[str, str]], str | None]:
    """The whole rows of `metrics.csv`, if there is one, and a note where its last one is cut off."""
    if not path.exists():
        return [], None
    complete, _, rest = read_text(path).rpartition("\n")
    try:
        rows = list(csv.DictReader(complete.split("\n")))
        is_cut = bool(rest) or bool(rows and None in rows[-1].values())
        if is_cut and not rest:
            rows.pop()
        is_whole = all(None not in row and is_whole_number(row.get("step") or "") for row in rows)
    except csv.Error:
        is_whole = False
    if not is_whole:
        raise InputError(f"{path}: expected a step in every row, got a damaged file: repair it or move it away")
    return rows, f"{path}: its last row is cut off and is left out; the other {len(rows)} are kept" if is_cut else None


def _check_same_run(run: Path, text: str) -> None:
    """A run goes on as it began, but for `_MAY_CHANGE`."""
    before, now = _settings(load_config(run / CONFIG).text), _settings(text)
    for key in before | now:
        if before.get(key) != now.get(key) and not (key.startswith(_MAY_CHANGE) or key.endswith(f".{PRETRAINED}")):
            raise InputError(
                f"{run}: expected the config that the run began with, got {key}: {now.get(key)} instead of "
                f"{before.get(key)}; resume with {run / CONFIG}, or begin another run in another `--out`"
            )


def _settings(text: str) -> dict[str, Any]:
    """A YAML document's values by dotted key."""
    settings: dict[str, Any] = {}
    waiting = [("", yaml.safe_load(text))]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [(f"{key}.{name}".lstrip("."), item) for name, item in value.items()]
        else:
            settings[key] = value
    return settings
