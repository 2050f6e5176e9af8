"""What a run writes beside its metrics: the model file, the manifest, checkpoints, and lines on stderr."""

import io
import platform
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from monoskd import __version__
from monoskd.data.lost import is_lost_loader
from monoskd.engine.run_folder import CONFIG, MANIFEST, MANIFEST_SCHEMA, MODEL
from monoskd.engine.training import DivergenceError, Training
from monoskd.errors import InputError
from monoskd.files import write_atomically, write_json, write_text
from monoskd.models.checkpoints import sealed
from monoskd.models.weights import save_model
from monoskd.revision import commit as commit
from monoskd.workers import cores

LONG_S, LONG_SHARE = 5.0, 0.3  # of waiting for frames that is worth a line


def say(line: str) -> None:
    """Write a line on stderr; training goes on where stderr takes nothing more."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _keeps_student(exception: BaseException) -> bool:
    """Whether a run that ends so has a student that is worth keeping: Ctrl-C, bad input, a lost loader process."""
    if isinstance(exception, DivergenceError):
        return False
    return isinstance(exception, KeyboardInterrupt | InputError) or is_lost_loader(exception)


class ConfigFile(pl.Callback):
    """Writes `config.yaml` once the training begins: a resumption that is refused leaves the file unchanged."""

    def __init__(self, out: Path, text: str) -> None:
        self.path = out / CONFIG
        self.text = text

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the run is made of."""
        if trainer.is_global_zero:
            write_text(self.path, self.text)


class StopSignal(pl.Callback):
    """Keeps the handler of SIGTERM that was there before the training; on the command line it acts as Ctrl-C.

    Lightning puts its own handler first, in which the end of a loader process may raise.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the handler back; Lightning has registered its own by now."""
        if callable(self.handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


class ModelFile(pl.Callback):
    """Writes `model.safetensors`, the student alone, when training ends or is stopped; never after it diverged."""

    def __init__(self, out: Path, provenance: dict[str, Any]) -> None:
        self.path = out / MODEL
        self.provenance = provenance

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the finished student."""
        self._save(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep what the run has learnt so far."""
        if _keeps_student(exception) and trainer.global_step:
            self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if trainer.is_global_zero:
            reached: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            if pl_module.best_score is not None:
                reached["best_score"] = pl_module.best_score
            save_model(pl_module.student, self.path, provenance={**self.provenance, **reached})


class Manifest(pl.Callback):
    """Writes `manifest.json`: command, data, versions, duration. step_images: images a step on one device.

    The seconds of a resumed run include those of its earlier parts, up to the checkpoints.
    """

    def __init__(self, out: Path, *, seed: int, frames: dict[str, int], step_images: int) -> None:
        self.path = out / MANIFEST
        self.step_images = step_images
        self.record: dict[str, Any] = {
            "schema": MANIFEST_SCHEMA,
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
        self._write(trainer, finished=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write it beside the model that is kept."""
        if (_keeps_student(exception) or isinstance(exception, DivergenceError)) and trainer.global_step:
            self._pause()
            self._write(trainer, finished=False)

    def _write(self, trainer: pl.Trainer, *, finished: bool) -> None:
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
                "device": device_name(trainer.strategy.root_device),  # the module is on the CPU again
            }
            write_json(self.path, {**self.record, **measured})

    def _total(self) -> float:
        return self._before + time.perf_counter() - self._began

    def _pause(self) -> None:
        if self._epoch_began is not None:
            self._fitting += time.perf_counter() - self._epoch_began
            self._epoch_began = None


class Waiting(pl.Callback):
    """Says once, after an epoch, that the run waits for its loader, where it does so for long.

    That is the first epoch, or the second where decoded frames are kept (`cached`). The first batch of an epoch does
    not count: loader processes begin then. workers: those of a device.
    """

    def __init__(self, *, workers: int, cached: bool) -> None:
        self.workers, self.cached = workers, cached
        self._epochs = 2 if cached else 1
        self._began = self._asked = self._waited = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch has come."""
        now = time.perf_counter()
        if batch_idx == 0:
            self._began, self._waited = now, 0.0
        else:
            self._waited += now - self._asked

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The next one is asked for."""
        self._asked = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say it."""
        self._epochs -= 1
        whole = self._asked - self._began
        if self._epochs == 0 and trainer.is_global_zero and self._waited > max(LONG_S, LONG_SHARE * whole):
            cache = "" if self.cached else ", or set `--data.cache true`"
            say(
                f"loader: {self._waited:.0f} of the epoch's {whole:.0f} s were spent waiting for frames: raise "
                f"`--data.workers` ({self.workers} a device now, of {cores()} cores){cache}"
            )


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints with a checksum, written in their own folder; one replaces the other only once it is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the file, whole or not at all."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(path, sealed(content.getvalue()))


class PlainLines(pl.callbacks.Checkpoint):
    """Lines on stderr: the results of each validation and, where there is no progress bar, one line an epoch.

    An epoch that is printed is safe: Lightning calls callbacks of this base class last, in their order, and this one
    is behind the one that writes the checkpoint. epochs: whether to print the line of each epoch.
    """

    def __init__(self, *, epochs: bool) -> None:
        self.epochs = epochs
        self._validated: str | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what lies ahead."""
        if trainer.is_global_zero:
            steps = trainer.num_training_batches
            say(
                f"epochs {trainer.current_epoch + 1} to {trainer.max_epochs}, {steps} steps each, on {pl_module.device}"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the results for the end of the epoch."""
        self._validated = _results(trainer.callback_metrics) or "no result"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the results and where the run is."""
        validated, self._validated = self._validated, None
        if not trainer.is_global_zero:
            return
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if validated is not None:
            say(f"{epoch}  validation  {validated}")
        if self.epochs:
            loss = trainer.callback_metrics.get("train/loss", torch.tensor(float("nan")))
            say(f"{epoch}  step {trainer.global_step}  loss {loss:.3f}")


def _results(metrics: Mapping[str, torch.Tensor]) -> str:
    """The numbers of a validation in one line."""
    results = {name.removeprefix("val/"): float(value) for name, value in metrics.items() if name.startswith("val/")}
    return "  ".join(f"{name} {value:.4g}" for name, value in results.items())


def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    names = ("torch", "torchvision", "timm", "pytorch-lightning", "numpy")
    return {"monoskd": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def device_name(device: torch.device) -> str:
    """Where a run trains; of a GPU also which card it is."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def peak_memory_mb() -> float:
    """The largest memory [MiB] so far: the device's on CUDA, else the process' resident set."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
