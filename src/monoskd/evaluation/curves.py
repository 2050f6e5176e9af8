"""From counts to precision curves, and from curves to average precision."""

from dataclasses import dataclass

import numpy as np

from monoskd.evaluation.pairs import Float, Int

RECALLS = ("R40", "R11")
POINTS = 41
"""A precision curve has a point for every 1/40 of recall, 0 and 1 included."""


@dataclass(frozen=True)
class Tally:
    """Everything that the precision curve of one class, overlap and difficulty depends on, frame by frame.

    objects: t, the frame of every object that should be found. hit_scores: n, falling, of the detections that find
    one when each object takes its best-scored candidate; hit_frames: their frames.
    The counts at a threshold are the sums over those of m changes whose score is at or above it. change_scores:
    falling; change_frames; hits and false_alarms: by how much the true and false positives change; agreement: by how
    much the sum over the hits of (1 + cos(difference of alpha)) / 2 does.
    """

    objects: Int
    hit_scores: Float
    hit_frames: Int
    change_scores: Float
    change_frames: Int
    hits: Int
    false_alarms: Int
    agreement: Float


@dataclass(frozen=True)
class Curve:
    """Precision and orientation similarity, 41 values each in [0, 1]; NaN where a threshold has no detections.

    Position i should stand for a recall of i / 40, but only counts thresholds: see docs/evaluation.md.
    """

    precision: Float
    similarity: Float


def precision_curve(tally: Tally, weights: Int) -> Curve:
    """The curve when frame f of the tally counts `weights[f]` times."""
    hits_so_far = np.cumsum(weights[tally.hit_frames])
    hit_count, objects = int(hits_so_far[-1:].sum()), int(weights[tally.objects].sum())
    chosen = np.searchsorted(hits_so_far, threshold_positions(hit_count, objects), side="right")
    at_or_above = np.searchsorted(-tally.change_scores, -tally.hit_scores[chosen], side="right")
    weight = weights[tally.change_frames]
    hits = _sum_of_first(at_or_above, weight * tally.hits)
    counted = hits + _sum_of_first(at_or_above, weight * tally.false_alarms)
    agreement = _sum_of_first(at_or_above, weight * tally.agreement)
    return Curve(precision=_never_rising(hits, counted), similarity=_never_rising(agreement, counted))


def threshold_positions(hits: int, objects: int) -> Int:
    """Which of the hits, by falling score, become thresholds: those whose recall is nearest to 0, 1/40, 2/40, ...

    A hit is passed over when the next one's recall is nearer to the recall wanted; the last one never is. The float
    arithmetic, down to the adding up of 1/40, is the official one, because ties between neighbours are common.
    """
    positions: list[int] = []
    wanted, position = 0.0, 0
    while position < hits:
        surely_passed_over = int(wanted * objects - 1.5) - 1
        position = min(max(position, surely_passed_over), hits - 1)
        while position < hits - 1 and (position + 2) / objects - wanted < wanted - (position + 1) / objects:
            position += 1
        positions.append(position)
        position += 1
        wanted += 1 / (POINTS - 1)
    return np.array(positions, np.int64)


def average_precision(curves: Float, recall: str) -> Float:
    """Percent, of curves ... x 41: the mean of points 1, 2, .., 40 (R40) or 0, 4, .., 40 (R11); NaN if one is."""
    points = curves[..., 1:] if recall == "R40" else curves[..., ::4]
    percent: Float = points.mean(-1) * 100
    return percent


def _sum_of_first(count: Int, values: Float | Int) -> Float:
    """For each count the sum of that many first values."""
    return np.concatenate([[0.0], np.cumsum(values)])[count]


def _never_rising(part: Float, whole: Float) -> Float:
    """part / whole at the thresholds, zero past the last, and each point raised to the highest that follows it.

    0 / 0 has no value and stays without; other points are raised past it.
    """
    curve = np.zeros(POINTS)
    curve[: len(whole)] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    raised: Float = np.fmax.accumulate(curve[::-1])[::-1]
    return np.where(np.isnan(curve), np.nan, raised)
