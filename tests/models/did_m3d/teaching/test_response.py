from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models.did_m3d import DidM3D
from monoskd.models.did_m3d.losses import object_losses
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.models.did_m3d.teaching.response import ResponseLoss
from monoskd.models.heatmap import quality_focal_loss
from monoskd.structures import Views

RandomTargets = Callable[[int], DidM3DTargets]


@pytest.fixture
def output(detector: DidM3D, cameras: Camera, letterbox: Letterbox, targets: DidM3DTargets) -> DidM3DOutput:
    return detector(Views(torch.rand(2, 3, 96, 160), cameras, letterbox), targets)


@pytest.fixture
def targets(random_targets: RandomTargets) -> DidM3DTargets:
    """Six objects in two images; the first image is labelled, the second has a teacher's detections."""
    both = random_targets(6)
    image = torch.tensor([0, 1, 0, 1, 1, 0])
    weight = torch.where(image == 0, 1.0, torch.linspace(0.2, 0.8, 6))
    return replace(both, image=image, weight=weight, labelled=torch.tensor([True, False]))


def test_quality_focal_loss_is_the_papers_formula_and_least_at_the_heat() -> None:
    logits = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    heat = torch.rand(1, 2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 0.0
    for logit, y in zip(logits.flatten(), heat.flatten(), strict=True):
        p = logit.sigmoid()
        expected += float(-((y - p) ** 2) * ((1 - y) * (1 - p).log() + y * p.log()))
    assert quality_focal_loss(logits, heat, objects=5).item() == pytest.approx(expected / 5)
    assert quality_focal_loss(heat.logit(), heat, objects=1).item() == pytest.approx(0, abs=1e-12)


def test_labelled_images_do_not_count(output: DidM3DOutput, targets: DidM3DTargets) -> None:
    heads = {name: value.detach().clone().requires_grad_() for name, value in output.heads.items()}
    ResponseLoss()(student=replace(output, heads=heads), targets=targets).backward()
    for name in ("heatmap", "offset_2d", "size_2d"):
        assert not heads[name].grad[0].any()
        assert heads[name].grad[1].any()
    for name in ("offset_3d", "size_3d", "heading", "depth"):
        assert not heads[name].grad[targets.image == 0].any()
        assert heads[name].grad[targets.image == 1].flatten(1).any(1).all()


def test_an_object_pulls_as_hard_as_its_score(output: DidM3DOutput, targets: DidM3DTargets) -> None:
    heads = {name: value.detach().clone().requires_grad_() for name, value in output.heads.items()}
    answer = replace(output, heads=heads)
    full = ResponseLoss().parts(student=answer, targets=replace(targets, weight=torch.ones(6)))
    half = ResponseLoss().parts(student=answer, targets=replace(targets, weight=torch.full((6,), 0.5)))
    torch.testing.assert_close(half.pop("heatmap"), full.pop("heatmap"))  # its peaks are as high as the scores instead
    for name, value in full.items():
        torch.testing.assert_close(half[name], value / 2)


def test_parts_of_a_batch_are_the_batch_of_the_parts(output: DidM3DOutput, targets: DidM3DTargets) -> None:
    chosen = torch.tensor([False, True])
    part, soft = output.of(chosen), targets.of(chosen)
    assert soft.image.tolist() == [0, 0, 0]
    assert part.rois.image.tolist() == [0, 0, 0]
    assert soft.heatmap.shape[0] == part.heads["heatmap"].shape[0] == 1
    torch.testing.assert_close(part.heads["depth"], output.heads["depth"][[1, 3, 4]])
    losses = object_losses(part.heads, soft)
    torch.testing.assert_close(ResponseLoss().parts(student=output, targets=targets)["depth"], losses["depth"])
    cell = (soft.cell[0, 1], soft.cell[0, 0])
    assert part.heads["heatmap"][0, 0][cell] == output.heads["heatmap"][1, 0][cell]


def test_without_frames_to_answer_for_the_loss_is_a_zero_that_hangs_on_the_graph(
    output: DidM3DOutput, targets: DidM3DTargets
) -> None:
    loss = ResponseLoss()(student=output, targets=replace(targets, labelled=torch.ones(2, dtype=torch.bool)))
    assert loss.item() == 0
    loss.backward()


def test_a_heat_of_one_half_asks_for_one_half() -> None:
    logits = torch.zeros(1, 1, 1, 1, requires_grad=True)
    heat = torch.full((1, 1, 1, 1), 0.5)
    quality_focal_loss(logits, heat, objects=1).backward()
    assert logits.grad.item() == 0
    certain = binary_cross_entropy_with_logits(logits.detach() + 2, heat)
    assert quality_focal_loss(logits.detach() + 2, heat, objects=1) < certain


def test_frames_on_which_the_teacher_finds_nothing_do_not_drown_the_others(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox, random_targets: RandomTargets
) -> None:
    nothing = random_targets(0)
    nothing = replace(nothing, heatmap=0 * nothing.heatmap, labelled=torch.zeros(2, dtype=torch.bool))
    answer = detector(Views(torch.rand(2, 3, 96, 160), cameras, letterbox), nothing)
    parts = ResponseLoss().parts(student=answer, targets=nothing)
    whole = quality_focal_loss(answer.heads["heatmap"], nothing.heatmap, objects=1)
    torch.testing.assert_close(parts["heatmap"], whole / 2)
