"""A run as typed, frozen settings. `monoskd.engine.load` makes them of YAML and of options on the command line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import nn

from monoskd.data.transforms import Augmentation
from monoskd.distill import Tap, Term
from monoskd.engine.schedule import LearningRateSchedule
from monoskd.errors import InputError
from monoskd.evaluation.evaluator import Evaluator
from monoskd.evaluation.rules import MIN_HEIGHTS_PX, NEIGHBOURS
from monoskd.models.named import named
from monoskd.objects import MIN_HEIGHT_PX
from monoskd.structures import Detector, FrameSource, PublishedData

_MOST_THREADS = 1024


# Of frames without labels: stronger in colour than on labelled frames, as is usual for pseudo-labels.
STRONGER = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4)


@dataclass(frozen=True)
class UnlabelledConfig:
    """Frames without labels, for which the teacher makes pseudo-labels.

    The frozen teacher runs once on each clean frame before the training. Its detections are kept in the run folder as
    result files, with a record of their quality. `ResponseLoss` and every other term can learn from them.

    Args:
        split: a name in `ImageSets/`, of frames with image, calib and depth map but no label.
        ratio: frames without labels for each labelled one in a step, so that the step has a whole number of them;
            `data.batch_size` counts the labelled ones.
        soft: the teacher's scores weigh its detections; false: they count as labels (plain pseudo-labelling).
        threshold: least score of a detection.
        thresholds: other least scores for single classes of the teacher, by name.
        augmentation: of what the student sees; null for none.
        mapping: folder of the KITTI devkit's mapping files, to check that no frame is of a validation drive.
    """

    split: str = "unlabelled"
    ratio: float = 1.0
    soft: bool = True
    threshold: float = 0.3
    thresholds: dict[str, float] = field(default_factory=dict)
    augmentation: Augmentation | None = STRONGER
    mapping: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio < math.inf:
            raise InputError(f"data.unlabelled.ratio: expected more than 0, got {self.ratio}; leave it out for 1")
        for name, value in {"threshold": self.threshold, **self.thresholds}.items():
            if not 0 <= value <= 1:
                raise InputError(f"data.unlabelled: threshold {name}: expected a score from 0 to 1, got {value}")


@dataclass(frozen=True)
class DataConfig:
    """Where the frames are and how they are fed.

    Args:
        root: folder with `training/` and `ImageSets/` in KITTI layout.
        train: split to train on, a name in `ImageSets/`.
        val: split to validate on.
        unlabelled: further frames, for which a teacher makes pseudo-labels; null for none.
        dataset: class of the recording by dotted path, a `FrameSource` (docs/extend.md).
        depth: whether training frames have depth maps; false for recordings without LiDAR (docs/training.md).
        batch_size: images a step, over all devices together.
        workers: loader processes a device; 0 loads in the training process; null: on GPUs as many as there are cores
            for each, 16 at most, else 2.
        cache: keep decoded frames in a temporary file, which all loader processes share: 3 MB for one of KITTI's size.
        min_height_px: least height of the 2D boxes of supervised objects; scale it with pictures smaller than KITTI's.
        augmentation: of each training frame; null for none.
        published: quirks of the published data pipeline; none by default.
    """

    root: Path
    train: str = "train"
    val: str = "val"
    unlabelled: UnlabelledConfig | None = None
    dataset: str = "monoskd.kitti.source.KittiFrames"
    depth: bool = True
    batch_size: int = 16
    workers: int | None = None
    cache: bool = False
    min_height_px: float = MIN_HEIGHT_PX
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    published: PublishedData = field(default_factory=PublishedData)

    def __post_init__(self) -> None:
        _at_least(1, {"data.batch_size": self.batch_size})
        _at_least(0, {"data.workers": self.workers or 0, "data.min_height_px": self.min_height_px})


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with decoupled groups, as published: decay on weights, none on biases.

    Args:
        schedule: the learning rate over the epochs.
        weight_decay: L2 penalty on every parameter that is not a bias.
        decoupled_decay: weights shrink by rate x weight_decay at each step instead (AdamW).
        gradient_clip: largest gradient norm; null for no limit.
        ema: decay a step of the average of the weights that is validated and kept in the model file, such as 0.998;
            null keeps the weights themselves. A run much shorter than 1 / (1 - ema) steps is no more than its start.
    """

    schedule: LearningRateSchedule = field(default_factory=LearningRateSchedule)
    weight_decay: float = 1e-5
    decoupled_decay: bool = False
    gradient_clip: float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"optimizer.ema: expected more than 0 and less than 1, got {self.ema}; null for none")
        _at_least(0, {"optimizer.weight_decay": self.weight_decay, "optimizer.gradient_clip": self.gradient_clip or 0})


