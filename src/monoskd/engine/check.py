"""The first step of a run: all checks that need no network, before a file is written."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_only

from monoskd.engine.config import RunConfig, StartConfig
from monoskd.engine.load import LoadedConfig
from monoskd.engine.resume import Past, began
from monoskd.engine.run_folder import CHECKPOINT, CONFIG, MANIFEST, METRICS, MODEL
from monoskd.engine.sources import Sources
from monoskd.errors import Complaints, InputError
from monoskd.files import check_writable
from monoskd.models.weights import describe_model
from monoskd.workers import cores

_RUN_FILES = (str(CHECKPOINT.parent), MODEL, CONFIG, METRICS, MANIFEST)


@dataclass(frozen=True)
class Plan:
    """A run that may begin.

    past: what an interrupted run has done, if this one goes on with it. anew: an interrupted run in the folder has
    nothing to go on from, so this one begins anew.
    """

    loaded: LoadedConfig
    sources: Sources
    past: Past | None
    anew: bool


def check(loaded: LoadedConfig, *, resume: Path | None = None) -> Plan:
    """Look at folders, devices, model files and data. Raises one InputError with all that is wrong."""
    settings = loaded.settings()
    complaints = Complaints()
    anew = complaints.attempt(began, settings.out if resume is None else resume, config=loaded.text)
    if resume is not None and resume.resolve() == settings.out.resolve() and not _held(resume):
        anew = True  # it ended before its first file
    past = None
    if anew is not None:
        past = complaints.attempt(Past.of, resume, config=loaded.text) if resume and not anew else None
        if not process_number():  # process 0 has written to it by now
            complaints.attempt(_check_folder, settings.out, resume=resume, anew=anew)
    complaints.attempt(_check_apart, settings)
    complaints.attempt(_check_devices, settings)
    complaints.attempt(_check_networks, loaded, start=settings.beginning)
    sources = complaints.attempt(_open, settings)
    complaints.raise_any()
    assert sources is not None, "a missing source is a complaint"
    return Plan(loaded, sources, past, anew=bool(anew))


def process_number() -> int:
    """Of this process among those of the run; 0 for a process on its own."""
    return int(getattr(rank_zero_only, "rank", 0) or 0)


def on_cpu(config: RunConfig) -> bool:
    """Whether the run uses the CPU alone."""
    automatic = config.accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    return config.accelerator == "cpu" or automatic


def on_cuda(config: RunConfig) -> bool:
    """Whether the run uses GPUs."""
    return config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _check_folder(out: Path, *, resume: Path | None, anew: bool) -> None:
    """Never write over a run, except to go on with it or to begin anew what has no whole epoch."""
    check_writable(out)
    if anew if resume is None else resume.resolve() == out.resolve():
        return
    if (out / CHECKPOINT).exists():
        raise InputError(f"{out}: holds a run; go on with `--resume {out}` or choose another `--out`")
    if held := _held(out):
        raise InputError(f"{out}: expected a new folder, got one with {held[0]}; choose another `--out`")


def _held(out: Path) -> list[str]:
    return [name for name in _RUN_FILES if (out / name).exists()]


def _check_apart(config: RunConfig) -> None:
    """The run folder must not lie among the frames."""
    root, out = config.data.root.resolve(), config.out.resolve()
    if root == out or (root / "training") in (out, *out.parents):
        raise InputError(f"{config.out}: expected a folder outside the data set, got one in it; choose another `--out`")


def _check_devices(config: RunConfig) -> None:
    """Lightning checks the number of GPUs itself, but not the number of processes on a CPU."""
    if not on_cuda(config) and config.devices > cores():
        raise InputError(
            f"devices: expected at most {cores()}, the cores of this machine without a GPU in use, got "
            f"{config.devices}; lower `--devices`"
        )
    if config.data.batch_size % config.processes:
        raise InputError(
            f"data.batch_size: expected a whole number of images for each of {config.processes} devices, got "
            f"{config.data.batch_size} in all; change either"
        )


def _check_networks(loaded: LoadedConfig, *, start: StartConfig) -> None:
    """Check that there is a student, a teacher where one is needed, and that their model files can be read."""
    namespace = loaded.namespace
    if namespace.detector is None and start.model is None:
        raise InputError("config: expected `detector` (a new network) or `start` (a model file), got neither")
    if namespace.data.unlabelled is not None and namespace.distillation is None:
        raise InputError(
            "config: data.unlabelled: expected `distillation`, whose teacher makes pseudo-labels, got none"
        )
    for path in filter(None, (start.model, start.inherit)):
        describe_model(path)
    if namespace.distillation is not None:
        describe_model(namespace.distillation.teacher)


def _open(config: RunConfig) -> Sources:
    if not config.data.root.is_dir():
        raise InputError(f"{config.data.root}: no such data set; set `--data.root` to its folder")
    return Sources.open(config.data, devices=config.processes)
