"""`metrics.csv`: no row that was written is lost, whether the run is killed or the disk is full."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from monoskd.engine.check import process_number
from monoskd.files import atomic_path


def csv_logger(path: Path, history: Sequence[Mapping[str, str]]) -> CSVLogger:
    """A logger whose file begins with the rows of `history`; Lightning's own would forget them."""
    logger = CSVLogger(path.parent, name="", version="")
    if not process_number():
        logger._experiment = _Rows(path, history)
    return logger


class _Rows(ExperimentWriter):
    """Lightning's writer, but the file is always written anew and whole: what is appended may be cut off."""

    def __init__(self, path: Path, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the history, or begin anew without one."""
        super().__init__(str(path.parent))
        self.metrics: list[Any] = [*history]
        if history:
            self.save()
        else:
            path.unlink(missing_ok=True)

    def save(self) -> None:
        """Write all rows so far, with the names of all columns."""
        if not self.metrics:
            return
        with atomic_path(self.metrics_file_path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted(set().union(*self.metrics)))
            writer.writeheader()
            writer.writerows(self.metrics)

    def _check_log_dir_exists(self) -> None:
        """Lightning would remove the file here."""


class WholeLog(pl.Callback):
    """Writes `metrics.csv` before the checkpoint of an epoch, so that a killed run has the rows of its whole epochs.

    The checkpoint knows how many there are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what the loggers hold."""
        for logger in trainer.loggers:
            logger.save()

    def state_dict(self) -> dict[str, int]:
        """The rows so far, which the checkpoint keeps."""
        return {"rows": max(len(self.path.read_text().splitlines()) - 1, 0) if self.path.exists() else 0}
