"""KITTI's average precision, as the official evaluation computes it, in exact geometry. See docs/evaluation.md.

Pair the objects and detections of each frame (`pairs`), match them for every threshold at once (`matching`), count what
that means at each difficulty (`rules`), and compute the 41 points of the precision curve from the counts (`curves`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from monoskd.errors import InputError
from monoskd.evaluation.anatomy import corrected_detections
from monoskd.evaluation.bootstrap import draw_frames, interval, resampled_curves
from monoskd.evaluation.curves import RECALLS, Tally, average_precision
from monoskd.evaluation.pairs import Int, PairedFrames
from monoskd.evaluation.results import DIFFICULTIES, Evaluation, Result
from monoskd.evaluation.rules import MIN_HEIGHTS_PX, NEIGHBOURS, Contest, Scope, contests, known_classes, tallies
from monoskd.objects import (
    KITTI_CLASSES,
    MOST_ANGLE_RAD,
    NO_ALPHA,
    Objects,
    has_2d_box,
    has_3d_box,
    lacks_alpha,
)

__all__ = ["Evaluation", "evaluate_kitti"]

DISTANCES_M = {"0-20 m": (-np.inf, 20.0), "20-40 m": (20.0, 40.0), "40+ m": (40.0, np.inf)}

_NAMED = 3  # classes in a note


def evaluate_kitti(
    ground_truth: Sequence[Objects],
    detections: Sequence[Objects],
    *,
    classes: Sequence[str] = tuple(NEIGHBOURS),
    min_heights: tuple[float, float, float] = MIN_HEIGHTS_PX,
    bootstrap: int | None = None,
    seed: int = 0,
    distances: bool = False,
    anatomy: bool = False,
) -> Evaluation:
    """KITTI average precision of detections against labels, entry by entry of two sequences of frames.

    classes: KITTI's Pedestrian, Car and Cyclist, or others that the labels name, in any case. min_heights: [px] a 2D
    box must be taller for an object to count as easy, moderate and hard; scale it with the images. bootstrap: how often
    to resample the frames for 95 % intervals, None for never; seed: of that. distances: also by distance. anatomy: also
    with one part of every detection replaced by the truth, see `anatomy.corrected_detections`.

    Raises InputError where the sequences differ in length or are empty, where detections have no scores, for numbers
    that are not finite, and for unknown classes.
    """
    names = known_classes(classes, present=(name for objects in ground_truth for name in objects.names.tolist()))
    if len(min_heights) != 3 or not all(0 <= least < np.inf for least in min_heights):
        raise InputError(f"min_heights: expected three heights of at least 0 px, got {min_heights}")
    if bootstrap is not None and bootstrap < 1:
        raise InputError(f"bootstrap: expected a positive number of resamplings, got {bootstrap}: 200 are usual")
    paired = PairedFrames.of(ground_truth, detections)
    whole = Scope.at_depth(paired)
    evaluation = evaluate_scope(
        paired, whole, names, min_heights, draws=draw_frames(paired.frames, samples=bootstrap or 0, seed=seed)
    )
    if distances:
        ranges = {name: Scope.at_depth(paired, from_m=near, to_m=far) for name, (near, far) in DISTANCES_M.items()}
        parts = {name: evaluate_scope(paired, scope, names, min_heights) for name, scope in ranges.items()}
        evaluation = replace(evaluation, by_distance={name: _where_objects_are(part) for name, part in parts.items()})
    if anatomy:
        corrected = {
            name: PairedFrames.joined(paired.frames, paired.truth, rows)
            for name, rows in corrected_detections(paired).items()
        }
        parts = {name: evaluate_scope(other, whole, names, min_heights) for name, other in corrected.items()}
        evaluation = replace(evaluation, anatomy=parts)
    notes = [*_notes(paired, names, min_heights), *_empty(paired, evaluation), *_odd_detections(paired, names)]
    return replace(evaluation, notes=tuple(notes))


def _notes(paired: PairedFrames, classes: Sequence[str], min_heights: Sequence[float]) -> Iterator[str]:
    """What a reader of the numbers should know."""
    if tuple(min_heights) != MIN_HEIGHTS_PX:
        yield _heights(min_heights)
    labelled = set(paired.truth.names.tolist())
    if absent := [name for name in classes if name.lower() not in labelled]:
        yield f"no object of {', '.join(absent)} is labelled: 0 says nothing about the detector there"
    without = Counter(paired.truth.names[lacks_alpha(paired.truth.objects)].tolist())
    if unturned := [f"{without[name.lower()]} of {name}" for name in classes if without[name.lower()]]:
        yield f"labels without alpha ({NO_ALPHA:g}: {', '.join(unturned)}): orientation has no value there"
    only_2d = Counter(paired.truth.names[~has_3d_box(paired.truth.objects)].tolist())
    if flat := [f"{only_2d[name.lower()]} of {name}" for name in classes if only_2d[name.lower()]]:
        yield f"objects labelled in 2D alone ({', '.join(flat)}) count as missed in bird's eye and 3D"
    known = labelled | {name.lower() for name in (*classes, *KITTI_CLASSES)}
    detected = Counter(name for name in paired.detections.names.tolist() if name not in known)
    if detected:
        others = ", ".join(f"{count} of {name}" for name, count in detected.most_common(_NAMED))
        yield f"detections of classes that are neither KITTI's nor labelled are left out: {others}"


def _empty(paired: PairedFrames, evaluation: Evaluation) -> Iterator[str]:
    """Zeros that come from what is not there, in classes that are labelled."""
    labelled, detected = set(paired.truth.names.tolist()), set(paired.detections.names.tolist())
    results = [one for one in evaluation.results if one.metric == "bbox" and one.class_name.lower() in labelled]
    levels = {
        one.class_name: [name for name, count in zip(DIFFICULTIES, one.objects, strict=True) if not count]
        for one in results
    }
    if nothing := [f"{name} ({', '.join(missing)})" for name, missing in levels.items() if missing]:
        yield f"no labelled object is tall, visible and whole enough for {', '.join(nothing)}: 0 says nothing there"
    if undetected := [name for name in levels if name.lower() not in detected]:
        yield f"there is no detection of {', '.join(undetected)}"


def _odd_detections(paired: PairedFrames, classes: Sequence[str]) -> Iterator[str]:
    """Detections that count otherwise than who wrote them may think."""
    rows = paired.detections
    turned = int((np.abs(rows.objects.yaw) > MOST_ANGLE_RAD).sum())
    if turned:
        yield f"{turned} detections have a rotation_y beyond {MOST_ANGLE_RAD:g}: it is expected in radians, not degrees"
    if without := int(lacks_alpha(rows.objects).sum()):
        yield f"{without} detections have no alpha ({NO_ALPHA:g}): orientation has no value"
    own = np.isin(rows.names, [name.lower() for name in classes])
    if flat := int((own & ~has_2d_box(rows.objects)).sum()):
        yield (
            f"{flat} of {int(own.sum())} detections have no 2D box (left < right, top < bottom): they match nothing in "
            "2D, and those without height count nowhere, as all that are too small"
        )
    if repeated := int(own.sum()) - rows[own].distinct():
        yield f"{repeated} detections repeat another of their frame, as if written again: they count as false alarms"


def _heights(min_heights: Sequence[float]) -> str:
    used, usual = (", ".join(f"{least:g}" for least in heights) for heights in (min_heights, MIN_HEIGHTS_PX))
    return f"objects count from 2D heights of {used} px on (easy, moderate, hard) instead of KITTI's {usual}"


def evaluate_scope(
    paired: PairedFrames,
    scope: Scope,
    classes: Sequence[str],
    min_heights: tuple[float, float, float],
    *,
    draws: Int | None = None,
) -> Evaluation:
    """The evaluation of the part of the frames that `scope` names. draws: samples x frames, see `draw_frames`."""
    results = [
        result
        for contest in contests(classes)
        for result in _results(contest, tallies(paired, contest, min_heights, scope), frames=paired.frames, draws=draws)
    ]
    unturned = set(paired.truth.names[lacks_alpha(paired.truth.objects)].tolist())
    if lacks_alpha(paired.detections.objects).any():  # of any class, as officially
        unturned |= {name.lower() for name in classes}
    everywhere = np.ones(3, np.bool_)
    results = [
        result.without_value(everywhere) if result.metric == "aos" and result.class_name.lower() in unturned else result
        for result in results
    ]
    return Evaluation(frames=paired.frames, results=tuple(results))


def _results(contest: Contest, counts: Sequence[Tally], *, frames: int, draws: Int | None) -> Iterator[Result]:
    """The contest's curves at each difficulty, and the intervals of their means over the draws."""
    curves = resampled_curves(counts, np.ones((1, frames), np.int64))
    objects = np.array([len(tally.objects) for tally in counts])
    drawn = resampled_curves(counts, draws) if draws is not None and len(draws) else {}
    kinds = (
        {"bbox": "precision", "aos": "similarity"} if contest.geometry == "bbox" else {contest.geometry: "precision"}
    )
    for metric, kind in kinds.items():
        intervals = {recall: interval(average_precision(drawn[kind], recall)) for recall in RECALLS if drawn}
        yield Result(contest.class_name, metric, contest.least_overlap, curves[kind][0], objects, intervals)


def _where_objects_are(evaluation: Evaluation) -> Evaluation:
    """Without the official zeros where there is no object, which is common in a range of distances."""
    return replace(
        evaluation, results=tuple(result.without_value(result.objects == 0) for result in evaluation.results)
    )
