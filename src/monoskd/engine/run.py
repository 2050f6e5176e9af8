"""A config becomes a run folder."""

import csv
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from monoskd.distill import Distiller, FlightRecorder
from monoskd.engine.callbacks import Manifest, ModelFile, PlainLines
from monoskd.engine.config import LoadedConfig, RunConfig, dataset_class
from monoskd.engine.measure import Measurement
from monoskd.engine.schedule import TaskWeights
from monoskd.engine.training import Training
from monoskd.errors import InputError
from monoskd.models.weights import load_model
from monoskd.structures import Batch, Sample


def train(loaded: LoadedConfig, *, resume: Path | None = None) -> Path:
    """Train as configured; returns the run folder. `resume`: a run folder to go on from, at its last whole epoch.

    Raises InputError for data or model files that do not fit, KeyboardInterrupt once an interrupted run is saved.
    """
    pl.seed_everything(loaded.seed, workers=True, verbose=False)
    config = loaded.run()
    if config.threads:
        torch.set_num_threads(config.threads)
    checkpoint = _last_checkpoint(resume) if resume else None
    if checkpoint is None and (config.out / "checkpoints").exists():
        raise InputError(f"{config.out}: holds a run; go on with `--resume {config.out}` or choose another `--out`")
    frames = Frames(config, student := build_student(config))
    training = build_training(config, student)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "config.yaml").write_text(loaded.text)
    with _quiet_lightning():
        trainer = build_trainer(config, frames)
        try:
            trainer.fit(training, datamodule=frames, ckpt_path=checkpoint, weights_only=False)
        except SystemExit as stop:  # Lightning's word for an interruption, after its callbacks have saved
            raise KeyboardInterrupt from stop
    return config.out


def build_student(config: RunConfig) -> Any:
    """The network to train: new, or from a model file."""
    if config.start is None and config.detector is None:
        raise InputError("config: expected `detector` (a new network) or `start` (a model file), got neither")
    if config.start is None:
        assert config.detector is not None
        return config.detector
    started: Any = load_model(config.start)
    if config.detector is not None:
        config.detector.load_state_dict(started.state_dict())
        return config.detector
    return started.train()


def build_training(config: RunConfig, student: Any) -> Training:
    """The Lightning module of a run, with its distiller if it has one."""
    distiller = recorder = None
    if (recipe := config.distillation) is not None:
        teacher: Any = load_model(recipe.teacher)
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


def build_trainer(config: RunConfig, frames: "Frames") -> pl.Trainer:
    """Lightning's trainer with our folder layout."""
    out, every = config.out, config.validation.every
    terminal = sys.stderr.isatty()
    provenance = {"config": (out / "config.yaml").read_text(), "seed": config.seed}
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        precision=config.precision,
        max_epochs=config.epochs,
        check_val_every_n_epoch=every or None,
        limit_val_batches=None if every else 0,
        gradient_clip_val=config.optimizer.gradient_clip,
        sync_batchnorm=config.devices > 1,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log_every,
        enable_model_summary=False,
        enable_progress_bar=terminal,
        logger=[_csv_logger(out), TensorBoardLogger(out, name="", version="")],
        callbacks=[
            ModelCheckpoint(
                out / "checkpoints", filename="last", save_on_train_epoch_end=True, enable_version_counter=False
            ),
            ModelFile(out, provenance),
            Manifest(out, seed=config.seed, frames=frames.counts()),
            *([RichProgressBar()] if terminal else [PlainLines()]),
        ],
    )


class Frames(pl.LightningDataModule):
    """The loaders of a run. The order of frames is a function of seed and epoch, so a resumed run sees the same."""

    def __init__(self, config: RunConfig, student: Any) -> None:
        super().__init__()
        self.config = config.data
        self.seed = config.seed
        self.devices = config.devices
        build = dataset_class(config.data.dataset)
        common: dict[str, Any] = {
            "input_size": student.input_size,
            "classes": student.classes,
            "mean_sizes": student.config.mean_sizes,
            "published": config.data.published,
            "min_height_px": config.data.min_height_px,
            "cache": config.data.cache,
        }
        # Even a student that sees no depth maps is trained with them: the targets' visual depth is read from them.
        self.train: Dataset[Sample] = build(
            config.data.root,
            split=config.data.train,
            augmentation=config.data.augmentation,
            seed=config.seed,
            depth=True,
            **common,
        )
        self.val: Dataset[Sample] = build(
            config.data.root, split=config.data.val, depth=student.modality == "depth", **common
        )

    def counts(self) -> dict[str, int]:
        """Frames of each split."""
        return {"train": len(self.train), "val": len(self.val)}  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled by seed and epoch, whole batches only."""
        assert self.trainer is not None
        sampler: DistributedSampler[Sample] = DistributedSampler(
            self.train,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=True,
            seed=self.seed,
        )
        return self._loader(self.train, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Every frame, in order."""
        return self._loader(self.val)

    def _loader(self, dataset: Dataset[Sample], **options: Any) -> DataLoader[Sample]:
        size = max(self.config.batch_size // self.devices, 1)
        options = {"num_workers": self.config.workers, "persistent_workers": False, **options}
        return DataLoader(dataset, batch_size=size, collate_fn=Batch.collate, **options)


def _csv_logger(out: Path) -> CSVLogger:
    """A logger that goes on where the `metrics.csv` of a resumed run stopped; Lightning's own would begin anew."""
    path = out / "metrics.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    logger = CSVLogger(out, name="", version="")
    logger.experiment.metrics = rows
    return logger


def _last_checkpoint(run: Path) -> Path:
    checkpoint = run / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        raise InputError(f"{run}: expected a run folder with checkpoints/last.ckpt to resume from, found none")
    return checkpoint


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
