"""Detector outputs and targets for the losses on answers."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets

ROWS, COLUMNS = 12, 20


@pytest.fixture
def targets() -> DidM3DTargets:
    """Three supervised objects in two of three images; the second image has one that is listed and not supervised."""
    box = torch.tensor([[2.0, 1.0, 9.0, 8.0], [11.3, 4.2, 17.9, 7.7], [1.2, 6.0, 4.9, 11.5]])
    return targets_of(box, image=torch.tensor([0, 0, 1]), unsupervised=torch.tensor([0, 1, 0]))


def targets_of(box: Tensor, *, image: Tensor, unsupervised: Tensor) -> DidM3DTargets:
    """DidM3DTargets with these 2D boxes [cells]; what no loss here reads is zero."""
    n = len(box)
    centre = (box[:, :2] + box[:, 2:]) / 2
    grid = torch.zeros(n, 7, 7)
    return DidM3DTargets(
        heatmap=torch.zeros(3, 3, ROWS, COLUMNS),
        image=image,
        cell=centre.long(),
        label=torch.zeros(n, dtype=torch.int64),
        box_2d=box,
        offset_2d=centre - centre.floor(),
        size_2d=box[:, 2:] - box[:, :2],
        offset_3d=torch.zeros(n, 2),
        size_3d=torch.zeros(n, 3),
        heading_bin=torch.arange(n) % 12,
        heading_residual=torch.zeros(n),
        depth=torch.arange(1.0, n + 1) * 10,
        visual_depth=grid,
        attribute_depth=grid,
        depth_mask=grid.bool(),
        unsupervised=unsupervised,
        weight=torch.ones(n),
        labelled=torch.ones(3, dtype=torch.bool),
    )


@pytest.fixture
def no_objects(targets: DidM3DTargets) -> DidM3DTargets:
    """The same three images without an object."""
    rows = {
        field.name: getattr(targets, field.name)[:0] for field in fields(targets) if field.name not in targets.BY_IMAGE
    }
    return replace(targets, **rows, unsupervised=torch.zeros(3, dtype=torch.int64))


def output_at(targets: DidM3DTargets, seed: int) -> DidM3DOutput:
    """Random answers of a detector that looked at the targets' regions."""
    draw = torch.Generator().manual_seed(seed)
    images, n = len(targets.heatmap), len(targets.label)
    dense = {name: torch.randn(images, 2, ROWS, COLUMNS, generator=draw) for name in ("offset_2d", "size_2d")}
    regional = {"offset_3d": (2,), "size_3d": (3,), "heading": (24,), "visual_depth": (7, 7), "attribute_depth": (7, 7)}
    heads = dense | {name: torch.randn(n, *shape, generator=draw) for name, shape in regional.items()}
    heads["depth"] = heads["visual_depth"] + heads["attribute_depth"]
    return DidM3DOutput({}, heads, targets.rois, torch.zeros(n, 4), torch.zeros(n))


@pytest.fixture
def student(targets: DidM3DTargets) -> DidM3DOutput:
    return output_at(targets, 1)


@pytest.fixture
def teacher(targets: DidM3DTargets) -> DidM3DOutput:
    return output_at(targets, 2)
