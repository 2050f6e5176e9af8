"""A config becomes a run folder, in three steps: check, build, fit."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from monoskd.data.lost import naming_lost_frames
from monoskd.data.samples import typical_focal_px
from monoskd.distill import Distiller, FlightRecorder
from monoskd.engine.averaging import AveragedWeights
from monoskd.engine.callbacks import (
    ConfigFile,
    Manifest,
    ModelFile,
    PlainLines,
    StopSignal,
    Waiting,
    WholeCheckpoints,
    say,
)
from monoskd.engine.check import Plan, check, on_cuda, process_number
from monoskd.engine.config import RunConfig
from monoskd.engine.frames import Frames
from monoskd.engine.load import LoadedConfig
from monoskd.engine.log import WholeLog, csv_logger
from monoskd.engine.machine import (
    Doubles,
    alone,
    channels_last_of,
    cluster_of,
    first_error,
    loader_processes,
    one_line,
    precision_of,
    runs_in_bfloat16,
    teacher_in_bfloat16,
)
from monoskd.engine.measure import Measurement
from monoskd.engine.processes import Children, agreed, join, secondary, take_notes
from monoskd.engine.resume import Past
from monoskd.engine.run_folder import CHECKPOINT, MANIFEST, MANIFEST_SCHEMA, METRICS, PSEUDO_LABELS
from monoskd.engine.schedule import TaskWeights
from monoskd.engine.start import build_student, check_input
from monoskd.engine.training import Training
from monoskd.engine.unlabelled import detect_unlabelled
from monoskd.errors import InputError
from monoskd.evaluation.evaluator import KittiEvaluator
from monoskd.files import remove_partial_files, write_json
from monoskd.models.weights import load_model
from monoskd.structures import Batch, Detector


def train(loaded: LoadedConfig, *, resume: Path | None = None, on_start: Callable[[], object] = lambda: None) -> Path:
    """Train as configured; returns the run folder.

    resume: a run folder to go on from, at its last whole epoch. on_start: called once all is prepared.
    Raises InputError for data or model files that do not fit, for a full disk and for a loader process that the system
    ends; KeyboardInterrupt once an interrupted run is saved.
    """
    join(loaded.settings())
    plan = agreed(partial(check, loaded, resume=resume))
    with _first(loaded.out) if not process_number() else secondary(loaded.out):
        run = build(plan)
        on_start()
        return fit(run)


@contextmanager
def _first(out: Path) -> Iterator[None]:
    """What process 0 does: it holds the run folder and speaks for all."""
    with one_line(out), alone(out):
        yield


@dataclass(frozen=True)
class Run:
    """The parts of a training. text: of `config.yaml`."""

    config: RunConfig
    text: str
    training: Training
    frames: Frames
    past: Past | None


def build(plan: Plan) -> Run:
    """Make the networks, the loaders and, where there are frames without labels, the teacher's pseudo-labels."""
    pl.seed_everything(plan.loaded.seed, workers=True, verbose=False)
    config = plan.loaded.run(resumed=plan.past is not None)
    config = replace(config, data=replace(config.data, workers=loader_processes(config)))
    if config.threads:
        torch.set_num_threads(config.threads)
    student = build_student(config)
    notes = plan.sources.check_supervised(config.data, student)
    if config.distillation is not None and student.modality != "rgb":
        notes.append(
            "student: it reads depth maps, and `predict` takes networks on pictures alone; are `start` and "
            "`distillation.teacher` swapped?"
        )
    typical = plan.sources.typical_frames(config.data)
    student.adapt_to(**typical_focal_px(typical, input_size=student.input_size))
    training = build_training(config, student)
    _begin(plan, config)
    if not process_number():
        for line in notes:
            say(line)
    detections = None
    if config.data.unlabelled is not None and training.distiller is not None:
        teacher, keep = training.distiller.teacher, plan.past is not None or plan.anew
        assert isinstance(teacher, Detector)
        detections = partial(detect_unlabelled, teacher, config.data, plan.sources, config.out, keep=keep)
    first_epoch = 0 if plan.past is None else plan.past.epoch + 1
    frames = Frames(config, student, plan.sources, detections=detections, first_epoch=first_epoch)
    training.shape_adapters(Batch.collate([frames.train[0]]))
    if plan.past is not None:
        plan.past.check(training, epochs=config.epochs)
    if config.precision == "64-true":
        training.double()  # Lightning does so too, but after it has read the weights of a checkpoint into float32
    return Run(config, plan.loaded.text, training, frames, plan.past)


