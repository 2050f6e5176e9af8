"""What a run has done so far, and whether it can go on from there."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from torch import Tensor

from monoskd.engine.config import PRETRAINED, load_config
from monoskd.engine.training import Training
from monoskd.errors import InputError
from monoskd.files import read_text
from monoskd.models.checkpoints import read_checkpoint

_MAY_CHANGE = (
    *("out", "start", "data.root", "data.unlabelled.mapping", "distillation.teacher"),
    *("data.workers", "data.cache", "accelerator", "devices", "precision", "threads"),
    *("epochs", "optimizer", "validation", "log_every", "distillation.record_every"),
    *("data.unlabelled.threshold",),
)
"""What a resumed run may have otherwise than it began: paths, how it is computed, how long, at which rate."""

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
    `metrics.csv` before it; later ones are about to be repeated.
    """

    checkpoint: Path
    epoch: int
    shapes: dict[str, tuple[int, ...]]
    rows: list[dict[str, str]]

    @classmethod
    def of(cls, run: Path, *, config: str) -> Self:
        """The past of a run folder that is to go on with this text as its `config.yaml`.

        Raises InputError where it has none, where a file of it is damaged, and where the config is another run's.
        """
        checkpoint = run / "checkpoints" / "last.ckpt"
        if not checkpoint.is_file():
            raise InputError(f"{run}: expected a run folder with checkpoints/last.ckpt to resume from, found none")
        state = read_checkpoint(checkpoint)
        if lacking := [name for name, kind in _NEEDED.items() if not isinstance(state.get(name), kind)]:
            raise InputError(f"{checkpoint}: expected a run's checkpoint, got one without {lacking[0]}: it is damaged")
        rows = _rows(run / "metrics.csv")
        _check_same_run(run, config)
        return cls(
            checkpoint=checkpoint,
            epoch=state["epoch"],
            shapes=_shapes(state["state_dict"]),
            rows=[row for row in rows if int(row["step"]) < state["global_step"]],
        )

    def check(self, training: Training, *, epochs: int) -> None:
        """Raise InputError where the checkpoint is another network's, or is past the end."""
        found, wanted = self.shapes, _shapes(training.state_dict())
        if odd := sorted(name for name in found | wanted if found.get(name) != wanted.get(name)):
            raise InputError(
                f"{self.checkpoint}: expected the tensors of this run's network, got {odd[0]} of shape "
                f"{found.get(odd[0])} instead of {wanted.get(odd[0])}: it is another network's"
            )
        if self.epoch >= epochs:
            raise InputError(
                f"{self.checkpoint}: expected less than the {epochs} epochs of the config behind it, got "
                f"{self.epoch + 1}: raise `--epochs`"
            )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, if there is one."""
    try:
        rows = list(csv.DictReader(read_text(path).splitlines())) if path.exists() else []
        whole = all(None not in row and re.fullmatch("[0-9]{1,18}", row.get("step") or "") for row in rows)
    except csv.Error:
        whole = False
    if not whole:
        raise InputError(f"{path}: expected a step in every row, got a damaged file: mend it or move it away")
    return rows


def _check_same_run(run: Path, text: str) -> None:
    """A run goes on as it began, but for `_MAY_CHANGE`."""
    before, now = _settings(load_config(run / "config.yaml").text), _settings(text)
    for key in before | now:
        if before.get(key) != now.get(key) and not (key.startswith(_MAY_CHANGE) or key.endswith(f".{PRETRAINED}")):
            raise InputError(
                f"{run}: expected the config that the run began with, got {key}: {now.get(key)} instead of "
                f"{before.get(key)}; resume with {run / 'config.yaml'}, or begin another run in another `--out`"
            )


def _settings(text: str) -> dict[str, Any]:
    """A YAML document's values by dotted key."""
    found, todo = {}, [("", yaml.safe_load(text))]
    while todo:
        where, value = todo.pop()
        if isinstance(value, dict) and value:
            todo += [(f"{where}.{key}".lstrip("."), item) for key, item in value.items()]
        else:
            found[where] = value
    return found
