"""Task weights and learning rate against those that the original implementation recorded."""

from pathlib import Path

import numpy as np
import pytest

from monoskd.engine.schedule import LearningRateSchedule, TaskWeights, shift_names
from monoskd.models.did_m3d import DidM3D

OURS = {
    "offset2d_loss": "offset_2d",
    "size2d_loss": "size_2d",
    "depth_loss": "depth",
    "offset3d_loss": "offset_3d",
    "size3d_loss": "size_3d",
    "heading_loss": "heading",
    "seg_loss": "heatmap",
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}


@pytest.mark.parametrize(
    ("column", "distillation"),
    [("weights_task_only", ()), ("weights_published_distillation", ("affinity_kd", "head_kd", "spearman_kd"))],
)
def test_task_weights(golden: Path, column: str, distillation: tuple[str, ...]) -> None:
    recorded = np.load(golden / "hierarchical_task_learning.npz")
    names, tasks = recorded["loss_names"].tolist(), [OURS[name] for name in recorded["weight_names"].tolist()]
    weights = TaskWeights(DidM3D.task_graph)
    rows = [weights.start()]
    for epoch in range(1, len(recorded[column])):
        losses = dict(zip(names, recorded["losses"][epoch].tolist(), strict=True))
        by_task = {task: losses[THEIRS[task]] for task in DidM3D.task_graph}
        if distillation:
            by_task = shift_names(by_task, [losses[name] for name in distillation])
        rows.append(weights.advance(by_task, epoch))
    ours = np.array([[row[task] for task in tasks] for row in rows])
    np.testing.assert_allclose(ours, recorded[column], atol=1e-6)  # theirs is computed in float32


def test_learning_rate(golden: Path) -> None:
    recorded = np.load(golden / "learning_rate.npz")["lr"]
    published = LearningRateSchedule(milestones_after_warmup=True, once_an_epoch=True)
    np.testing.assert_allclose([published.rate(epoch + 0.9) for epoch in range(len(recorded))], recorded, rtol=1e-12)