@rank_zero_only
def _begin(plan: Plan, config: RunConfig) -> None:
    """Mark the folder as a run's, clear what killed runs left in it, and print what is not as expected."""
    out = config.out
    say(f"run folder: {out}")
    for folder in (out, out / CHECKPOINT.parent, out / PSEUDO_LABELS):
        remove_partial_files(folder)
    leftovers = [*(out / CHECKPOINT.parent).glob("*.part")]  # of earlier versions
    take_notes(out)
    if plan.past is None:
        if plan.anew:
            say(f"{out}: the run in this folder ended before its first whole epoch; it begins anew")
            leftovers += [out / METRICS, *out.glob("events.out.tfevents.*")]
        write_json(out / MANIFEST, {"schema": MANIFEST_SCHEMA, "finished": False, "steps": 0, "epochs": 0})
    else:
        if plan.past.note:
            say(plan.past.note)
        if plan.past.epoch + 1 == config.epochs:
            say(f"{out}: all {config.epochs} epochs are done; raise `--epochs` to train on")
    for path in leftovers:
        path.unlink(missing_ok=True)
    if unreached := config.optimizer.schedule.unreached(config.epochs):
        say(f"optimizer.schedule: {unreached}")
    if precision_of(config) != config.precision:
        say(f"precision: a CPU has no {config.precision}; the run uses {precision_of(config)}")
    missing, recipe = "this machine has no instructions for bfloat16", config.distillation
    if precision_of(config) == "bf16-mixed":
        if not runs_in_bfloat16(config):
            say(f"precision: {missing}; 32-true is faster here")
    elif recipe is not None and recipe.teacher_precision is not None and not teacher_in_bfloat16(config):
        why = "64-true is for all networks" if config.precision == "64-true" else missing
        say(f"teacher_precision: {why}; the teacher runs as the student does")


