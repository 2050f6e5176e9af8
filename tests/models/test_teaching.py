"""The terms for any detector: against numbers worked out cell by cell."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.errors import InputError
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models import DepthMapLoss, HeatmapLoss
from monoskd.models.did_m3d import DidM3D
from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.models.teaching import apparent_depth_log
from monoskd.structures import DetectorOutput, Views


@pytest.fixture
def depths(cameras: Camera, letterbox: Letterbox) -> Views:
    """Depth maps of 96 x 160, about half of their pixels unknown."""
    draw = torch.Generator().manual_seed(0)
    metres = 5 + 40 * torch.rand(2, 1, 96, 160, generator=draw)
    return Views(metres * (torch.rand(2, 1, 96, 160, generator=draw) < 0.5), cameras, letterbox)


def test_apparent_depth_is_the_mean_of_the_known_pixels_through_kittis_lens(depths: Views) -> None:
    goal, there = apparent_depth_log(depths, size=(24, 40))
    for image, row, column in ((0, 0, 0), (1, 23, 39), (0, 10, 7)):
        patch = depths.images[image, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].numpy()
        known = patch[patch > 0]
        assert there[image, 0, row, column] == (len(known) >= 4)
        if len(known) >= 4:
            f_net = 700 * 0.25
            assert float(goal[image, 0, row, column]) == pytest.approx(
                np.log(known.mean() * 721.5377 / f_net), rel=1e-5
            )


def test_the_lesson_follows_the_lens_as_the_visual_depth_does(depths: Views) -> None:
    """Twice the focal length in network pixels: half the apparent depth."""
    longer = replace(depths, letterbox=replace(depths.letterbox, scale=2 * depths.letterbox.scale))
    near, there = apparent_depth_log(longer, size=(24, 40))
    far, _ = apparent_depth_log(depths, size=(24, 40))
    torch.testing.assert_close((far - near)[there > 0], torch.full((int(there.sum()),), np.log(2.0)).to(far))


def test_the_head_learns_the_depth_map_and_nothing_where_it_is_unknown(
    depths: Views, random_targets: Callable[[int], DidM3DTargets]
) -> None:
    torch.manual_seed(0)
    goal, there = apparent_depth_log(depths, size=(24, 40))
    features = torch.cat([goal * there, torch.randn(2, 3, 24, 40)], 1).requires_grad_()
    loss = DepthMapLoss()
    ask = {"targets": random_targets(4), "teacher_inputs": (depths, None)}
    first = loss(student=features, **ask)
    by_hand = ((loss.head(features) - goal).abs() * there).sum() / there.sum()
    torch.testing.assert_close(first, by_hand)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss(student=features.detach(), **ask).backward()
        optimizer.step()
    assert loss(student=features, **ask) < 0.3 * first
    nothing = replace(depths, images=torch.zeros_like(depths.images))
    value = loss(student=features, targets=ask["targets"], teacher_inputs=(nothing, None))
    value.backward()
    assert value == 0
    assert not features.grad.any()


def test_boxes_weigh_more(depths: Views, random_targets: Callable[[int], DidM3DTargets]) -> None:
    torch.manual_seed(0)
    targets = replace(random_targets(1), image=torch.tensor([1]), box_2d=torch.tensor([[3.0, 2.0, 9.0, 12.0]]))
    features, loss = torch.randn(2, 4, 24, 40), DepthMapLoss(inside=5.0)
    value = loss(student=features, targets=targets, teacher_inputs=(depths, None))
    goal, there = apparent_depth_log(depths, size=(24, 40))
    weight = there.clone()
    weight[1, 0, 2:12, 3:9] *= 5
    torch.testing.assert_close(value, ((loss.head(features) - goal).abs() * weight).sum() / weight.sum())


def test_the_laplacian_is_a_log_likelihood(depths: Views, random_targets: Callable[[int], DidM3DTargets]) -> None:
    features, loss = torch.randn(2, 4, 24, 40), DepthMapLoss(laplacian=True)
    value = loss(student=features, targets=random_targets(2), teacher_inputs=(depths, None))
    said, (goal, there) = loss.head(features), apparent_depth_log(depths, size=(24, 40))
    scale = torch.exp(said[:, 1:] / 2) / 2**0.5  # of a Laplacian with variance exp(u)
    likelihood = -torch.distributions.Laplace(said[:, :1], scale).log_prob(goal) - np.log(2**0.5)
    torch.testing.assert_close(value, (likelihood * there).sum() / there.sum())


def test_a_picture_is_no_depth_map(
    cameras: Camera, letterbox: Letterbox, random_targets: Callable[[int], DidM3DTargets]
) -> None:
    pictures = Views(torch.rand(2, 3, 96, 160), cameras, letterbox)
    with pytest.raises(InputError, match="expected a depth map whose size"):
        DepthMapLoss()(student=torch.rand(2, 4, 24, 40), targets=random_targets(1), teacher_inputs=(pictures, None))
    with pytest.raises(InputError, match="inside: expected a weight above 0, got 0"):
        DepthMapLoss(inside=0)


def heads(logits: Tensor) -> DetectorOutput:
    return DetectorOutput({}, {"heatmap": logits})


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 0.5, 0.0)])
def test_the_heat_map_is_compared_cell_by_cell(
    random_targets: Callable[[int], DidM3DTargets], weights: tuple[float, float, float]
) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(2, 3, 24, 40, generator=draw, dtype=torch.float64) - 2 for _ in range(2))
    targets = random_targets(5)
    loss = HeatmapLoss(centres=weights[0], seen=weights[1], background=weights[2], threshold=0.2)
    expected = 0.0
    p, q = (1 / (1 + np.exp(-x.numpy())) for x in (student, teacher))
    for at in np.ndindex(*p.shape):
        kind = 0 if targets.heatmap[at] == 1 else 1 if q[at] >= 0.2 else 2
        cross_entropy = -q[at] * np.log(p[at]) - (1 - q[at]) * np.log(1 - p[at])
        expected += weights[kind] * (q[at] - p[at]) ** 2 * cross_entropy
    value = loss(student=heads(student), teacher=heads(teacher), targets=targets)
    assert float(value) == pytest.approx(expected / 5)
    same = student.clone().requires_grad_()
    loss(student=heads(same), teacher=heads(student), targets=targets).backward()
    torch.testing.assert_close(same.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


def test_weights_of_a_heat_map_that_cannot_be_are_refused(detector: DidM3D) -> None:
    with pytest.raises(InputError, match="HeatmapLoss: expected weights of at least 0"):
        HeatmapLoss(centres=0, seen=0, background=0)
    with pytest.raises(InputError, match="HeatmapLoss: expected maps of one shape"):
        HeatmapLoss()(student=heads(torch.zeros(1, 3, 4, 4)), teacher=heads(torch.zeros(1, 3, 2, 2)), targets=None)  # type: ignore[arg-type]
