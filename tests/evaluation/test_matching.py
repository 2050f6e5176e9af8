"""The matching for all thresholds at once against the official one, written out, threshold by threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monoskd.evaluation import matching as matching_module
from monoskd.evaluation.matching import Changes, Matching, components, take_turns
from monoskd.evaluation.pairs import Pairs

# Few distinct values, so that ties are common.
VALUES = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Pairs, np.ndarray, np.ndarray]:
    """Up to seven objects and seven detections, some pairs of which overlap: pairs, scores, counted."""
    objects, detections = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    all_pairs = [(t, d) for t in range(objects) for d in range(detections)]
    some = sorted(draw(st.sets(st.sampled_from(all_pairs))))
    overlap = np.array([draw(VALUES) for _ in some])
    truth, detection = np.array(some, np.int64).reshape(-1, 2).T
    scores = np.array([draw(VALUES) for _ in range(detections)])
    counted = np.array([draw(st.booleans()) for _ in range(detections)])
    return Pairs(truth, detection, overlap), scores, counted


def official_best_scored(pairs: Pairs, scores: np.ndarray) -> set[int]:
    taken: set[int] = set()
    closed: set[int] = set()
    for truth in range(pairs.truth.max(initial=-1) + 1):
        best = None
        for pair in np.flatnonzero(pairs.truth == truth):
            detection = pairs.detection[pair]
            if detection not in taken and (best is None or scores[detection] > scores[pairs.detection[best]]):
                best = pair
        if best is not None:
            taken.add(pairs.detection[best])
            closed.add(int(best))
    return closed


def official_at(threshold: float, pairs: Pairs, scores: np.ndarray, counted: np.ndarray) -> set[int]:
    taken: set[int] = set()
    closed: set[int] = set()
    for truth in range(pairs.truth.max(initial=-1) + 1):
        best, best_overlap, best_is_ignored = None, 0.0, False
        for pair in np.flatnonzero(pairs.truth == truth):
            detection, overlap = pairs.detection[pair], pairs.overlap[pair]
            if detection in taken or scores[detection] < threshold:
                continue
            if counted[detection] and (overlap > best_overlap or best_is_ignored):
                best, best_overlap, best_is_ignored = pair, overlap, False
            elif not counted[detection] and best is None:
                best, best_is_ignored = pair, True
        if best is not None:
            taken.add(pairs.detection[best])
            closed.add(int(best))
    return closed


def closed_at(threshold: float, changes: Changes, pairs: int) -> set[int]:
    sums = np.zeros(pairs, np.int64)
    np.add.at(sums, changes.pair[changes.score >= threshold], changes.sign[changes.score >= threshold])
    assert set(sums.tolist()) <= {0, 1}
    return set(np.flatnonzero(sums).tolist())


@pytest.mark.parametrize("large", [matching_module.LARGE, 4, 0])
@given(crowd=crowds())
@settings(max_examples=100, deadline=None)
def test_closes_what_the_official_loop_closes(large: int, crowd: tuple[Pairs, np.ndarray, np.ndarray]) -> None:
    pairs, scores, counted = crowd
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching_module, "LARGE", large)
        matching = Matching.of(pairs, scores=scores, counted=counted)
    assert set(matching.best_scored.tolist()) == official_best_scored(pairs, scores)
    for threshold in (0.0, *np.unique(scores), 1.0):
        ours = closed_at(threshold, matching.changes, len(pairs))
        assert ours == official_at(threshold, pairs, scores, counted), threshold


@given(crowds())
def test_components_are_closed_and_connected(crowd: tuple[Pairs, np.ndarray, np.ndarray]) -> None:
    pairs = crowd[0]
    component = components(pairs)
    for a in range(len(pairs)):
        reached = {a}
        while True:
            truths, detections = pairs.truth[list(reached)], pairs.detection[list(reached)]
            wider = set(np.flatnonzero(np.isin(pairs.truth, truths) | np.isin(pairs.detection, detections)).tolist())
            if wider == reached:
                break
            reached = wider
        assert reached == set(np.flatnonzero(component == component[a]).tolist())


def test_first_of_equals_wins() -> None:
    zeros, choices = np.zeros(3, np.int64), np.array([0, 1, 2])
    assert take_turns(zeros, zeros, choices, preference=np.zeros(3)).tolist() == [True, False, False]


@pytest.mark.parametrize("empty", [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))])
def test_no_pairs_no_matching(empty: Pairs) -> None:
    matching = Matching.of(empty, scores=np.array([0.5]), counted=np.array([True]))
    assert len(matching.best_scored) == len(matching.changes.pair) == 0


def test_a_crowd_of_thousands_of_pairs_is_matched_in_seconds() -> None:
    """200 objects and 400 detections that all overlap: 80 000 pairs, of which matching anew makes 16 million."""
    truth, detection = np.divmod(np.arange(200 * 400), 400)
    random = np.random.default_rng(0)
    pairs = Pairs(truth, detection, random.uniform(0.3, 1, len(truth)))
    scores = random.uniform(0, 1, 400)
    matching = Matching.of(pairs, scores=scores, counted=np.ones(400, np.bool_))
    for threshold in (0.2, 0.7):
        closed = closed_at(threshold, matching.changes, len(pairs))
        assert len(closed) == min(200, (scores >= threshold).sum())
