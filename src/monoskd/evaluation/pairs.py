"""All frames in one table, and the pairs of a true object and a detection that overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.geometry.arrays import ranges
from monoskd.geometry.iou import area_2d, intersection_2d, intersection_bev, iou_2d, iou_3d, iou_bev
from monoskd.objects import Objects

Int: TypeAlias = NDArray[np.int64]
Float: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]

LEAST_OVERLAP = 0.25
"""No class needs less, so only pairs that overlap more than this are kept."""
PAIRS_AT_ONCE = 2**19
MOST_PAIRS = 2_000_000  # that overlap, in one frame; 123 000 real detections on 7480 frames have 20 000 in all


@dataclass(frozen=True)
class Rows:
    """The objects of all frames, end to end. names: n, lower case; frame: n, which frame a row belongs to."""

    objects: Objects
    names: NDArray[np.str_]
    frame: Int

    @classmethod
    def of(cls, frames: Sequence[Objects]) -> "Rows":
        """Lay the frames end to end."""
        scored = all(objects.scores is not None for objects in frames)
        columns: dict[str, Any] = {
            field.name: np.concatenate([getattr(objects, field.name) for objects in frames])
            for field in fields(Objects)
            if scored or field.name != "scores"
        }
        joined = Objects(**columns)
        frame = np.repeat(np.arange(len(frames)), [len(objects) for objects in frames])
        return cls(joined, np.strings.lower(joined.names), frame)

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: Any) -> "Rows":
        return Rows(self.objects[index], self.names[index], self.frame[index])

    def distinct(self) -> int:
        """How many rows differ from all before them, in any value or in their frame."""
        columns = (getattr(self.objects, field.name) for field in fields(Objects) if field.name != "names")
        names = np.unique(self.names, return_inverse=True)[1]
        table = np.column_stack([self.frame, names, *(column for column in columns if column is not None)])
        return len({row.tobytes() for row in table})


@dataclass(frozen=True)
class Pairs:
    """n pairs of a true object and a detection of one frame, as rows of the two tables, in file order."""

    truth: Int
    detection: Int
    overlap: Float

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, index: Any) -> "Pairs":
        return Pairs(self.truth[index], self.detection[index], self.overlap[index])

    @classmethod
    def joined(cls, parts: Sequence["Pairs"]) -> "Pairs":
        """The pairs of all parts, in order."""
        none = np.zeros(0, np.int64)
        parts = [cls(none, none, np.zeros(0)), *parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class PairedFrames:
    """All frames: true objects, detections, and which of them overlap; independent of class, difficulty and threshold.

    pairs: for each of "bbox", "bev" and "3d" the pairs whose intersection over union exceeds LEAST_OVERLAP.
    dont_care_share: for each detection, the largest share of its 2D box that lies in one DontCare box.
    """

    frames: int
    truth: Rows
    detections: Rows
    pairs: dict[str, Pairs]
    dont_care_share: Float

    @classmethod
    def of(cls, ground_truth: Sequence[Objects], detections: Sequence[Objects]) -> "PairedFrames":
        """Join the labels and the detections of each frame. Raises InputError where they do not fit together."""
        if len(ground_truth) != len(detections):
            raise InputError(
                f"detections: expected one entry for each of {len(ground_truth)} labelled frames, got "
                f"{len(detections)}: give a frame without detections an empty entry"
            )
        if not ground_truth:
            raise InputError("frames: expected at least one to evaluate, got none: check the split and the folders")
        for index, objects in enumerate(detections):
            if objects.scores is None and len(objects):
                raise InputError(f"detections of frame {index}: expected scores, got none: detections must be ranked")
        scored = [Objects.empty(scored=True) if objects.scores is None else objects for objects in detections]
        truth, detected = Rows.of(ground_truth), Rows.of(scored)
        _check_finite(truth, what="ground truth")
        _check_finite(detected, what="detections")
        return cls.joined(len(ground_truth), truth, detected)

    @classmethod
    def joined(cls, frames: int, truth: Rows, detections: Rows) -> "PairedFrames":
        """Pair the rows of two tables."""
        pairs: dict[str, list[Pairs]] = {geometry: [] for geometry in ("bbox", "bev", "3d")}
        per_frame = {geometry: np.zeros(frames, np.int64) for geometry in pairs}
        share = np.zeros(len(detections))
        for row, column in _same_frame(truth, detections, frames=frames):
            dont_care = truth.names[row] == "dontcare"
            overlapping = _overlapping(truth.objects, detections.objects, row[~dont_care], column[~dont_care])
            for geometry, part in overlapping.items():
                pairs[geometry].append(part)
                per_frame[geometry] += np.bincount(truth.frame[part.truth], minlength=frames)
                if per_frame[geometry].max() > MOST_PAIRS:
                    raise InputError(
                        f"frame {per_frame[geometry].argmax()}: expected objects apart from each other, got more than "
                        f"{MOST_PAIRS} pairs of a true object and a detection that overlap: are boxes repeated?"
                    )
            _add_share(share, truth.objects, detections.objects, row[dont_care], column[dont_care])
        joined = {geometry: Pairs.joined(parts) for geometry, parts in pairs.items()}
        return cls(frames=frames, truth=truth, detections=detections, pairs=joined, dont_care_share=share)

    @property
    def scores(self) -> Float:
        """Of every detection."""
        scores = self.detections.objects.scores
        assert scores is not None  # see `of`
        return scores


def _check_finite(rows: Rows, *, what: str) -> None:
    for field in fields(Objects):
        column = getattr(rows.objects, field.name)
        if field.name == "names" or column is None or np.isfinite(column).all():
            continue
        row = int(np.argwhere(~np.isfinite(column))[0, 0])
        raise InputError(
            f"{what} of frame {rows.frame[row]}, object {row - int(np.searchsorted(rows.frame, rows.frame[row]))}, "
            f"{field.name}: expected finite numbers, got {column[row]}: remove the object"
        )


def _same_frame(truth: Rows, detected: Rows, *, frames: int) -> Iterator[tuple[Int, Int]]:
    """Rows of every true object with every detection of its frame, both in file order.

    In parts of about `PAIRS_AT_ONCE`, so that memory does not grow with the square of a crowd.
    """
    per_frame = np.bincount(detected.frame, minlength=frames)
    first = np.cumsum(per_frame) - per_frame
    partners = per_frame[truth.frame]
    part = np.cumsum(partners) // PAIRS_AT_ONCE
    for rows in np.split(np.arange(len(truth)), np.flatnonzero(np.diff(part)) + 1):
        counts = partners[rows]
        row = np.repeat(rows, counts)
        yield row, first[truth.frame[row]] + ranges(counts)


def _overlapping(truth: Objects, detected: Objects, row: Int, column: Int) -> dict[str, Pairs]:
    a, b = detected.boxes_3d[column], truth.boxes_3d[row]
    footprint = intersection_bev(a, b)
    overlaps = {
        "bbox": iou_2d(detected.boxes_2d[column], truth.boxes_2d[row]),
        "bev": iou_bev(a, b, shared_footprint=footprint),
        "3d": iou_3d(a, b, shared_footprint=footprint),
    }
    kept = {geometry: np.flatnonzero(overlap > LEAST_OVERLAP) for geometry, overlap in overlaps.items()}
    return {geometry: Pairs(row[k], column[k], overlaps[geometry][k]) for geometry, k in kept.items()}


def _add_share(share: Float, truth: Objects, detected: Objects, row: Int, column: Int) -> None:
    """Raise each detection's share to the largest part of its 2D box that one of the paired true boxes covers."""
    boxes = detected.boxes_2d[column]
    shared = intersection_2d(boxes, truth.boxes_2d[row])
    covered = np.flatnonzero(shared)
    np.maximum.at(share, column[covered], shared[covered] / area_2d(boxes[covered]))
