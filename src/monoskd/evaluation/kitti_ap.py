"""KITTI's average precision, as the official evaluation computes it, in exact geometry. See docs/evaluation.md.

Lay the frames end to end (`scene`), match for every threshold at once (`matching`), count what that means at each
difficulty (here), read the 41 points of the precision curve off the counts (`curves`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from monoskd.errors import InputError
from monoskd.evaluation.bootstrap import draw_frames, interval, resampled_curves
from monoskd.evaluation.curves import RECALLS, Tally, average_precision
from monoskd.evaluation.matching import Matching
from monoskd.evaluation.results import Evaluation, Result
from monoskd.evaluation.scene import Bool, Int, Pairs, Scene
from monoskd.objects import Objects

NEIGHBOURS = {"Pedestrian": "person_sitting", "Car": "van", "Cyclist": None}
"""The classes, and the objects (lower case) that look so much like them that finding one is no error."""
STRICT = {"Pedestrian": 0.5, "Car": 0.7, "Cyclist": 0.5}
LOOSE = {"Pedestrian": 0.25, "Car": 0.5, "Cyclist": 0.25}

MIN_HEIGHTS_PX = (40.0, 25.0, 25.0)  # of easy, moderate and hard, as the next two
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)

NO_ALPHA = -10
"""What a detector writes that does not estimate the observation angle."""


@dataclass(frozen=True)
class Contest:
    """What one precision curve is about, apart from the difficulty. geometry: "bbox", "bev" or "3d"."""

    class_name: str
    geometry: str
    least_overlap: float


@dataclass(frozen=True)
class Scope:
    """Which part of the scene is asked about: only these objects must be found, only these detections can be wrong.

    truth, detections: a flag for each row of the scene's tables.
    """

    truth: Bool
    detections: Bool

    @classmethod
    def everything(cls, scene: Scene) -> "Scope":
        """The whole scene."""
        return cls(np.ones(len(scene.truth), np.bool_), np.ones(len(scene.detections), np.bool_))


def evaluate_kitti(
    ground_truth: Sequence[Objects],
    detections: Sequence[Objects],
    *,
    classes: Sequence[str] = tuple(NEIGHBOURS),
    min_heights: tuple[float, float, float] = MIN_HEIGHTS_PX,
    bootstrap: int = 0,
    seed: int = 0,
) -> Evaluation:
    """KITTI average precision of detections against labels, entry by entry of two sequences of frames.

    classes: of Pedestrian, Car and Cyclist, in any case. min_heights: [px] a 2D box must be taller for an object to
    count as easy, moderate and hard; scale it with the images. bootstrap: how often to resample the frames for 95 %
    intervals; 0 for none; seed: of that.

    Raises InputError where the sequences differ in length or are empty, where detections have no scores, for numbers
    that are not finite, and for unknown classes.
    """
    scene = Scene.of(ground_truth, detections)
    return evaluate_scene(scene, classes=classes, min_heights=min_heights, bootstrap=bootstrap, seed=seed)


def evaluate_scene(
    scene: Scene,
    *,
    classes: Sequence[str] = tuple(NEIGHBOURS),
    min_heights: tuple[float, float, float] = MIN_HEIGHTS_PX,
    scope: Scope | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Evaluation:
    """As `evaluate_kitti`, for a scene, or for the part of it that `scope` names."""
    scope = scope or Scope.everything(scene)
    once = np.ones((1, scene.frames), np.int64)
    draws = draw_frames(scene.frames, samples=bootstrap, seed=seed)
    results = [
        result
        for contest in _contests(_known(classes))
        for result in _results(contest, _tallies(scene, contest, min_heights, scope), once=once, draws=draws)
    ]
    if (scene.detections.objects.alpha == NO_ALPHA).any():
        results = [_without_value(result) if result.metric == "aos" else result for result in results]
    return Evaluation(frames=scene.frames, results=tuple(results))


def _known(classes: Sequence[str]) -> list[str]:
    """The classes as KITTI spells them."""
    spelling = {name.lower(): name for name in NEIGHBOURS}
    for name in classes:
        if name.lower() not in spelling:
            raise InputError(f"classes: expected some of {', '.join(NEIGHBOURS)}, got '{name}': choose from these")
    return list(dict.fromkeys(spelling[name.lower()] for name in classes))


def _contests(classes: Sequence[str]) -> Iterator[Contest]:
    for name in classes:
        yield Contest(name, "bbox", STRICT[name])
        for geometry in ("bev", "3d"):
            yield Contest(name, geometry, STRICT[name])
            yield Contest(name, geometry, LOOSE[name])


def _results(contest: Contest, tallies: Sequence[Tally], *, once: Int, draws: Int) -> Iterator[Result]:
    """The contest's curves at each difficulty, and how far their means move over the draws."""
    metrics = (
        {"bbox": "precision", "aos": "similarity"} if contest.geometry == "bbox" else {contest.geometry: "precision"}
    )
    curves, drawn = resampled_curves(tallies, once), resampled_curves(tallies, draws)
    for metric, kind in metrics.items():
        intervals = (
            {recall: interval(average_precision(drawn[kind], recall)) for recall in RECALLS} if len(draws) else {}
        )
        yield Result(contest.class_name, metric, contest.least_overlap, curves[kind][0], intervals)


