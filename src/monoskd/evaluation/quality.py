"""How good a set of detections is as labels: precision, recall and depth error by distance.

Average precision measures the ranking of detections. For pseudo-labels, which are detections above a threshold, what
counts is how many of them are right, how many objects they miss and how wrong their depth is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monoskd.evaluation.pairs import Bool, Float, Int
from monoskd.evaluation.rules import MAX_OCCLUSION, MAX_TRUNCATION, NEIGHBOURS
from monoskd.geometry.iou import area_2d, intersection_2d, iou_2d
from monoskd.objects import MIN_HEIGHT_PX, Objects, canonical_name, class_index

LEAST_OVERLAP = 0.5  # of 2D boxes: 3D boxes would leave out the very depth errors that are to be measured
DISTANCES_M = {"all": (0.0, np.inf), "0-20": (0.0, 20.0), "20-40": (20.0, 40.0), "40+": (40.0, np.inf)}


@dataclass(frozen=True)
class LabelQuality:
    """How good detections of one class are as labels, within a distance [m] (for detections: their own depth).

    right: detections on a countable object; wrong: on nothing; missed: countable objects without a detection.
    depth_error_m: median |depth - true depth| of the right ones.
    """

    name: str
    distance_m: str
    right: int
    wrong: int
    missed: int
    depth_error_m: float | None

    @property
    def precision(self) -> float | None:
        """The share of the detections that are right; None without any."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> float | None:
        """The share of the countable objects that are detected; None without any."""
        return _share(self.right, self.right + self.missed)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON; `name` is called class."""
        row = {**asdict(self), "precision": self.precision, "recall": self.recall}
        return {"class": row.pop("name"), **row}


def label_quality(
    truth: Sequence[Objects],
    detections: Sequence[Objects],
    *,
    classes: Sequence[str],
    min_height_px: float = MIN_HEIGHT_PX,
) -> list[LabelQuality]:
    """A row for each class and distance, over frames.

    Countable objects are KITTI's hard ones: at least `min_height_px` tall, occluded at most largely, truncated at most
    by half. Detections, in falling order of score, take the free object of their class with the largest 2D overlap, if
    that is at least 0.5. Detections on objects that are not countable, on a neighbouring class or in a DontCare region
    are neither right nor wrong. Lower detections are left out, as they are in training.
    """
    rows = []
    for name in classes:
        frames = [_match(t, f, name, min_height_px) for t, f in zip(truth, detections, strict=True)]
        matches = {key: np.concatenate([frame[key] for frame in frames]) if frames else np.zeros(0) for key in _KEYS}
        for distance, (near, far) in DISTANCES_M.items():
            errors = matches["errors_m"][_between(matches["right_m"], near, far)]
            rows.append(
                LabelQuality(
                    name=name,
                    distance_m=distance,
                    right=len(errors),
                    wrong=int(_between(matches["wrong_m"], near, far).sum()),
                    missed=int(_between(matches["missed_m"], near, far).sum()),
                    depth_error_m=float(np.median(errors)) if len(errors) else None,
                )
            )
    return rows


def best_score(
    truth: Sequence[Objects],
    detections: Sequence[Objects],
    *,
    classes: Sequence[str],
    min_height_px: float = MIN_HEIGHT_PX,
) -> float | None:
    """The least score to keep for the highest F1, over all classes together; None if nothing that is found is right.

    Right, wrong and missed are those of `label_quality`. A detection takes its object before any of lower score, so
    each is right or wrong whatever is kept below it, and one matching serves all scores.
    """
    matches = [_match(t, f, name, min_height_px) for t, f in zip(truth, detections, strict=True) for name in classes]
    if not matches:
        return None
    right, wrong = (np.concatenate([match[key] for match in matches]) for key in ("right_scores", "wrong_scores"))
    objects = len(right) + sum(len(match["missed_m"]) for match in matches)
    scores = np.unique(right)
    if not len(scores):
        return None
    hits, misses = (len(row) - np.searchsorted(np.sort(row), scores) for row in (right, wrong))
    f1 = 2 * hits / (hits + misses + objects)
    return float(scores[f1.argmax()])


_KEYS = ("right_m", "wrong_m", "missed_m", "errors_m")


def _match(truth: Objects, detections: Objects, name: str, min_height_px: float) -> dict[str, Float]:
    """Depths [m] of the right and wrong detections of one frame and of the missed objects; errors of the right ones.

    Also the scores of the right and wrong ones.
    """
    detections = detections[_of_class(detections, name) & (_height(detections) >= min_height_px)]
    assert detections.scores is not None
    detections = detections[np.argsort(-detections.scores, kind="stable")]
    scores = detections.scores
    assert scores is not None
    of_class = _of_class(truth, name)
    own, counts = truth[of_class], _countable(truth, min_height_px)[of_class]
    taken = _greedy(iou_2d(detections.boxes_2d[:, None], own.boxes_2d[None]))
    hit = taken >= 0
    right = np.zeros(len(detections), np.bool_)
    right[hit] = counts[taken[hit]]
    neighbour = NEIGHBOURS.get(canonical_name(name))
    others = truth[_of_class(truth, "DontCare", *filter(None, [neighbour]))]
    wrong = ~hit & ~_inside(detections, others)
    missed = counts.copy()
    missed[taken[hit]] = False
    return {
        "right_m": detections.bottom[right, 2],
        "wrong_m": detections.bottom[wrong, 2],
        "missed_m": own.bottom[missed, 2],
        "errors_m": np.abs(detections.bottom[right, 2] - own.bottom[taken[right], 2]),
        "right_scores": scores[right],
        "wrong_scores": scores[wrong],
    }


def _greedy(overlaps: Float) -> Int:
    """For each detection, in order, the free object it overlaps most; -1 for none."""
    taken = np.full(len(overlaps), -1)
    if not overlaps.size:
        return taken
    overlaps = overlaps.copy()
    for row, overlap in enumerate(overlaps):
        best = int(overlap.argmax())
        if overlap[best] >= LEAST_OVERLAP:
            taken[row] = best
            overlaps[:, best] = 0
    return taken


def _inside(detections: Objects, regions: Objects) -> Bool:
    """Detections of which at least half lies in one of the regions."""
    shared = intersection_2d(detections.boxes_2d[:, None], regions.boxes_2d[None])
    inside: Bool = np.any(shared >= LEAST_OVERLAP * area_2d(detections.boxes_2d)[:, None], axis=1)
    return inside


def _of_class(objects: Objects, *names: str) -> Bool:
    of_class: Bool = class_index(objects.names, names) >= 0
    return of_class


def _countable(truth: Objects, min_height_px: float) -> Bool:
    return (
        (_height(truth) >= min_height_px)
        & (truth.occlusion <= MAX_OCCLUSION[-1])
        & (truth.truncation <= MAX_TRUNCATION[-1])
    )


def _height(objects: Objects) -> Float:
    height: Float = objects.boxes_2d[:, 3] - objects.boxes_2d[:, 1]
    return height


def _between(depths_m: Float, near: float, far: float) -> Bool:
    return (near <= depths_m) & (depths_m < far)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
