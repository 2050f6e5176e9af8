"""What a run leaves behind beside its numbers: the model file and the manifest."""

import json
import platform
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from monoskd import __version__
from monoskd.engine.training import DivergenceError, Training
from monoskd.errors import InputError
from monoskd.files import write_atomically
from monoskd.models.weights import save_model


class ConfigFile(pl.Callback):
    """Writes `config.yaml` once the training begins: a run that is refused leaves an earlier one's as it was."""

    def __init__(self, out: Path, text: str) -> None:
        self.path = out / "config.yaml"
        self.text = text

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the run is made of."""
        if trainer.is_global_zero:
            write_atomically(self.path, self.text.encode())


class StopSignal(pl.Callback):
    """Lets SIGTERM do in a training what it did before, if that was a handler: on the command line it is Ctrl-C.

    Lightning puts a handler of its own in front, in which the end of a loader's worker can raise first.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the handler back; Lightning has registered its own by now."""
        if callable(self.handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


class ModelFile(pl.Callback):
    """Writes `model.safetensors`, the student alone, when training ends, is interrupted or meets a damaged file.

    Never one whose training diverged.
    """

    def __init__(self, out: Path, provenance: dict[str, Any]) -> None:
        self.path = out / "model.safetensors"
        self.provenance = provenance

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the finished student."""
        self._save(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep what a run has learnt that was stopped by Ctrl-C or by its input."""
        stopped = isinstance(exception, KeyboardInterrupt | InputError) and not isinstance(exception, DivergenceError)
        if stopped and trainer.global_step:
            self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if trainer.is_global_zero:
            reached = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            save_model(pl_module.student, self.path, provenance={**self.provenance, **reached})


class Manifest(pl.Callback):
    """Writes `manifest.json`: what was run, on what, with what, how long it took. step_images: of one device.

    A resumed run's seconds are those of all its parts, as far as the checkpoints go.
    """

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
        self._began = time.perf_counter()
        self._before = 0.0
        self._fitting = 0.0
        self._epoch_began: float | None = None

    def state_dict(self) -> dict[str, float]:
        """The seconds so far, which the checkpoint keeps."""
        return {"train_seconds": self._fitting, "total_seconds": self._total()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Add to the seconds of the run's earlier parts."""
        self._fitting, self._before = state_dict["train_seconds"], state_dict["total_seconds"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time training apart from validation."""
        self._epoch_began = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the training clock while the run is measured."""
        self._pause()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add up the epoch."""
        self._pause()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it."""
        self._write(trainer, pl_module, finished=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write it beside the model that is kept."""
        if isinstance(exception, KeyboardInterrupt | InputError) and trainer.global_step:
            self._pause()
            self._write(trainer, pl_module, finished=False)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, finished: bool) -> None:
        if trainer.is_global_zero:
            images = trainer.global_step * self.step_images * trainer.world_size
            measured = {
                "finished": finished,
                "steps": trainer.global_step,
                "epochs": trainer.current_epoch,
                "train_seconds": round(self._fitting, 3),
                "total_seconds": round(self._total(), 3),
                "images_per_second": round(images / self._fitting, 2) if self._fitting else None,
                "peak_memory_mb": peak_memory_mb(),
                "device": str(pl_module.device),
            }
            write_atomically(self.path, (json.dumps({**self.record, **measured}, indent=2) + "\n").encode())

    def _total(self) -> float:
        return self._before + time.perf_counter() - self._began

    def _pause(self) -> None:
        if self._epoch_began is not None:
            self._fitting += time.perf_counter() - self._epoch_began
            self._epoch_began = None


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that replace the one before only once they are whole on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the file, then move into place."""
        part = Path(path).with_suffix(".part")
        try:
            super().save_checkpoint(checkpoint, part, storage_options)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


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
