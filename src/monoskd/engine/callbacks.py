"""What a run leaves behind beside its numbers: the model file and the manifest."""

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from monoskd import __version__
from monoskd.engine.training import Training
from monoskd.errors import InputError
from monoskd.models.weights import save_model


class ModelFile(pl.Callback):
    """Writes `model.safetensors`, the student alone, when training ends, is interrupted or meets a damaged file."""

    def __init__(self, out: Path, provenance: dict[str, Any]) -> None:
        self.path = out / "model.safetensors"
        self.provenance = provenance

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the finished student."""
        self._save(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep what a run has learnt that was stopped by Ctrl-C or by its input."""
        if isinstance(exception, KeyboardInterrupt | InputError) and trainer.global_step:
            self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if trainer.is_global_zero:
            reached = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            save_model(pl_module.student, self.path, provenance={**self.provenance, **reached})


class Manifest(pl.Callback):
    """Writes `manifest.json`: what was run, on what, with what, how long it took. step_images: of one device."""

    def __init__(self, out: Path, *, seed: int, frames: dict[str, int], step_images: int) -> None:
        self.path = out / "manifest.json"
        self.step_images = step_images
        self.record: dict[str, Any] = {
            "schema": "monoskd/run/1",
            "command": sys.argv,
            "seed": seed,
            "frames": frames,
            "versions": versions(),
            "commit": commit(),
        }
        self._started = 0.0
        self._fitting = 0.0
        self._first_step = 0  # of this process; a resumed run has made some before
        self._epoch_started: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._first_step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time training apart from validation."""
        self._epoch_started = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the training clock while the run is measured."""
        self._pause()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add up the epoch."""
        self._pause()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write it beside the model that is kept."""
        if isinstance(exception, KeyboardInterrupt | InputError) and trainer.global_step:
            self._pause()
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            steps = trainer.global_step - self._first_step
            images = steps * self.step_images * trainer.world_size
            measured = {
                "steps": trainer.global_step,
                "epochs": trainer.current_epoch,
                "train_seconds": round(self._fitting, 3),
                "total_seconds": round(time.perf_counter() - self._started, 3),
                "images_per_second": round(images / self._fitting, 2) if self._fitting else None,
                "peak_memory_mb": peak_memory_mb(),
                "device": str(pl_module.device),
            }
            self.path.write_text(json.dumps({**self.record, **measured}, indent=2) + "\n")

    def _pause(self) -> None:
        if self._epoch_started is not None:
            self._fitting += time.perf_counter() - self._epoch_started
            self._epoch_started = None


class PlainLines(pl.Callback):
    """One line an epoch on stderr, where there is no terminal for a progress bar."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where the run is."""
        if trainer.is_global_zero:
            loss = trainer.callback_metrics.get("train/loss", torch.tensor(float("nan")))
            line = (
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {trainer.global_step}  loss {loss:.3f}\n"
            )
            sys.stderr.write(line)


def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    names = ("torch", "torchvision", "timm", "pytorch-lightning", "numpy")
    return {"monoskd": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def commit() -> str | None:
    """The git commit of a source checkout, with `+` where it was changed; None for an installed package."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def peak_memory_mb() -> float:
    """The largest memory [MiB] so far: the device's on CUDA, else the process' resident set."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
