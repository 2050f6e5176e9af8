"""Detector outputs and targets for the losses on answers."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from monoskd.structures import DetectorOutput, Targets

ROWS, COLUMNS = 12, 20


@pytest.fixture
def targets() -> Targets:
    """Three supervised objects in two of three images; the second image has one that is listed and not supervised."""
    box = torch.tensor([[2.0, 1.0, 9.0, 8.0], [11.3, 4.2, 17.9, 7.7], [1.2, 6.0, 4.9, 11.5]])
    return targets_of(box, image=torch.tensor([0, 0, 1]), unsupervised=torch.tensor([0, 1, 0]))


def targets_of(box: Tensor, *, image: Tensor, unsupervised: Tensor) -> Targets:
    """Targets with these 2D boxes [cells]; what no loss here reads is zero."""
    n = len(box)
    centre = (box[:, :2] + box[:, 2:]) / 2
    grid = torch.zeros(n, 7, 7)
    return Targets(
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
def no_objects(targets: Targets) -> Targets:
    """The same three images without an object."""
    by_image = ("heatmap", "unsupervised", "labelled")
    rows = {one.name: getattr(targets, one.name)[:0] for one in fields(targets) if one.name not in by_image}
    return replace(targets, **rows, unsupervised=torch.zeros(3, dtype=torch.int64))


def output_at(targets: Targets, seed: int) -> DetectorOutput:
    """Random answers of a detector that looked at the targets' regions."""
    draw = torch.Generator().manual_seed(seed)
    images, n = len(targets.heatmap), len(targets.label)
    dense = {name: torch.randn(images, 2, ROWS, COLUMNS, generator=draw) for name in ("offset_2d", "size_2d")}
    regional = {"offset_3d": (2,), "size_3d": (3,), "heading": (24,), "visual_depth": (7, 7), "attribute_depth": (7, 7)}
    heads = dense | {name: torch.randn(n, *shape, generator=draw) for name, shape in regional.items()}
    heads["depth"] = heads["visual_depth"] + heads["attribute_depth"]
    return DetectorOutput({}, heads, targets.rois, torch.zeros(n, 4), torch.zeros(n))


@pytest.fixture
def student(targets: Targets) -> DetectorOutput:
    return output_at(targets, 1)


@pytest.fixture
def teacher(targets: Targets) -> DetectorOutput:
    return output_at(targets, 2)
