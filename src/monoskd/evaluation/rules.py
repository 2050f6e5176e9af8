"""KITTI's rules: which objects must be found, which may be, and which detections are false alarms."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from monoskd.errors import InputError
from monoskd.evaluation.curves import Tally
from monoskd.evaluation.matching import Matching
from monoskd.evaluation.pairs import Bool, PairedFrames, Pairs

NEIGHBOURS = {"Pedestrian": "person_sitting", "Car": "van", "Cyclist": None}
"""The classes, and the objects (lower case) so similar to them that a detection there is not an error."""

MIN_HEIGHTS_PX = (40.0, 25.0, 25.0)  # of easy, moderate and hard, as the next two
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)


@dataclass(frozen=True)
class Contest:
    """What one precision curve measures, without the difficulty. geometry: "bbox", "bev" or "3d"."""

    class_name: str
    geometry: str
    least_overlap: float


@dataclass(frozen=True)
class Scope:
    """The part of the frames that is evaluated: only these objects must be found, only these detections can be wrong.

    truth, detections: a flag for each row of the two tables.
    """

    truth: Bool
    detections: Bool

    @classmethod
    def at_depth(cls, paired: PairedFrames, *, from_m: float = -np.inf, to_m: float = np.inf) -> "Scope":
        """What is at least `from_m` and less than `to_m` in front of the camera; by default everything."""
        truth, detected = (rows.objects.bottom[:, 2] for rows in (paired.truth, paired.detections))
        return cls((from_m <= truth) & (truth < to_m), (from_m <= detected) & (detected < to_m))


def strict_overlap(class_name: str) -> float:
    """The least overlap of a hit: 0.7 for cars, 0.5 for every other class."""
    return 0.7 if class_name == "Car" else 0.5


def loose_overlap(class_name: str) -> float:
    """KITTI's second, looser table from above and in 3D: 0.5 for cars, 0.25 for every other class."""
    return 0.5 if class_name == "Car" else 0.25


def known_classes(classes: Sequence[str], present: Iterable[str] = ()) -> list[str]:
    """The classes as KITTI, or the objects that are `present`, spell them. Raises InputError for any other."""
    names = list(dict.fromkeys([*NEIGHBOURS, *present]))
    spelling = {name.lower(): name for name in reversed(names)}
    for name in classes:
        if name.lower() not in spelling:
            raise InputError(f"classes: expected some of {', '.join(names)}, got '{name}': choose from these")
    return list(dict.fromkeys(spelling[name.lower()] for name in classes))


def contests(classes: Sequence[str]) -> Iterator[Contest]:
    """2D boxes at the strict overlap, bird's eye and 3D at the strict and the loose one."""
    for name in classes:
        yield Contest(name, "bbox", strict_overlap(name))
        for geometry in ("bev", "3d"):
            yield Contest(name, geometry, strict_overlap(name))
            yield Contest(name, geometry, loose_overlap(name))


def tallies(
    paired: PairedFrames, contest: Contest, min_heights: tuple[float, float, float], scope: Scope
) -> list[Tally]:
    """The counts of one contest for easy, moderate and hard."""
    truth = paired.truth.objects
    own = paired.truth.names == contest.class_name.lower()
    similar = own | (paired.truth.names == NEIGHBOURS.get(contest.class_name))
    pairs = paired.pairs[contest.geometry]
    pairs = pairs[(pairs.overlap > contest.least_overlap) & similar[pairs.truth]]
    height_px = truth.boxes_2d[:, 3] - truth.boxes_2d[:, 1]
    matchings = {least: _match(paired, contest.class_name, pairs, least_px=least) for least in set(min_heights)}
    counts = []
    for least, occlusion, truncation in zip(min_heights, MAX_OCCLUSION, MAX_TRUNCATION, strict=True):
        visible = (truth.occlusion <= occlusion) & (truth.truncation <= truncation) & (height_px > least)
        matching = matchings[least]
        blamed = matching.counted & scope.detections
        if contest.geometry == "bbox":
            blamed &= paired.dont_care_share <= contest.least_overlap
        counts.append(_count(paired, matching, valid=own & visible & scope.truth, blamed=blamed))
    return counts


def _match(paired: PairedFrames, class_name: str, pairs: Pairs, *, least_px: float) -> Matching:
    """Match the pairs of one contest. Detections below the least height of any class can absorb an object."""
    detected = paired.detections.objects
    own = paired.detections.names == class_name.lower()
    small = np.abs(detected.boxes_2d[:, 3] - detected.boxes_2d[:, 1]) < least_px
    return Matching.of(pairs[(own | small)[pairs.detection]], scores=paired.scores, counted=own & ~small)


def _count(paired: PairedFrames, matching: Matching, *, valid: Bool, blamed: Bool) -> Tally:
    """What the matching means if `valid` objects must be found and `blamed` detections are errors unless taken.

    So a detection is one false alarm more from its own score on, and one less for as long as an object has taken it.
    """
    truth, detected, pairs, scores = paired.truth, paired.detections, matching.pairs, paired.scores
    is_hit = valid[pairs.truth] & matching.counted[pairs.detection]
    hits = pairs.detection[matching.best_scored[is_hit[matching.best_scored]]]
    hits = hits[np.argsort(-scores[hits], kind="stable")]

    changes, closing = matching.changes, pairs[matching.changes.pair]
    turned = truth.objects.alpha[closing.truth] - detected.objects.alpha[closing.detection]
    gained = changes.sign * is_hit[changes.pair]
    excused = changes.sign * blamed[closing.detection]
    alarms = np.flatnonzero(blamed)
    none = np.zeros(len(alarms), np.int64)
    change_scores = np.concatenate([changes.score, scores[alarms]])
    order = np.argsort(-change_scores, kind="stable")
    return Tally(
        objects=truth.frame[valid],
        hit_scores=scores[hits],
        hit_frames=detected.frame[hits],
        change_scores=change_scores[order],
        change_frames=detected.frame[np.concatenate([closing.detection, alarms])][order],
        hits=np.concatenate([gained, none])[order],
        false_alarms=np.concatenate([-excused, none + 1])[order],
        agreement=np.concatenate([gained * (1 + np.cos(turned)) / 2, none])[order],
    )
