"""How good a set of detections is as labels: precision, recall and depth error by distance.

Average precision asks how well detections are ranked. Who takes them for labels, from a threshold on, asks how many of
them are right, how many objects they miss and how far off they stand.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from monoskd.evaluation.rules import MAX_OCCLUSION, MAX_TRUNCATION, NEIGHBOURS
from monoskd.evaluation.scene import Bool, Float, Int
from monoskd.geometry.iou import area_2d, intersection_2d, iou_2d
from monoskd.objects import Objects

LEAST_OVERLAP = 0.5  # of 2D boxes; the depth error is to be measured, so it must not decide
DISTANCES_M = {"all": (0.0, np.inf), "0-20": (0.0, 20.0), "20-40": (20.0, 40.0), "40+": (40.0, np.inf)}


@dataclass(frozen=True)
class LabelQuality:
    """What detections of one class are worth as labels, within a distance [m] (of detections: as they say it).

    right: detections that lie on a countable object; wrong: on nothing; missed: countable objects without a detection.
    depth_error_m: median |depth - true depth| of the right ones.
    """

    name: str
    distance_m: str
    right: int
    wrong: int
    missed: int
    depth_error_m: float | None
    precision: float | None = field(init=False)
    recall: float | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", _share(self.right, self.right + self.wrong))
        object.__setattr__(self, "recall", _share(self.right, self.right + self.missed))

    def to_json(self) -> dict[str, Any]:
        """The row as JSON; `name` is called class."""
        row = asdict(self)
        return {"class": row.pop("name"), **row}


def label_quality(
    truth: Sequence[Objects], found: Sequence[Objects], *, classes: Sequence[str], min_height_px: float = 25.0
) -> list[LabelQuality]:
    """A row for each class and distance, over frames.

    Countable objects are KITTI's hard ones: at least `min_height_px` tall, not unseen, at most half truncated. Each
    detection, the surest first, takes the free object of its class whose 2D box overlaps it most, by half at least.
    Detections on objects that do not count, on a neighbouring class or in a region that nobody labelled are neither
    right nor wrong. Detections less tall are left out, as they are in training.
    """
    rows = []
    for name in classes:
        frames = [_match(t, f, name, min_height_px) for t, f in zip(truth, found, strict=True)]
        matches = {key: np.concatenate([one[key] for one in frames]) if frames else np.zeros(0) for key in _KEYS}
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


_KEYS = ("right_m", "wrong_m", "missed_m", "errors_m")


def _match(truth: Objects, found: Objects, name: str, min_height_px: float) -> dict[str, Float]:
    """Depths [m] of the right and wrong detections of one frame and of the missed objects; errors of the right ones."""
    found = found[(found.names == name) & (_height(found) >= min_height_px)]
    assert found.scores is not None
    found = found[np.argsort(-found.scores, kind="stable")]
    own, counts = truth[truth.names == name], _countable(truth, min_height_px)[truth.names == name]
    taken = _greedy(iou_2d(found.boxes_2d[:, None], own.boxes_2d[None]))
    hit = taken >= 0
    right = np.zeros(len(found), np.bool_)
    right[hit] = counts[taken[hit]]
    others = truth[np.isin(np.char.lower(truth.names.astype(str)), ["dontcare", NEIGHBOURS.get(name) or ""])]
    missed = counts.copy()
    missed[taken[hit]] = False
    return {
        "right_m": found.bottom[right, 2],
        "wrong_m": found.bottom[~hit & ~_inside(found, others), 2],
        "missed_m": own.bottom[missed, 2],
        "errors_m": np.abs(found.bottom[right, 2] - own.bottom[taken[right], 2]),
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


def _inside(found: Objects, regions: Objects) -> Bool:
    """Detections that lie by half at least in one of the regions."""
    shared = intersection_2d(found.boxes_2d[:, None], regions.boxes_2d[None])
    inside: Bool = np.any(shared >= LEAST_OVERLAP * area_2d(found.boxes_2d)[:, None], axis=1)
    return inside


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
