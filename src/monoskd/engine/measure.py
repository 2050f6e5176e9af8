"""Measuring a detector: an evaluator's numbers, and the detector's own errors at the labelled objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from monoskd.data.samples import Samples
from monoskd.evaluation.evaluator import Evaluator, KittiEvaluator
from monoskd.evaluation.quality import best_score
from monoskd.frames import shown
from monoskd.kitti.source import KittiFrames
from monoskd.objects import MIN_HEIGHT_PX, Objects
from monoskd.structures import Batch, Detector, PublishedData

T = TypeVar("T")


@dataclass
class Measurement:
    """Collects frames, then evaluates them.

    errors: the values of `Detector.metrics` at every labelled object by name, detected or not, so that all detectors
    are measured on the same objects. min_height_px: lower objects do not count for `best_score`.
    """

    evaluator: Evaluator = field(default_factory=KittiEvaluator)
    truth: list[Objects] = field(default_factory=list)
    detections: list[Objects] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=dict)
    min_height_px: float = MIN_HEIGHT_PX

    def best_score(self, classes: Sequence[str]) -> float | None:
        """The least score that is worth showing: see `monoskd.evaluation.quality.best_score`."""
        return best_score(self.truth, self.detections, classes=classes, min_height_px=self.min_height_px)

    def statistics(self) -> dict[str, dict[str, float]]:
        """Median and mean of each error by name."""
        return {
            name: {"median": float(np.median(values)), "mean": float(np.mean(values))}
            for name, values in self.errors.items()
            if values
        }

    def depth_error_m(self) -> dict[str, float | None]:
        """Median and mean of the depth errors [m]; None without objects."""
        return {"median": None, "mean": None, **self.statistics().get("depth_error_m", {})}

    def summary(self) -> dict[str, float]:
        """Numbers for a log: the evaluator's, then median and mean of each error."""
        errors = {f"{name}_{key}": value for name, row in self.statistics().items() for key, value in row.items()}
        return {**self.evaluator.summary(self.truth, self.detections), **errors}

    def of_all_processes(self, *, frames: int) -> "Measurement":
        """What all processes have measured together, each of the `frames` frames once.

        Process r of w has measured the frames r, r + w, ...; one without a frame has measured the first, which another
        has as well (see `Frames.val_dataloader`).
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        if torch.distributed.get_rank() >= frames:
            self.clear()
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self)
        errors: dict[str, list[float]] = {}
        for part in parts:
            for name, values in part.errors.items():
                errors.setdefault(name, []).extend(values)
        return Measurement(
            self.evaluator,
            truth=_in_turn([part.truth for part in parts]),
            detections=_in_turn([part.detections for part in parts]),
            errors=errors,
            min_height_px=self.min_height_px,
        )

    def clear(self) -> None:
        """Forget the frames."""
        self.truth.clear()
        self.detections.clear()
        self.errors.clear()


def _in_turn(rows: list[list[T]]) -> list[T]:
    """The first of each, then the second of each, and so on."""
    return [row[number] for number in range(max(map(len, rows))) for row in rows if number < len(row)]


@torch.no_grad()
def measure_batch(detector: Detector, batch: Batch, measurement: Measurement) -> None:
    """Detect on a labelled batch as at inference, and add detections, labels and errors to `measurement`."""
    views = batch.views(detector.modality)
    output = detector(views)
    detections = shown(detector.decode(output, views), batch.picture_sizes, published=detector.published_input)
    measurement.detections += [rows.to_objects() for rows in detections]
    measurement.truth += [objects if objects is not None else Objects.empty() for objects in batch.objects]
    if batch.targets is not None and len(batch.targets.image):
        for name, values in detector.metrics(output, batch.targets, views).items():
            measurement.errors.setdefault(name, []).extend(values.tolist())


def measure(
    detector: Detector,
    batches: DataLoader[Any],
    measurement: Measurement,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measurement:
    """Measure a detector on labelled batches, in eval mode, on the device where it is.

    progress: called with (batches done, batches in all).
    """
    device = next(detector.parameters()).device
    detector.eval()
    for done, batch in enumerate(batches, start=1):
        measure_batch(detector, batch.to(device), measurement)
        progress(done, len(batches))
    return measurement


def labelled_batches(
    detector: Detector,
    root: Path,
    *,
    split: str,
    source: Callable[..., Any] = KittiFrames,
    batch_size: int = 8,
    min_height_px: float = MIN_HEIGHT_PX,
) -> DataLoader[Any]:
    """Every labelled frame of a split, in order, as this detector wants it. source: a class of `FrameSource`s."""
    published = PublishedData.all() if detector.published_input else PublishedData()
    samples = Samples(
        source(root, split=split, depth=detector.modality != "rgb", labels=True),
        input_size=detector.input_size,
        targets=detector.target_maker(min_height_px=min_height_px, published=published),
        published=published,
    )
    return DataLoader(samples, batch_size=batch_size, collate_fn=Batch.collate)
