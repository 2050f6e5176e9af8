"""The interface of a metric for validation, and KITTI's average precision behind it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.results import Evaluation
from monoskd.evaluation.rules import MIN_HEIGHTS_PX, NEIGHBOURS, strict_overlap
from monoskd.objects import Objects


class Evaluator(ABC):
    """A metric that compares detections with labels, frame by frame."""

    @abstractmethod
    def summary(self, truth: Sequence[Objects], detections: Sequence[Objects]) -> dict[str, float]:
        """Numbers for a log by name; those that do not exist are left out."""


@dataclass(frozen=True)
class KittiEvaluator(Evaluator):
    """KITTI's average precision.

    Args:
        classes: the classes in the log; any names.
        min_heights_px: least 2D heights of easy, moderate and hard objects; scale them for small images.
    """

    classes: tuple[str, ...] = tuple(NEIGHBOURS)
    min_heights_px: tuple[float, float, float] = MIN_HEIGHTS_PX

    def evaluate(self, truth: Sequence[Objects], detections: Sequence[Objects]) -> Evaluation:
        """The whole table; without the classes that no label names."""
        present = {name.lower() for objects in truth for name in objects.names.tolist()} | {*map(str.lower, NEIGHBOURS)}
        classes = [name for name in self.classes if name.lower() in present]
        return evaluate_kitti(truth, detections, classes=classes, min_heights=self.min_heights_px)

    def summary(self, truth: Sequence[Objects], detections: Sequence[Objects]) -> dict[str, float]:
        """Moderate AP|R40 in 3D and from above [percent]: `Car_3d`, `Car_bev`, ... at KITTI's overlap, 0.7 for cars.

        `Car_3d_loose`, `Car_bev_loose`, ... at its looser one, 0.5 for cars, which tells young networks apart.
        """
        numbers = {}
        for row in self.evaluate(truth, detections).rows():
            if row["recall"] == "R40" and row["metric"] in ("bev", "3d") and row["moderate"] is not None:
                suffix = "" if row["iou"] == strict_overlap(row["class"]) else "_loose"
                numbers[f"{row['class']}_{row['metric']}{suffix}"] = row["moderate"]
        return numbers
