"""KITTI's greedy matching of true objects and detections, for every threshold at once.

True objects choose one after another, in file order; each takes the free candidate that it prefers. Two facts make
this fast without changing it. Pairs that share neither an object nor a detection, directly or through others, do not
affect each other, so all such components can be settled side by side. And the outcome of a component changes only
where the threshold passes the score of one of its own detections, so playing it once for each of those tells it for
every threshold there is.
"""

from dataclasses import dataclass

import numpy as np

from monoskd.evaluation.scene import Bool, Float, Int, Pairs


@dataclass(frozen=True)
class Changes:
    """How the set of closed pairs grows and shrinks as the threshold falls.

    A pair is closed at a threshold if the signs (+1 closes, -1 opens) of its changes at or above it add up to 1.
    pair: n indices of the pairs; score: n, the threshold from which on the change holds; sign: n.
    """

    pair: Int
    score: Float
    sign: Int


@dataclass(frozen=True)
class Matching:
    """What closes with what among some pairs.

    best_scored: the indices of the pairs that close when every true object takes its best-scored candidate (this
    finds the thresholds). changes: what closes at each threshold when it takes the best-overlapping one. counted: of
    every detection, whether it can be a hit or a false alarm; one that cannot can only absorb.
    """

    pairs: Pairs
    counted: Bool
    best_scored: Int
    changes: Changes

    @classmethod
    def of(cls, pairs: Pairs, *, scores: Float, counted: Bool) -> "Matching":
        """Match. scores, counted: of every detection.

        Against the threshold, a counted detection is preferred to one that is not; among the former the best overlap
        wins, among the latter, and among equals, the first in the file.
        """
        component = components(pairs)
        best_scored = take_turns(component, pairs.truth, pairs.detection, preference=-scores[pairs.detection])
        preference = np.where(counted[pairs.detection], -pairs.overlap, 0.0)
        return cls(pairs, counted, np.flatnonzero(best_scored), _changes(pairs, component, scores, preference))


def take_turns(group: Int, chooser: Int, chosen: Int, *, preference: Float) -> Bool:
    """In each group the choosers, in ascending order, take the free chosen with the least preference value.

    group, chooser, chosen, preference: of n pairs; groups share neither choosers nor chosen. Among equal preferences
    the first pair wins. Returns which of the n pairs close. The k-th pairs of all groups are settled together.
    """
    closed = np.zeros(len(group), np.bool_)
    if not len(group):
        return closed
    order = np.lexsort((preference, chooser, group))
    turn = _place_in_run(group[order])
    by_turn = order[np.argsort(turn, kind="stable")]
    chooser_free = np.ones(chooser.max() + 1, np.bool_)
    chosen_free = np.ones(chosen.max() + 1, np.bool_)
    for rows in np.split(by_turn, np.cumsum(np.bincount(turn))[:-1]):
        closing = rows[chooser_free[chooser[rows]] & chosen_free[chosen[rows]]]
        closed[closing] = True
        chooser_free[chooser[closing]] = False
        chosen_free[chosen[closing]] = False
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
    """Play every component once for each of its detections, as the last one above the threshold.

    Rounds are numbered through, those of a component in falling order of score: a detection takes part from the round
    in which it is the last until the component's end. A round between two equal scores corresponds to no threshold
    and does no harm: its changes and the next round's share a score, so only their sum is ever seen.
    """
    detections, first_pair = np.unique(pairs.detection, return_index=True)
    last_in_round = detections[np.lexsort((-scores[detections], component[first_pair]))]
    enters = np.empty(len(scores), np.int64)
    enters[last_in_round] = np.arange(len(last_in_round))
    rounds_until_end = np.cumsum(np.bincount(component[first_pair]))  # of each component

    entry = enters[pairs.detection]
    plays = rounds_until_end[component] - entry
    pair = np.repeat(np.arange(len(pairs)), plays)
    nth_play = np.arange(len(pair)) - np.repeat(np.cumsum(plays) - plays, plays)
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
    return Changes(pair[changed], scores[last_in_round[round_[changed]]], sign[changed])


def _number_apart(group: Int, item: Int) -> Int:
    """Numbers for items that differ where the group or the item differs, ascending with the item in each group."""
    return np.unique(group * (item.max(initial=0) + 1) + item, return_inverse=True)[1]


def _least_of_each(group: Int, value: Int) -> Int:
    """For each row the least value among the rows of its group."""
    least = np.full(group.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, group, value)
    return least[group]


def _place_in_run(sorted_group: Int) -> Int:
    """0, 1, 2, ... anew for each run of equal values."""
    starts = np.flatnonzero(np.diff(sorted_group, prepend=sorted_group[0] - 1))
    return np.arange(len(sorted_group)) - np.repeat(starts, np.diff(starts, append=len(sorted_group)))
