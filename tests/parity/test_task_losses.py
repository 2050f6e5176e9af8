"""Task losses and their gradients in training mode, against recordings of the original implementation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.geometry.camera import Camera, PublishedLetterbox
from monoskd.models.did_m3d import DidM3D
from monoskd.models.published import from_published
from monoskd.structures import Targets

LOSSES = {
    "heatmap": "seg_loss",
    "offset_2d": "offset2d_loss",
    "size_2d": "size2d_loss",
    "offset_3d": "offset3d_loss",
    "size_3d": "size3d_loss",
    "heading": "heading_loss",
    "depth": "depth_loss",
}
MODULES = {
    "backbone": "backbone",
    "neck": "feat_up",
    "dense.heatmap": "heatmap",
    "dense.offset_2d": "offset_2d",
    "dense.size_2d": "size_2d",
    "regional.offset_3d": "offset_3d",
    "regional.size_3d": "size_3d",
    "regional.heading": "heading",
    "regional.visual_depth": "vis_depth",
    "regional.attribute_depth": "att_depth",
    "regional.visual_log_variance": "vis_depth_uncer",
    "regional.attribute_log_variance": "att_depth_uncer",
}


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, float]:
    with np.load(golden / "task_losses.npz") as file:
        return {name: float(file[name]) for name in file}


@pytest.fixture(scope="module")
def trained(
    named_state: Callable[[str], dict[str, Tensor]],
    rgb_and_depth: tuple[Tensor, Tensor],
    published_camera: Camera,
    published_letterbox: PublishedLetterbox,
    recorded_targets: Targets,
) -> tuple[DidM3D, dict[str, float]]:
    """The network with the gradient of its losses' plain sum, and the losses."""
    detector = from_published(named_state("did"))[0].train()
    output = detector.look(rgb_and_depth[0], published_camera, published_letterbox, recorded_targets.rois)
    losses = detector.loss(output, recorded_targets)
    torch.stack(list(losses.values())).sum().backward()
    return detector, {name: float(loss.detach()) for name, loss in losses.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_repeats_the_recording(
    name: str, trained: tuple[DidM3D, dict[str, float]], recorded: dict[str, float]
) -> None:
    assert trained[1][name] == pytest.approx(recorded[LOSSES[name]], rel=1e-4)


@pytest.mark.parametrize("module", MODULES)
def test_a_gradient_norm_repeats_the_recording(
    module: str, trained: tuple[DidM3D, dict[str, float]], recorded: dict[str, float]
) -> None:
    gradients = [weight.grad for weight in trained[0].get_submodule(module).parameters() if weight.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert float(norm) == pytest.approx(recorded[f"grad_{MODULES[module]}"], rel=1e-3)


def test_every_recorded_loss_is_compared(recorded: dict[str, float]) -> None:
    ours = {*LOSSES.values(), *(f"grad_{name}" for name in MODULES.values()), "total"}
    assert set(recorded) == ours