def _without_value(result: Result) -> Result:
    nothing = {recall: np.full_like(ends, np.nan) for recall, ends in result.intervals.items()}
    return replace(result, curves=np.full_like(result.curves, np.nan), intervals=nothing)


def _tallies(scene: Scene, contest: Contest, min_heights: tuple[float, float, float], scope: Scope) -> list[Tally]:
    """The counts of one contest for easy, moderate and hard."""
    truth = scene.truth.objects
    own = scene.truth.names == contest.class_name.lower()
    alike = own | (scene.truth.names == NEIGHBOURS[contest.class_name])
    pairs = scene.pairs[contest.geometry]
    pairs = pairs[(pairs.overlap > contest.least_overlap) & alike[pairs.truth]]
    height_px = truth.boxes_2d[:, 3] - truth.boxes_2d[:, 1]
    matchings = {least: _match(scene, contest.class_name, pairs, least_px=least) for least in set(min_heights)}
    tallies = []
    for least, occlusion, truncation in zip(min_heights, MAX_OCCLUSION, MAX_TRUNCATION, strict=True):
        visible = (truth.occlusion <= occlusion) & (truth.truncation <= truncation) & (height_px > least)
        matching = matchings[least]
        blamed = matching.counted & scope.detections
        if contest.geometry == "bbox":
            blamed &= scene.dont_care_share <= contest.least_overlap
        tallies.append(_count(scene, matching, valid=own & visible & scope.truth, blamed=blamed))
    return tallies


def _match(scene: Scene, class_name: str, pairs: Pairs, *, least_px: float) -> Matching:
    """Match the pairs of one contest. Detections below the least height can absorb, of whatever class they are."""
    detected = scene.detections.objects
    own = scene.detections.names == class_name.lower()
    small = np.abs(detected.boxes_2d[:, 3] - detected.boxes_2d[:, 1]) < least_px
    return Matching.of(pairs[(own | small)[pairs.detection]], scores=scene.scores, counted=own & ~small)


def _count(scene: Scene, matching: Matching, *, valid: Bool, blamed: Bool) -> Tally:
    """What the matching means if only `valid` objects must be found and only `blamed` detections are false alarms."""
    truth, detected, pairs, scores = scene.truth, scene.detections, matching.pairs, scene.scores
    is_hit = valid[pairs.truth] & matching.counted[pairs.detection]
    hits = pairs.detection[matching.best_scored[is_hit[matching.best_scored]]]
    hits = hits[np.argsort(-scores[hits], kind="stable")]

    changes, closing = matching.changes, pairs[matching.changes.pair]
    turned = truth.objects.alpha[closing.truth] - detected.objects.alpha[closing.detection]
    gained = changes.sign * is_hit[changes.pair]
    excused = changes.sign * blamed[closing.detection]
    alone = np.flatnonzero(blamed)
    none = np.zeros(len(alone), np.int64)
    order = np.argsort(-np.concatenate([changes.score, scores[alone]]), kind="stable")
    return Tally(
        objects=truth.frame[valid],
        hit_scores=scores[hits],
        hit_frames=detected.frame[hits],
        change_scores=np.concatenate([changes.score, scores[alone]])[order],
        change_frames=np.concatenate([detected.frame[closing.detection], detected.frame[alone]])[order],
        hits=np.concatenate([gained, none])[order],
        false_alarms=np.concatenate([-excused, none + 1])[order],
        agreement=np.concatenate([gained * (1 + np.cos(turned)) / 2, none])[order],
    )
