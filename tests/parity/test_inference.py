"""What the network says in evaluation mode, against recordings of the original implementation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from monoskd.geometry.camera import Camera, PublishedLetterbox
from monoskd.models.did_m3d import DidM3D
from monoskd.models.did_m3d.decode import merge_depth
from monoskd.models.did_m3d.published import from_published
from monoskd.models.did_m3d.structures import DidM3DOutput
from monoskd.structures import Views

RELATIVE = 1e-4


@pytest.fixture(scope="module")
def detector(named_state: Callable[[str], dict[str, Tensor]]) -> DidM3D:
    return from_published(named_state("did"))[0]


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Tensor]:
    with np.load(golden / "inference.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def output(
    detector: DidM3D,
    rgb_and_depth: tuple[Tensor, Tensor],
    published_camera: Camera,
    published_letterbox: PublishedLetterbox,
) -> DidM3DOutput:
    with torch.inference_mode():
        return detector.forward_normalised(
            rgb_and_depth[0], Views(rgb_and_depth[0], published_camera, published_letterbox)
        )


@pytest.fixture(scope="module")
def rows(output: DidM3DOutput, recorded: dict[str, Tensor]) -> Tensor:
    """Which of our rows is each recorded one: that of the same image, class and place.

    The recording is in order of heat, where two rows may be as near as rounding.
    """
    theirs = recorded["detections"].flatten(0, 1)
    image = torch.arange(len(theirs)) // recorded["detections"].shape[1]
    ours = torch.stack([output.rois.image, output.rois.label], 1)
    other = (torch.stack([image, theirs[:, 0].long()], 1)[:, None] != ours).any(-1)
    centres = (output.boxes[:, :2] + output.boxes[:, 2:]) / 2
    order = (torch.cdist(theirs[:, 2:4], centres) + 1e6 * other).argmin(1)
    assert len(order.unique()) == len(output.boxes)
    return order


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-4 of the recording's largest value."""
    assert_close(ours, theirs, rtol=0, atol=RELATIVE * theirs.abs().max().item())


def test_the_neck_repeats_the_recording(output: DidM3DOutput, recorded: dict[str, Tensor]) -> None:
    close(output.features["neck.32"], recorded["neck_stride32"])
    close(output.features["neck.4"][:, :, ::4, ::4], recorded["neck_stride4"])


@pytest.mark.parametrize("name", ["heatmap", "offset_2d", "size_2d"])
def test_a_dense_head_repeats_the_recording(
    name: str, detector: DidM3D, output: DidM3DOutput, recorded: dict[str, Tensor]
) -> None:
    with torch.inference_mode():
        close(detector.dense(output.features["neck.4"])[name][:, :, ::2, ::2], recorded[f"head_{name}"])


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("offset_3d", "offset_3d"),
        ("size_3d", "size_3d"),
        ("heading", "heading"),
        ("visual_depth", "vis_depth"),
        ("attribute_depth", "att_depth"),
        ("depth", "ins_depth"),
        ("visual_log_variance", "vis_depth_uncer"),
        ("attribute_log_variance", "att_depth_uncer"),
        ("depth_log_variance", "ins_depth_uncer"),
    ],
)
def test_a_regional_head_repeats_the_recording(
    name: str, published: str, output: DidM3DOutput, rows: Tensor, recorded: dict[str, Tensor]
) -> None:
    close(output.heads[name][rows], recorded[f"head_{published}"])


def test_the_detections_repeat_the_recording(output: DidM3DOutput, rows: Tensor, recorded: dict[str, Tensor]) -> None:
    left, top, right, bottom = output.boxes.unbind(1)
    depth, confidence = merge_depth(output.heads["depth"], output.heads["depth_log_variance"])
    box = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], 1)
    columns = [
        output.rois.label[:, None],
        output.scores[:, None],
        box,
        output.heads["heading"],
        output.heads["size_3d"],
        output.rois.cell + output.heads["offset_3d"],
        depth[:, None],
        confidence[:, None],
    ]
    ours = torch.cat(columns, 1)[rows]
    theirs = recorded["detections"].flatten(0, 1)
    assert_close(ours, theirs, rtol=RELATIVE, atol=RELATIVE * 0.1)


def test_detections_are_best_first(output: DidM3DOutput, recorded: dict[str, Tensor]) -> None:
    ours = output.scores.reshape(recorded["detections"].shape[:2])
    close(ours, recorded["detections"][..., 1])
