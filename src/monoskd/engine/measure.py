"""How good a detector is: average precision, and the depth error at the true peaks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from monoskd.data.kitti import KittiDataset
from monoskd.data.transforms import PublishedData
from monoskd.evaluation.kitti_ap import Evaluation, evaluate_kitti
from monoskd.models.did_m3d.decode import merge_depth
from monoskd.models.weights import load_model
from monoskd.objects import MIN_HEIGHT_PX, Objects
from monoskd.structures import Batch

CLASSES = ("Pedestrian", "Car", "Cyclist")


@dataclass
class Measurement:
    """Adds up frames, then evaluates them.

    classes: the classes in the tables. min_heights_px: least 2D heights of easy, moderate and hard objects.
    depth_errors_m: |predicted - true z| at every true peak, so that every detector is judged on the same objects.
    """

    classes: tuple[str, ...] = CLASSES
    min_heights_px: tuple[float, float, float] = (40.0, 25.0, 25.0)
    ground_truth: list[Objects] = field(default_factory=list)
    detections: list[Objects] = field(default_factory=list)
    depth_errors_m: list[float] = field(default_factory=list)

    def evaluation(self) -> Evaluation:
        """KITTI average precision of the frames so far."""
        return evaluate_kitti(self.ground_truth, self.detections, classes=self.classes, min_heights=self.min_heights_px)

    def depth_error_m(self) -> dict[str, float | None]:
        """Median and mean of the depth errors [m]; None without objects."""
        if not self.depth_errors_m:
            return {"median": None, "mean": None}
        return {"median": float(np.median(self.depth_errors_m)), "mean": float(np.mean(self.depth_errors_m))}

    def summary(self) -> dict[str, float]:
        """Numbers for a log: moderate AP|R40 (strict, 3D and from above) of each class, and the depth error."""
        strict = {"Car": 0.7}
        named = {
            f"{row['class']}_{row['metric']}": row["moderate"]
            for row in self.evaluation().rows()
            if row["recall"] == "R40" and row["metric"] in ("bev", "3d") and row["iou"] == strict.get(row["class"], 0.5)
        }
        errors = {f"depth_error_m_{name}": value for name, value in self.depth_error_m().items()}
        return {name: value for name, value in {**named, **errors}.items() if value is not None}

    def clear(self) -> None:
        """Forget the frames."""
        self.ground_truth.clear()
        self.detections.clear()
        self.depth_errors_m.clear()


@torch.no_grad()
def measure_batch(detector: Any, batch: Batch, measurement: Measurement) -> None:
    """Detect on a labelled batch as at inference, look once more at the true peaks, and add both to `measurement`."""
    images = batch.input(detector.modality)
    found = detector.decode(detector(images, batch.cameras, batch.letterbox), batch.cameras, batch.letterbox)
    measurement.detections += [one.to_objects() for one in found]
    measurement.ground_truth += [one if one is not None else Objects.empty() for one in batch.objects]
    if batch.targets is not None and len(batch.targets.label):
        heads = detector(images, batch.cameras, batch.letterbox, batch.targets.rois).heads
        depth, _ = merge_depth(heads["depth"], heads["depth_log_variance"])
        measurement.depth_errors_m += (depth - batch.targets.depth).abs().tolist()


def measure(
    detector: Any,
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


def evaluate_model(
    model: Path,
    *,
    root: Path,
    split: str = "val",
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Evaluation:
    """Predict every frame of a split and evaluate. progress: as `measure`'s; options: as `evaluate_kitti`'s."""
    detector: Any = load_model(model)
    batches = labelled_batches(detector, root, split=split)
    measurement = measure(detector, batches, Measurement(), progress=progress)
    return evaluate_kitti(measurement.ground_truth, measurement.detections, **options)


def labelled_batches(
    detector: Any, root: Path, *, split: str, batch_size: int = 8, min_height_px: float = MIN_HEIGHT_PX
) -> DataLoader[Any]:
    """Every labelled frame of a split, in order, as this detector wants it; see `KittiDataset` for `min_height_px`."""
    published = detector.config.geometry == "published"
    dataset = KittiDataset(
        root,
        split=split,
        input_size=detector.input_size,
        classes=detector.classes,
        mean_sizes=detector.config.mean_sizes,
        depth=detector.modality == "depth",
        min_height_px=min_height_px,
        published=PublishedData.all() if published else None,
    )
    return DataLoader(dataset, batch_size=batch_size, collate_fn=Batch.collate)