def fit(run: Run) -> Path:
    """Train to the end; returns the run folder."""
    run.config.out.mkdir(parents=True, exist_ok=True)
    with _quiet_lightning():
        try:
            trainer = build_trainer(run.config, run.frames, history=run.past.rows if run.past else [], text=run.text)
        except (MisconfigurationException, ValueError, ImportError) as error:
            raise InputError(f"config: expected what this machine can do, got an objection: {error}") from error
        try:
            checkpoint = run.past.checkpoint if run.past else None
            lost = naming_lost_frames(run.frames.train, run.frames.val, run.frames.unlabelled)
            with lost, Children(trainer.strategy.launcher, run.config.out), first_error():
                trainer.fit(run.training, datamodule=run.frames, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as stop:  # Lightning raises this for an interruption, after its callbacks have saved
            raise KeyboardInterrupt from stop
        except InputError as error:  # a loader process puts its traceback before the line
            raise InputError(str(error).strip().rpartition("InputError: ")[2]) from error
    return run.config.out


def build_training(config: RunConfig, student: Detector) -> Training:
    """The Lightning module of a run, with its distiller if it has one."""
    distiller = recorder = None
    last = channels_last_of(config)
    if (recipe := config.distillation) is not None:
        teacher = load_model(recipe.teacher)
        check_input(config, teacher, recipe.teacher)
        if teacher.classes != student.classes:
            raise InputError(
                f"{recipe.teacher}: expected the student's classes {', '.join(student.classes)} in this order, got "
                f"{', '.join(teacher.classes)}; train a teacher of these classes"
            )
        in_half = teacher_in_bfloat16(config)
        if last or in_half:
            teacher.to(memory_format=torch.channels_last)
        distiller = Distiller(
            student,
            teacher,
            taps=recipe.taps,
            terms=recipe.terms,
            fusion=recipe.fusion,
            teacher_batch_statistics=recipe.teacher_batch_statistics,
            teacher_dtype=torch.bfloat16 if in_half else None,
        )
        if recipe.record_every and recipe.taps:  # it measures at taps
            recorder = FlightRecorder(distiller, every=recipe.record_every)
    if last:
        student.to(memory_format=torch.channels_last)
    validation = config.validation
    evaluator = validation.evaluator or KittiEvaluator(validation.classes, validation.min_heights_px)
    graph = student.task_graph if config.task_learning else {}
    return Training(
        student,
        optimizer=config.optimizer,
        epochs=config.epochs,
        distiller=distiller,
        recorder=recorder,
        task_weights=TaskWeights.over(config.epochs, graph) if graph else None,
        shifted_task_names=config.shifted_task_names,
        measurement=Measurement(evaluator, min_height_px=config.data.min_height_px),
    )


def build_trainer(config: RunConfig, frames: Frames, *, history: list[dict[str, str]], text: str) -> pl.Trainer:
    """Lightning's trainer with our folder layout.

    history: the rows of `metrics.csv` from before a resumed run. text: of `config.yaml`.
    """
    out, every = config.out, config.validation.every
    terminal = sys.stderr.isatty()
    provenance = {"config": text, "seed": config.seed}
    return pl.Trainer(
        default_root_dir=out / MANIFEST,  # not a folder: under Slurm Lightning takes any hpc_ckpt_*.ckpt from there
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        precision=None if config.precision == "64-true" else precision_of(config),  # type: ignore[arg-type]
        max_epochs=config.epochs,
        check_val_every_n_epoch=every or None,
        limit_val_batches=None if every else 0,
        gradient_clip_val=config.optimizer.gradient_clip,
        sync_batchnorm=config.processes > 1 and on_cuda(config),  # there is none for CPUs
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the loaders share the frames out themselves
        log_every_n_steps=min(
            config.log_every, config.epochs * max(frames.counts()["train"] // config.data.batch_size, 1)
        ),
        enable_model_summary=False,
        enable_progress_bar=terminal,
        logger=[csv_logger(out / METRICS, history), TensorBoardLogger(out, name="", version="")],
        plugins=[WholeCheckpoints(), *cluster_of(config), *([Doubles()] if config.precision == "64-true" else [])],
        callbacks=[
            ModelCheckpoint(
                out / CHECKPOINT.parent,
                filename=CHECKPOINT.stem,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
            StopSignal(),
            ConfigFile(out, text),
            *([AveragedWeights(config.optimizer.ema)] if config.optimizer.ema else []),
            ModelFile(out, provenance),
            Manifest(out, seed=config.seed, frames=frames.counts(), step_images=frames.labelled + frames.further),
            WholeLog(out / METRICS),
            Waiting(workers=config.data.workers or 0, cached=config.data.cache),
            PlainLines(epochs=not terminal),
            *([RichProgressBar()] if terminal else []),
        ],
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence the advice of Lightning that does not apply to these runs, and nothing else."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    advice = (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*exists and is not empty.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*The dirpath has changed.*",  # a run folder that was moved resumes as well
        ".*`srun` command is available.*",
        ".*sync_dist=True.*",  # the values are equal on all devices
        "Grad strides do not match bucket view strides.*",  # of 1 x 1 convolutions; a matter of speed
    )
    with warnings.catch_warnings():
        for message in advice:
            warnings.filterwarnings("ignore", message)
        yield
