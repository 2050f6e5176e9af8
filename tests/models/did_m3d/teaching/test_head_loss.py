from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from monoskd.errors import InputError
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.models.did_m3d.teaching.head import HeadLoss
from monoskd.models.did_m3d.teaching.masks import centre_squares
from monoskd.structures import Views

DEPTHS = ("visual_depth", "attribute_depth", "depth")


def error(student: DidM3DOutput, teacher: DidM3DOutput, name: str) -> Tensor:
    return (student.heads[name] - teacher.heads[name]).abs()


@pytest.mark.parametrize("published", [False, True])
def test_each_part_is_the_mean_that_its_name_says(
    published: bool, student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets
) -> None:
    loss = HeadLoss(published=published)
    parts = loss.parts(student=student, teacher=teacher, targets=targets)
    inside = centre_squares(targets, published=published)[:, 0]
    assert_close(parts["head_offset2d"], error(student, teacher, "offset_2d").movedim(1, -1)[inside].mean())
    assert_close(parts["head_size2d"], error(student, teacher, "size_2d").movedim(1, -1)[inside].mean())
    assert_close(parts["head_offset3d"], error(student, teacher, "offset_3d").mean())
    assert_close(parts["head_size3d"], error(student, teacher, "size_3d").mean())
    unit = torch.ones(3) if published else targets.depth
    depth = sum(error(student, teacher, name).flatten(1).mean(1) / unit for name in DEPTHS)
    assert isinstance(depth, Tensor)
    assert_close(parts["head_depth"], depth.mean())
    assert_close(loss(student=student, teacher=teacher, targets=targets), torch.stack(list(parts.values())).sum())


def test_heading_is_the_relative_entropy_of_bins_and_the_residual_of_the_true_one(
    student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets
) -> None:
    p, q = (output.heads["heading"][:, :12].softmax(1).numpy() for output in (teacher, student))
    divergence = stats.entropy(p, q, axis=1).mean() / 12  # over bins, too
    columns = 12 + targets.heading_bin.numpy()
    rows = np.arange(len(columns))
    residual = np.abs((student.heads["heading"] - teacher.heads["heading"]).numpy()[rows, columns]).mean()
    parts = HeadLoss().parts(student=student, teacher=teacher, targets=targets)
    assert parts["head_heading"].item() == pytest.approx(divergence + residual, rel=1e-5)


def test_a_relative_depth_error_is_the_same_near_and_far(
    student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets
) -> None:
    def scaled(output: DidM3DOutput) -> DidM3DOutput:
        return replace(output, heads=output.heads | {name: 3 * output.heads[name] for name in DEPTHS})

    farther = replace(targets, depth=3 * targets.depth)
    relative, metres = HeadLoss(), HeadLoss(depth="metres")
    near = {"student": student, "teacher": teacher, "targets": targets}
    far = {"student": scaled(student), "teacher": scaled(teacher), "targets": farther}
    assert_close(relative.parts(**far)["head_depth"], relative.parts(**near)["head_depth"])
    assert_close(metres.parts(**far)["head_depth"], 3 * metres.parts(**near)["head_depth"])


def test_a_relative_depth_error_pulls_all_distances_alike(
    student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets
) -> None:
    raw = torch.zeros(3, 7, 7, requires_grad=True)
    visual = torch.exp(-raw) * targets.depth[:, None, None]  # how the detector makes it, with the right factor
    heads = student.heads | {"visual_depth": visual}
    expert = replace(teacher, heads=teacher.heads | {"visual_depth": 1.1 * visual.detach()})
    HeadLoss().parts(student=replace(student, heads=heads), teacher=expert, targets=targets)["head_depth"].backward()
    assert raw.grad is not None
    assert_close(raw.grad, torch.full((3, 7, 7), 1 / 147))


def test_only_published_distils_objects_without_supervision(
    student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets
) -> None:
    dense = student.heads["offset_2d"].clone()
    dense[1, :, 0, 0] += 100
    other = replace(student, heads=student.heads | {"offset_2d": dense})

    def parts(loss: HeadLoss, output: DidM3DOutput) -> Tensor:
        return loss.parts(student=output, teacher=teacher, targets=targets)["head_offset2d"]

    assert parts(HeadLoss(), other) == parts(HeadLoss(), student)
    assert parts(HeadLoss(published=True), other) > parts(HeadLoss(published=True), student) + 0.1


def test_only_the_student_gets_a_gradient(student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets) -> None:
    both = [{name: value.clone().requires_grad_() for name, value in x.heads.items()} for x in (student, teacher)]
    HeadLoss()(
        student=replace(student, heads=both[0]), teacher=replace(teacher, heads=both[1]), targets=targets
    ).backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in both[0].values())
    assert all(value.grad is None for value in both[1].values())


def test_no_objects_cost_nothing(student: DidM3DOutput, teacher: DidM3DOutput, no_objects: DidM3DTargets) -> None:
    dense = ("offset_2d", "size_2d")
    heads = {name: value if name in dense else value[:0] for name, value in student.heads.items()}
    heads = {name: value.clone().requires_grad_() for name, value in heads.items()}
    value = HeadLoss()(student=replace(student, heads=heads), teacher=replace(teacher, heads=heads), targets=no_objects)
    value.backward()
    assert value == 0
    assert all(head.grad is not None and not head.grad.any() for head in heads.values())


def test_both_networks_must_look_at_the_same_regions(
    student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets
) -> None:
    fewer = {name: value if value.ndim == 4 else value[:2] for name, value in teacher.heads.items()}
    with pytest.raises(InputError, match=r"teacher: expected one region for each of the 3 objects, got 2.*at=targets"):
        HeadLoss()(student=student, teacher=replace(teacher, heads=fewer), targets=targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": "metres", "published": True}, "published is in metres, got depth='metres' as well: drop one"),
        ({"depth": "feet"}, "depth: expected 'relative' or 'metres', got 'feet'"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HeadLoss(**options)


def test_depth_in_metres_drowns_the_other_parts_and_relative_depth_does_not(targets: DidM3DTargets) -> None:
    def network(seed: int) -> DidM3D:
        torch.manual_seed(seed)
        slim = {"channels": (8, 8, 8, 16, 16, 16)}
        return DidM3D(DidM3DConfig(pretrained=False, backbone_arguments=slim, head_width=16, reference_focal_px=100.0))

    camera = Camera(torch.tensor([[100.0, 0, 40, 0], [0, 100, 24, 0], [0, 0, 1, 0]]).expand(3, -1, -1))
    letterbox = Letterbox(torch.ones(3), torch.zeros(3, 2), (96, 64))
    images = torch.rand(3, 3, 64, 96)
    targets = replace(targets, heatmap=torch.zeros(3, 3, 16, 24))
    learner, expert = (network(seed)(Views(images, camera, letterbox), targets) for seed in (0, 1))
    pull = {}
    for unit in ("relative", "metres"):
        parts = HeadLoss(depth=unit).parts(student=learner, teacher=expert, targets=targets)
        others = torch.stack([value for name, value in parts.items() if name != "head_depth"]).sum()
        shared = learner.features["neck.4"]
        depth, rest = (torch.autograd.grad(x, shared, retain_graph=True)[0] for x in (parts["head_depth"], others))
        pull[unit] = float(depth.norm() / rest.norm())
    assert pull["metres"] > 5
    assert pull["relative"] < 2
