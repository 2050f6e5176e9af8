"""A config becomes a run folder."""

import csv
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from monoskd.data.files import read_text
from monoskd.data.kitti_io import read_split
from monoskd.data.layout import KittiLayout
from monoskd.data.workers import cores
from monoskd.distill import Distiller, FlightRecorder
from monoskd.engine.callbacks import ConfigFile, Manifest, ModelFile, PlainLines, WholeCheckpoints
from monoskd.engine.config import DataConfig, LoadedConfig, RunConfig, dataset_class
from monoskd.engine.measure import Measurement
from monoskd.engine.schedule import TaskWeights
from monoskd.engine.training import Training
from monoskd.engine.unlabelled import MixedBatches, MixedFrames, detect_unlabelled
from monoskd.errors import InputError
from monoskd.models.checkpoints import read_checkpoint
from monoskd.models.weights import load_model
from monoskd.structures import Batch, Detector, Sample

_MAY_CHANGE = (
    *("out", "start", "data.root", "data.unlabelled.mapping", "distillation.teacher"),
    *("data.workers", "data.cache", "accelerator", "devices", "precision", "threads"),
    *("epochs", "optimizer", "validation", "log_every", "distillation.record_every"),
    *("data.unlabelled.threshold", "detector.init_args.config.pretrained"),
)
"""What a resumed run may have otherwise than it began: paths, how it is computed, how long, at which rate."""


_RUN_FILES = ("checkpoints", "model.safetensors", "config.yaml", "metrics.csv", "manifest.json")


def train(loaded: LoadedConfig, *, resume: Path | None = None) -> Path:
    """Train as configured; returns the run folder. `resume`: a run folder to go on from, at its last whole epoch.

    Raises InputError for data or model files that do not fit, KeyboardInterrupt once an interrupted run is saved.
    """
    checkpoint = _last_checkpoint(resume) if resume else None
    _check_folder(loaded.out, resume=resume)
    _check_data(loaded)  # before a network is made, which may download weights
    history = _history(checkpoint) if checkpoint else []
    if checkpoint and resume:
        _check_same_run(resume, loaded.text)
    pl.seed_everything(loaded.seed, workers=True, verbose=False)
    config = loaded.run(resumed=checkpoint is not None)
    _check_devices(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    student = build_student(config)
    training = build_training(config, student)
    frames = Frames(config, student, detections=_detections(config, training, resumed=checkpoint is not None))
    training.shape_adapters(Batch.collate([frames.train[0]]))
    if checkpoint:
        _check_checkpoint(checkpoint, training, epochs=config.epochs)
    config.out.mkdir(parents=True, exist_ok=True)
    with _quiet_lightning():
        try:
            trainer = build_trainer(config, frames, history, text=loaded.text)
        except (MisconfigurationException, ValueError, ImportError) as error:
            raise InputError(f"config: expected what this machine can do, got an objection: {error}") from error
        try:
            trainer.fit(training, datamodule=frames, ckpt_path=checkpoint, weights_only=True)
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


def build_trainer(config: RunConfig, frames: "Frames", history: list[dict[str, str]], *, text: str) -> pl.Trainer:
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
            ConfigFile(out, text),
            ModelFile(out, provenance),
            Manifest(out, seed=config.seed, frames=frames.counts(), step_images=frames.labelled + frames.further),
            *([RichProgressBar()] if terminal else [PlainLines()]),
        ],
    )


