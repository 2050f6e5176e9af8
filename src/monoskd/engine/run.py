"""A config becomes a run folder."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from monoskd.distill import Distiller, FlightRecorder
from monoskd.engine.callbacks import ConfigFile, Manifest, ModelFile, PlainLines, StopSignal, WholeCheckpoints
from monoskd.engine.config import DataConfig, LoadedConfig, RunConfig
from monoskd.engine.frames import Frames
from monoskd.engine.measure import Measurement
from monoskd.engine.resume import Past
from monoskd.engine.schedule import TaskWeights
from monoskd.engine.training import Training
from monoskd.engine.unlabelled import detect_unlabelled
from monoskd.errors import InputError
from monoskd.files import check_writable
from monoskd.kitti.io import read_split
from monoskd.kitti.layout import KittiLayout
from monoskd.models.weights import load_model
from monoskd.structures import Batch, Detector
from monoskd.workers import cores

_RUN_FILES = ("checkpoints", "model.safetensors", "config.yaml", "metrics.csv", "manifest.json")


def train(loaded: LoadedConfig, *, resume: Path | None = None) -> Path:
    """Train as configured; returns the run folder. `resume`: a run folder to go on from, at its last whole epoch.

    Raises InputError for data or model files that do not fit, KeyboardInterrupt once an interrupted run is saved.
    """
    past = Past.of(resume, config=loaded.text) if resume else None
    _check_folder(loaded.out, resume=resume)
    _check_data(loaded)  # before a network is made, which may download weights
    pl.seed_everything(loaded.seed, workers=True, verbose=False)
    config = loaded.run(resumed=past is not None)
    _check_devices(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    student = build_student(config)
    training = build_training(config, student)
    frames = Frames(config, student, detections=_detections(config, training, resumed=past is not None))
    training.shape_adapters(Batch.collate([frames.train[0]]))
    if past:
        past.check(training, epochs=config.epochs)
    config.out.mkdir(parents=True, exist_ok=True)
    with _quiet_lightning():
        try:
            trainer = build_trainer(config, frames, history=past.rows if past else [], text=loaded.text)
        except (MisconfigurationException, ValueError, ImportError) as error:
            raise InputError(f"config: expected what this machine can do, got an objection: {error}") from error
        try:
            ckpt_path = past.checkpoint if past else None
            trainer.fit(training, datamodule=frames, ckpt_path=ckpt_path, weights_only=True)
        except SystemExit as stop:  # Lightning's word for an interruption, after its callbacks have saved
            raise KeyboardInterrupt from stop
        except InputError as error:  # a loader process puts its traceback in front of the line
            raise InputError(str(error).strip().rpartition("InputError: ")[2]) from error
    return config.out


def build_student(config: RunConfig) -> Any:
    """The network to train: new, or from a model file."""
    if config.start is None and config.detector is None:
        raise InputError("config: expected `detector` (a new network) or `start` (a model file), got neither")
    student: Any = config.detector
    if config.start is not None:
        started: Any = load_model(config.start)
        student = _with_weights(student, started, config.start) if student is not None else started.train()
    if not isinstance(student, Detector):
        raise InputError(f"config: detector: expected a detector such as DidM3D, got {type(student).__name__}")
    _check_geometry(config, student, "detector")
    return student


def build_training(config: RunConfig, student: Any) -> Training:
    """The Lightning module of a run, with its distiller if it has one."""
    distiller = recorder = None
    if (recipe := config.distillation) is not None:
        teacher: Any = load_model(recipe.teacher)
        _check_geometry(config, teacher, recipe.teacher)
        if teacher.classes != student.classes:
            raise InputError(
                f"{recipe.teacher}: expected the student's classes {', '.join(student.classes)} in this order, got "
                f"{', '.join(teacher.classes)}; train a teacher of these classes"
            )
        distiller = Distiller(
            student,
            teacher,
            taps=recipe.taps,
            terms=recipe.terms,
            fusion=recipe.fusion,
            teacher_batch_statistics=recipe.teacher_batch_statistics,
        )
        recorder = FlightRecorder(distiller, every=recipe.record_every) if recipe.record_every else None
    return Training(
        student,
        optimizer=config.optimizer,
        epochs=config.epochs,
        distiller=distiller,
        recorder=recorder,
        task_weights=TaskWeights.over(config.epochs) if config.task_learning else None,
        shifted_task_names=config.shifted_task_names,
        measurement=Measurement(classes=config.validation.classes, min_heights_px=config.validation.min_heights_px),
    )


def _detections(config: RunConfig, training: Training, *, resumed: bool) -> Path | None:
    """The folder of the teacher's detections on frames without labels, if the run has such frames."""
    if config.data.unlabelled is None:
        return None
    if training.distiller is None:
        raise InputError("config: data.unlabelled: expected `distillation`, whose teacher answers for them, got none")
    device = "cuda" if _on_cuda(config) else "cpu"
    return detect_unlabelled(training.distiller.teacher.to(device), config.data, config.out, keep=resumed)


