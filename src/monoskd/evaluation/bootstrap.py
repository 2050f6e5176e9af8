"""How much the results would change with other frames: the bootstrap over frames.

Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 1979; percentile intervals.
"""

from collections.abc import Sequence

import numpy as np

from monoskd.evaluation.curves import Tally, precision_curve
from monoskd.evaluation.pairs import Float, Int

CONFIDENCE = 0.95


def draw_frames(frames: int, *, samples: int, seed: int) -> Int:
    """samples x frames: how often each frame is drawn when `frames` frames are drawn with replacement."""
    return np.random.default_rng(seed).multinomial(frames, np.full(frames, 1 / frames), size=samples)


def resampled_curves(tallies: Sequence[Tally], draws: Int) -> dict[str, Float]:
    """The curves of every resample, by name of the curve: samples x tallies x 41 points."""
    curves = [[precision_curve(tally, weights) for tally in tallies] for weights in draws]
    return {
        "precision": np.array([[curve.precision for curve in row] for row in curves]),
        "similarity": np.array([[curve.similarity for curve in row] for row in curves]),
    }


def interval(values: Float) -> Float:
    """... x 2: the ends between which 95 % of the values (samples x ...) lie; NaN where a value is missing."""
    tail = (1 - CONFIDENCE) / 2
    return np.moveaxis(np.quantile(values, (tail, 1 - tail), axis=0), 0, -1)