class Frames(pl.LightningDataModule):
    """The loaders of a run. The order of frames is a function of seed and epoch, so a resumed run sees the same.

    detections: the folder of the teacher's detections on the frames without labels, if there are any.
    """

    def __init__(self, config: RunConfig, student: Any, detections: Path | None = None) -> None:
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
        self.train: Any = build(
            config.data.root,
            split=config.data.train,
            augmentation=config.data.augmentation,
            seed=config.seed,
            depth=True,
            **common,
        )
        self.unlabelled: Any = None
        if (unlabelled := config.data.unlabelled) is not None:
            self.unlabelled = build(
                config.data.root,
                split=unlabelled.split,
                augmentation=unlabelled.augmentation,
                seed=config.seed,
                depth=True,
                detections=detections,
                soft=unlabelled.soft,
                **common,
            )
        self.val: Dataset[Sample] = build(
            config.data.root, split=config.data.val, depth=student.modality == "depth", **common
        )
        self._check()

    def _check(self) -> None:
        """What would make a run of no use, said before it begins."""
        config, counts = self.config, self.counts()
        if counts["train"] < config.batch_size:
            raise InputError(
                f"{config.root}: expected at least one batch of {config.batch_size} frames in split {config.train}, "
                f"got {counts['train']} frames; lower `--data.batch_size`"
            )
        named = [set(getattr(one, "frames", ())) for one in (self.train, self.val)]  # one's own data set may name none
        if config.train != config.val and (both := named[0] & named[1]):
            raise InputError(
                f"{config.root}: expected no frame of split {config.train} in split {config.val}, got {len(both)} "
                f"(the first is {min(both)}): take them out of one, or say so with `--data.val {config.train}`"
            )
        if config.unlabelled is not None and self.further != self.labelled * config.unlabelled.ratio:
            raise InputError(
                f"data.unlabelled.ratio: expected a whole number of frames without labels beside the {self.labelled} "
                f"labelled ones of a step, got {self.labelled * config.unlabelled.ratio:g}: change it or the batch"
            )

    def counts(self) -> dict[str, int]:
        """Frames of each split."""
        further = {} if self.unlabelled is None else {"unlabelled": len(self.unlabelled)}
        return {"train": len(self.train), "val": len(self.val), **further}  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled by seed and epoch, whole batches only; frames without labels come after those with."""
        assert self.trainer is not None
        sampler: DistributedSampler[Sample] = DistributedSampler(
            self.train,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=True,
            seed=self.seed,
        )
        if self.unlabelled is None:
            return self._loader(self.train, batch_size=self.labelled, sampler=sampler, drop_last=True)
        batches = MixedBatches(sampler, self.labelled, unlabelled=len(self.unlabelled), further=self.further)
        return self._loader(MixedFrames(self.train, self.unlabelled), batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Every frame, in order."""
        return self._loader(self.val, batch_size=self.labelled)

    @property
    def labelled(self) -> int:
        """Labelled images a step and device."""
        return max(self.config.batch_size // self.devices, 1)

    @property
    def further(self) -> int:
        """Images without labels a step and device."""
        return 0 if self.config.unlabelled is None else max(round(self.labelled * self.config.unlabelled.ratio), 1)

    def _loader(self, dataset: Dataset[Sample], **options: Any) -> DataLoader[Sample]:
        options = {"num_workers": self.config.workers, "persistent_workers": False, **options}
        return DataLoader(dataset, collate_fn=Batch.collate, **options)


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


def _history(checkpoint: Path) -> list[dict[str, str]]:
    """What the run's `metrics.csv` says of the steps before the checkpoint; later ones are about to be repeated."""
    state, path = read_checkpoint(checkpoint), checkpoint.parents[1] / "metrics.csv"
    if not isinstance(steps := state.get("global_step"), int):
        raise InputError(f"{checkpoint}: expected a run's checkpoint, got one without its number of steps")
    try:
        rows = list(csv.DictReader(read_text(path).splitlines())) if path.exists() else []
        whole = all(None not in row and re.fullmatch("[0-9]{1,18}", row.get("step") or "") for row in rows)
    except csv.Error:
        whole = False
    if not whole:
        raise InputError(f"{path}: expected a step in every row, got a damaged file: mend it or move it away")
    return [row for row in rows if int(row["step"]) < steps]


def _check_checkpoint(path: Path, training: Training, *, epochs: int) -> None:
    """Does the checkpoint hold what this run is made of, and is there anything left to do?"""
    state = read_checkpoint(path)
    needed = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "weights")
    if lacking := [name for name in (*needed, "pytorch-lightning_version") if name not in state]:
        raise InputError(f"{path}: expected a run's checkpoint, got one without {lacking[0]}: it is damaged")
    found, wanted = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for tensors in (state["state_dict"], training.state_dict())
    )
    if odd := sorted(name for name in found | wanted if found.get(name) != wanted.get(name)):
        raise InputError(
            f"{path}: expected the tensors of this run's network, got {odd[0]} of shape {found.get(odd[0])} instead of "
            f"{wanted.get(odd[0])}: it is another network's"
        )
    if state["epoch"] >= epochs:
        raise InputError(
            f"{path}: expected less than the {epochs} epochs of the config behind it, got {state['epoch'] + 1}: raise "
            "`--epochs`"
        )


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


def _check_same_run(run: Path, text: str) -> None:
    """A run goes on as it began, but for `_MAY_CHANGE`."""
    try:
        before = _settings(read_text(run / "config.yaml"))
    except yaml.YAMLError as error:
        raise InputError(f"{run / 'config.yaml'}: expected the run's config, got no YAML: put it back") from error
    now = _settings(text)
    odd = [key for key in before | now if before.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE)]
    if odd:
        raise InputError(
            f"{run}: expected the config that the run began with, got {odd[0]}: {now.get(odd[0])} instead of "
            f"{before.get(odd[0])}; resume with {run / 'config.yaml'}, or begin another run in another `--out`"
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
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        found = "one that cannot be written to" if there.is_dir() else "a file"
        raise InputError(f"{out}: expected a folder for the run, got {found} at {there}; choose another `--out`")
    if resume is not None and resume.resolve() == out.resolve():
        return
    if (out / "checkpoints" / "last.ckpt").exists():
        raise InputError(f"{out}: holds a run; go on with `--resume {out}` or choose another `--out`")
    if held := [name for name in _RUN_FILES if (out / name).exists()]:
        raise InputError(
            f"{out}: expected a new folder, got one with {held[0]}, as a run leaves that ended before its first whole "
            "epoch; choose another `--out`"
        )


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