def build_trainer(config: RunConfig, frames: Frames, *, history: list[dict[str, str]], text: str) -> pl.Trainer:
    """Lightning's trainer with our folder layout.

    history: the rows of `metrics.csv` from before a resumed run. text: of `config.yaml`.
    """
    out, every = config.out, config.validation.every
    terminal = sys.stderr.isatty()
    provenance = {"config": text, "seed": config.seed}
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        precision=config.precision,
        max_epochs=config.epochs,
        check_val_every_n_epoch=every or None,
        limit_val_batches=None if every else 0,
        gradient_clip_val=config.optimizer.gradient_clip,
        sync_batchnorm=config.devices > 1 and torch.cuda.is_available(),  # there is none for CPUs
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the training loader's is one already, and every device validates on all frames
        log_every_n_steps=min(
            config.log_every, config.epochs * max(frames.counts()["train"] // config.data.batch_size, 1)
        ),
        enable_model_summary=False,
        enable_progress_bar=terminal,
        logger=[_csv_logger(out, history), TensorBoardLogger(out, name="", version="")],
        plugins=[WholeCheckpoints()],
        callbacks=[
            ModelCheckpoint(
                out / "checkpoints", filename="last", save_on_train_epoch_end=True, enable_version_counter=False
            ),
            StopSignal(),
            ConfigFile(out, text),
            ModelFile(out, provenance),
            Manifest(out, seed=config.seed, frames=frames.counts(), step_images=frames.labelled + frames.further),
            *([RichProgressBar()] if terminal else [PlainLines()]),
        ],
    )


def _with_weights(detector: Any, started: Any, start: Path) -> Any:
    """The configured network with the weights of the model file `start`."""
    try:
        detector.load_state_dict(started.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"{start}: expected weights that fit the configured `detector`, got others ({reason}); leave `detector` "
            "out to take the file's own"
        ) from error
    return detector


def _check_geometry(config: RunConfig, detector: Any, where: str | Path) -> None:
    """Published quirks come together or not at all: the data that a network is fed and the way it is read."""
    geometry = "published" if config.data.published.per_axis_decoding else "corrected"
    if detector.config.geometry != geometry:
        raise InputError(
            f"{where}: expected geometry `{geometry}`, which goes with data.published.per_axis_decoding: "
            f"{geometry == 'published'}, got `{detector.config.geometry}`; change either"
        )


def _csv_logger(out: Path, history: list[dict[str, str]]) -> CSVLogger:
    """A logger whose `metrics.csv` begins with these rows; Lightning's own would forget them."""
    logger = CSVLogger(out, name="", version="")
    logger.experiment.metrics = history
    logger.save()
    return logger


def _check_data(loaded: LoadedConfig) -> None:
    """Are the data set and, if it is in KITTI's layout, its splits there?"""
    data = loaded.namespace.data
    if not loaded.root.is_dir():
        raise InputError(f"{loaded.root}: no such data set; set `--data.root` to a folder in KITTI layout")
    inside = {loaded.out.resolve(), *loaded.out.resolve().parents}
    if loaded.root.resolve() == loaded.out.resolve() or (loaded.root / "training").resolve() in inside:
        raise InputError(f"{loaded.out}: expected a folder outside the data set, got one in it; choose another `--out`")
    if data.dataset == DataConfig.dataset:
        for split in (data.train, data.val):
            read_split(KittiLayout(loaded.root).split(split))


def _on_cuda(config: RunConfig) -> bool:
    return config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _check_devices(config: RunConfig) -> None:
    """Lightning counts GPUs itself, but would start any number of processes on a CPU."""
    if not _on_cuda(config) and config.devices > cores():
        raise InputError(
            f"devices: expected at most {cores()}, for this machine has so many cores and no GPU in use, got "
            f"{config.devices}; lower `--devices`"
        )
    if config.data.batch_size % config.devices:
        raise InputError(
            f"data.batch_size: expected a whole number of images for each of {config.devices} devices, got "
            f"{config.data.batch_size} in all; change either"
        )


def _check_folder(out: Path, *, resume: Path | None) -> None:
    """Never write over a run, except to go on with it."""
    check_writable(out)
    if resume is not None and resume.resolve() == out.resolve():
        return
    if (out / "checkpoints" / "last.ckpt").exists():
        raise InputError(f"{out}: holds a run; go on with `--resume {out}` or choose another `--out`")
    if held := [name for name in _RUN_FILES if (out / name).exists()]:
        raise InputError(
            f"{out}: expected a new folder, got one with {held[0]}, as a run leaves that ended before its first whole "
            "epoch; choose another `--out`"
        )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Leave out Lightning's advice that does not apply to a run of ours, and nothing else."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    advice = (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*exists and is not empty.*",
        ".*isinstance.treespec, LeafSpec.*",
    )
    with warnings.catch_warnings():
        for message in advice:
            warnings.filterwarnings("ignore", message)
        yield
