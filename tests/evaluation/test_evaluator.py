from dataclasses import replace

import numpy as np
import pytest

from monoskd.evaluation.evaluator import KittiEvaluator
from monoskd.objects import Objects


def test_a_log_has_both_of_kittis_overlaps() -> None:
    """Cars found with an overlap of 0.6, pedestrians with 0.4: between the two overlaps of their class."""
    n = 160
    names = np.array(["Car", "Pedestrian"] * (n // 2))
    length = np.where(names == "Car", 4.0, 1.0)
    truth = Objects(
        names=names,
        truncation=np.zeros(n),
        occlusion=np.zeros(n, np.int64),
        alpha=np.zeros(n),
        boxes_2d=np.tile([0.0, 0.0, 100.0, 100.0], (n, 1)) + 200 * np.arange(n)[:, None],
        dimensions=np.stack([np.full(n, 1.5), np.ones(n), length], -1),
        bottom=np.stack([np.zeros(n), np.full(n, 1.5), 3.0 * np.arange(1, n + 1)], -1),
        yaw=np.zeros(n),
    )
    overlap = np.where(names == "Car", 0.6, 0.4)
    shift = length * (1 - overlap) / (1 + overlap)  # along the length: (l - s) / (l + s) is the overlap
    found = replace(truth, bottom=truth.bottom + shift[:, None] * [1, 0, 0], scores=np.linspace(0.9, 0.1, n))
    summary = KittiEvaluator(classes=("Car", "Pedestrian")).summary([truth], [found])
    assert summary == {
        **{f"{name}_{kind}": 0 for name in ("Car", "Pedestrian") for kind in ("bev", "3d")},
        **{f"{name}_{kind}_loose": pytest.approx(100) for name in ("Car", "Pedestrian") for kind in ("bev", "3d")},
    }
