"""Task losses and their gradients in training mode, against recordings of the original implementation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.geometry.camera import Camera, PublishedLetterbox
from monoskd.models.did_m3d import DidM3D
from monoskd.models.did_m3d.published import from_published
from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.structures import Views

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
def losses_in(
    named_state: Callable[[str], dict[str, Tensor]],
    rgb_and_depth: tuple[Tensor, Tensor],
    published_camera: Camera,
    published_letterbox: PublishedLetterbox,
    recorded_targets: DidM3DTargets,
) -> Callable[[torch.dtype], tuple[DidM3D, dict[str, Tensor]]]:
    """`losses_in(dtype)`: the network in training mode and its losses, computed in this precision."""

    def compute(dtype: torch.dtype) -> tuple[DidM3D, dict[str, Tensor]]:
        detector = from_published(named_state("did"))[0].train().to(dtype)
        camera, letterbox = Camera(published_camera.P.to(dtype)), published_letterbox.map(lambda value: value.to(dtype))
        rgb = rgb_and_depth[0].to(dtype)
        output = detector.forward_normalised(rgb, Views(rgb, camera, letterbox), rois=recorded_targets.rois)
        return detector, detector.loss(output, recorded_targets)

    return compute


@pytest.fixture(scope="module")
def losses(losses_in: Callable[[torch.dtype], tuple[DidM3D, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """In single precision, as the recording."""
    return losses_in(torch.float32)[1]


@pytest.fixture(scope="module")
def trained(losses_in: Callable[[torch.dtype], tuple[DidM3D, dict[str, Tensor]]]) -> DidM3D:
    """The network with the gradient of its losses' plain sum.

    In double precision: the backbone's gradient passes through BatchNorms of few values, and single precision moves its
    norm by up to 1e-3, as much as the tolerance. So only the recording's own rounding is left.
    """
    detector, losses = losses_in(torch.float64)
    torch.stack(list(losses.values())).sum().backward()
    return detector


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_repeats_the_recording(name: str, losses: dict[str, Tensor], recorded: dict[str, float]) -> None:
    assert losses[name].item() == pytest.approx(recorded[LOSSES[name]], rel=1e-4)


@pytest.mark.parametrize("module", MODULES)
def test_a_gradient_norm_repeats_the_recording(module: str, trained: DidM3D, recorded: dict[str, float]) -> None:
    gradients = [weight.grad for weight in trained.get_submodule(module).parameters() if weight.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert norm.item() == pytest.approx(recorded[f"grad_{MODULES[module]}"], rel=1e-3)


def test_every_recorded_loss_is_compared(recorded: dict[str, float]) -> None:
    ours = {*LOSSES.values(), *(f"grad_{name}" for name in MODULES.values()), "total"}
    assert set(recorded) == ours