@dataclass(frozen=True)
class DistillationConfig:
    """What the student learns from the teacher.

    Args:
        teacher: model file of the trained teacher.
        taps: pairs of module paths whose outputs are compared.
        terms: named terms with weights and schedules.
        fusion: a module over the student's tapped maps, before the adapters (MonoDistill).
        teacher_batch_statistics: published quirk: the teacher in train mode, with drifting BatchNorm buffers.
        teacher_precision: "bf16-mixed" runs the teacher in bfloat16, channels last, whatever the student's precision
            but 64-true, where the machine has instructions for it; null: in the student's.
        record_every: steps between two entries of the flight recorder; 0 switches it off.
    """

    teacher: Path
    taps: list[Tap]
    terms: dict[str, Term]
    fusion: nn.Module | None = None
    teacher_batch_statistics: bool = False
    teacher_precision: Literal["bf16-mixed"] | None = None
    record_every: int = 50

    def __post_init__(self) -> None:
        _at_least(0, {"distillation.record_every": self.record_every})


@dataclass(frozen=True)
class ValidationConfig:
    """How a run is validated.

    Args:
        every: epochs between two evaluations; 0 for none.
        classes: classes in the log, for KITTI's evaluator.
        min_heights_px: least 2D heights of easy, moderate, hard objects, for KITTI's evaluator; scale them for small
            images.
        evaluator: another metric by `class_path` (docs/extend.md); null for KITTI's average precision.
    """

    every: int = 10
    classes: tuple[str, ...] = tuple(NEIGHBOURS)
    min_heights_px: tuple[float, float, float] = MIN_HEIGHTS_PX
    evaluator: Evaluator | None = None

    def __post_init__(self) -> None:
        _at_least(0, {"validation.every": self.every})


@dataclass(frozen=True)
class StartConfig:
    """What a run begins with.

    Args:
        model: model file to begin with, such as a converged student; null for a new network.
        inherit: model file of a network of the same class, such as the teacher, from which all but the backbone (neck
            and heads) is taken; the backbone is new, pretrained, or from `model`.
    """

    model: Path | None = None
    inherit: Path | None = None


@dataclass(frozen=True)
class RunConfig:
    """One training run.

    Args:
        data: the frames.
        out: run folder.
        detector: a new network by `class_path`; null to take the architecture of `start`.
        start: model file to begin with, such as a converged student; or `model` and `inherit`, see `StartConfig`.
        distillation: null to train alone.
        optimizer: Adam and its schedule.
        epochs: passes over the training split.
        task_learning: weigh 3D tasks by hierarchical task learning; all tasks weigh 1 otherwise.
        shifted_task_names: published quirk: under distillation, task learning reads other losses than it names.
        validation: how it is validated while it trains.
        log_every: steps between two lines of `metrics.csv`.
        seed: of weights, order of frames, augmentation and workers.
        accelerator: "auto", "cpu", "gpu", ...
        devices: how many of them, on each machine.
        nodes: machines that train together, started by torchrun or Slurm (docs/training.md).
        precision: Lightning's, such as "32-true" or "16-mixed".
        channels_last: keep networks in this layout. None: in half precision, where it halves a step. In float32 narrow
            networks on CPUs train faster with it, wide ones slower on some (docs/cost.md).
        threads: torch's CPU threads; 0 leaves them alone.
    """

    data: DataConfig
    out: Path
    detector: Detector | None = None
    start: Path | StartConfig | None = None
    distillation: DistillationConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 150
    task_learning: bool = True
    shifted_task_names: bool = False
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    log_every: int = 10
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"] = "32-true"
    channels_last: bool | None = None
    threads: int = 0

    @property
    def beginning(self) -> StartConfig:
        """`start` in its long form."""
        return self.start if isinstance(self.start, StartConfig) else StartConfig(self.start)

    def __post_init__(self) -> None:
        _at_least(1, {"epochs": self.epochs, "log_every": self.log_every, "devices": self.devices, "nodes": self.nodes})
        _at_least(0, {"threads": self.threads})
        if self.threads > _MOST_THREADS:
            raise InputError(f"threads: expected at most {_MOST_THREADS}, got {self.threads}")

    @property
    def processes(self) -> int:
        """One for each device of all machines."""
        return self.nodes * self.devices


def _at_least(least: float, values: Mapping[str, float]) -> None:
    """Raise one InputError for all values that are smaller, or NaN."""
    if lines := [
        f"{name}: expected at least {least}, got {value}" for name, value in values.items() if not value >= least
    ]:
        raise InputError(" | ".join(lines))


def source_class(dotted_path: str) -> type[FrameSource]:
    """The class that `data.dataset` names."""
    try:
        source = named(dotted_path, words=("monoskd",))
    except InputError as error:
        raise InputError(f"data.dataset: expected an importable class, got {dotted_path!r} ({error})") from error
    if not (isinstance(source, type) and issubclass(source, FrameSource)):
        raise InputError(f"data.dataset: expected a FrameSource such as {DataConfig.dataset}, got {dotted_path!r}")
    return source
