"""KITTI's greedy matching of true objects and detections, for all thresholds at once.

True objects choose one after another, in file order; each takes the free candidate that it prefers. Two facts make this
fast without changing the result. Pairs that share neither an object nor a detection, directly or through others, do not
affect each other, so all such components are matched side by side. And the result of a component changes only where the
threshold passes the score of one of its own detections, so one matching for each of these gives all thresholds.

Components of more than `LARGE` pairs, which only crowds have, are matched by inserting one detection after another.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from monoskd.evaluation.pairs import Bool, Float, Int, Pairs
from monoskd.geometry.arrays import ranges

LARGE = 200


@dataclass(frozen=True)
class Changes:
    """How the set of closed pairs changes as the threshold falls.

    A pair is closed at a threshold if the signs (+1 closes, -1 opens) of its changes at or above it add up to 1.
    pair: n indices of pairs; score: n, the threshold from which on the change holds; sign: n.
    """

    pair: Int
    score: Float
    sign: Int


@dataclass(frozen=True)
class Matching:
    """Which of some pairs close.

    best_scored: the indices of the pairs that close when every true object takes its best-scored candidate (this finds
    the thresholds). changes: what closes at each threshold when it takes the best-overlapping one. counted: of every
    detection, whether it can be a hit or a false alarm; one that cannot can only absorb an object.
    """

    pairs: Pairs
    counted: Bool
    best_scored: Int
    changes: Changes

    @classmethod
    def of(cls, pairs: Pairs, *, scores: Float, counted: Bool) -> "Matching":
        """Match the pairs. scores, counted: of every detection.

        At a threshold a counted detection is preferred to one that is not counted; among the former the best overlap
        wins; among the latter, and among equals, the first in the file.
        """
        component = components(pairs)
        best_scored = take_turns(component, pairs.truth, pairs.detection, preference=-scores[pairs.detection])
        preference = np.where(counted[pairs.detection], -pairs.overlap, 0.0)
        return cls(pairs, counted, np.flatnonzero(best_scored), _changes(pairs, component, scores, preference))


def take_turns(group: Int, chooser: Int, chosen: Int, *, preference: Float) -> Bool:
    """In each group the choosers, in ascending order, take the free chosen with the lowest preference value.

    group, chooser, chosen, preference: of n pairs; groups share neither choosers nor chosen. Among equal preferences
    the first pair wins. Returns which of the n pairs close. The k-th pairs of all groups are settled together, those of
    large groups one after another.
    """
    closed = np.zeros(len(group), np.bool_)
    if not len(group):
        return closed
    order = np.lexsort((preference, chooser, group))
    large = np.bincount(group)[group[order]] > LARGE
    closed[_one_by_one(order[large], chooser, chosen)] = True
    order = order[~large]
    if not len(order):
        return closed
    turn = _position_in_run(group[order])
    by_turn = order[np.argsort(turn, kind="stable")]
    chooser_free = np.ones(chooser.max() + 1, np.bool_)
    chosen_free = np.ones(chosen.max() + 1, np.bool_)
    for rows in np.split(by_turn, np.cumsum(np.bincount(turn))[:-1]):
        closing = rows[chooser_free[chooser[rows]] & chosen_free[chosen[rows]]]
        closed[closing] = True
        chooser_free[chooser[closing]] = False
        chosen_free[chosen[closing]] = False
    return closed


def _one_by_one(rows: Int, chooser: Int, chosen: Int) -> list[int]:
    """The pairs of these rows that close, in the order of the rows."""
    taken: tuple[set[int], set[int]] = (set(), set())
    closed = []
    for row, first, second in zip(rows.tolist(), chooser[rows].tolist(), chosen[rows].tolist(), strict=True):
        if first not in taken[0] and second not in taken[1]:
            taken[0].add(first)
            taken[1].add(second)
            closed.append(row)
    return closed


def components(pairs: Pairs) -> Int:
    """For each pair the number of its connected component in the graph of true objects and detections."""
    label = pairs.truth
    while len(label):
        spread = _least_of_each(pairs.truth, _least_of_each(pairs.detection, label))
        if np.array_equal(spread, label):
            break
        label = spread
    return np.unique(label, return_inverse=True)[1]


def _changes(pairs: Pairs, component: Int, scores: Float, preference: Float) -> Changes:
    """What closes and opens as the threshold falls. component, preference: of each pair; scores: of each detection."""
    large = np.bincount(component)[component] > LARGE
    played = _played(pairs, np.flatnonzero(~large), component, scores, preference)
    inserted = _inserted(pairs, np.flatnonzero(large), scores, preference)
    return Changes(*(np.concatenate([getattr(part, name) for part in (played, inserted)]) for name in vars(played)))


def _played(pairs: Pairs, which: Int, component: Int, scores: Float, preference: Float) -> Changes:
    """Match each component once for each of its detections, as the last one above the threshold.

    Rounds are numbered through, those of a component in falling order of score: a detection takes part from the round
    in which it is the last until the component's end. A round between two equal scores belongs to no threshold and does
    no harm: its changes and the next round's have one score, so only their sum is used.
    """
    pairs, preference = pairs[which], preference[which]
    _, component = np.unique(component[which], return_inverse=True)
    detections, first_pair = np.unique(pairs.detection, return_index=True)
    last_in_round = detections[np.lexsort((-scores[detections], component[first_pair]))]
    enters = np.empty(len(scores), np.int64)
    enters[last_in_round] = np.arange(len(last_in_round))
    rounds_until_end = np.cumsum(np.bincount(component[first_pair]))  # of each component

    entry = enters[pairs.detection]
    plays = rounds_until_end[component] - entry
    pair = np.repeat(np.arange(len(pairs)), plays)
    nth_play = ranges(plays)
    round_ = entry[pair] + nth_play
    closed = take_turns(
        round_,
        _number_apart(round_, pairs.truth[pair]),
        _number_apart(round_, pairs.detection[pair]),
        preference=preference[pair],
    )
    before = np.concatenate([[False], closed[:-1]]) & (nth_play > 0)
    sign = closed.astype(np.int64) - before
    changed = np.flatnonzero(sign)
    return Changes(which[pair[changed]], scores[last_in_round[round_[changed]]], sign[changed])


def _inserted(pairs: Pairs, which: Int, scores: Float, preference: Float) -> Changes:
    """The same by inserting the detections one after another, in falling order of score.

    With one more detection one more candidate is free. The first object that prefers it to its own takes it, and its
    former candidate is the one that is free for the objects after it; and so on until no object wants it.
    """
    detection, truth = pairs.detection[which], pairs.truth[which]
    rank = np.empty(len(which), np.int64)
    rank[np.argsort(preference[which], kind="stable")] = np.arange(len(which))
    wanted_by: dict[int, list[tuple[int, int]]] = {}  # detection -> (object, pair), objects ascending
    for row in np.lexsort((truth, detection)).tolist():
        wanted_by.setdefault(int(detection[row]), []).append((int(truth[row]), row))
    holds: dict[int, int] = {}  # object -> pair
    changes: list[tuple[int, float, int]] = []
    present = np.unique(detection)
    for entering in present[np.argsort(-scores[present], kind="stable")].tolist():
        score, free, after = float(scores[entering]), entering, -1
        while free is not None:
            candidates = wanted_by[free]
            free = None
            for taker, row in candidates[bisect_right(candidates, (after, len(which))) :]:
                held = holds.get(taker)
                if held is None or rank[row] < rank[held]:
                    holds[taker], after = row, taker
                    changes.append((row, score, 1))
                    if held is not None:
                        changes.append((held, score, -1))
                        free = int(detection[held])
                    break
    pair, score_of, sign = zip(*changes, strict=True) if changes else ((), (), ())
    return Changes(which[np.array(pair, np.int64)], np.array(score_of, np.float64), np.array(sign, np.int64))


def _number_apart(group: Int, item: Int) -> Int:
    """Numbers for items that differ where the group or the item differs, ascending with the item in each group."""
    return np.unique(group * (item.max(initial=0) + 1) + item, return_inverse=True)[1]


def _least_of_each(group: Int, value: Int) -> Int:
    """For each row the least value among the rows of its group."""
    least = np.full(group.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, group, value)
    return least[group]


def _position_in_run(sorted_group: Int) -> Int:
    """0, 1, 2, ... for each run of equal values."""
    starts = np.flatnonzero(np.diff(sorted_group, prepend=sorted_group[0] - 1))
    return ranges(np.diff(starts, append=len(sorted_group)))
