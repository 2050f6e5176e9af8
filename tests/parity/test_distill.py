"""Distillation terms and their gradients, both networks in training mode, against recordings of the original."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from monoskd.distill.fusion import AttentionFusion
from monoskd.distill.head import HeadLoss
from monoskd.distill.losses import AffinityLoss, ImitationLoss, SpearmanLoss
from monoskd.distill.masks import Foreground
from monoskd.geometry.camera import Camera, PublishedLetterbox
from monoskd.models.did_m3d import DidM3D
from monoskd.models.published import from_published
from monoskd.structures import DetectorOutput, Targets

CHANNELS = {4: 64, 8: 128, 16: 256, 32: 512}
IMITATION_WEIGHT = 10
ROUNDING = 3e-6  # of a head's outputs, relative to the largest
FUSION = {"project": "conv1", "smooth": "conv2", "gate": "att_conv"}
STUDENT_MODULES = {
    "backbone": "backbone",
    "neck": "feat_up",
    "dense.offset_2d": "offset_2d",
    "dense.size_2d": "size_2d",
    "regional.offset_3d": "offset_3d",
    "regional.size_3d": "size_3d",
    "regional.heading": "heading",
    "regional.visual_depth": "vis_depth",
    "regional.attribute_depth": "att_depth",
}


@dataclass(frozen=True)
class Recipe:
    """A published recipe: its scalars and its gradient norms by recorded name.

    slack: how much a norm changes if each L1 error of the head term that is 0 within rounding takes the other sign.
    """

    values: dict[str, float]
    gradients: dict[str, float]
    slack: dict[str, float]


@dataclass(frozen=True)
class Pair:
    """A published student, and what student and teacher say of the recorded inputs."""

    state: Mapping[str, Tensor]
    detector: DidM3D
    student: DetectorOutput
    teacher: DetectorOutput


@pytest.fixture(scope="module")
def look(
    named_state: Callable[[str], dict[str, Tensor]],
    rgb_and_depth: tuple[Tensor, Tensor],
    published_camera: Camera,
    published_letterbox: PublishedLetterbox,
    recorded_targets: Targets,
) -> Callable[[str], Pair]:
    def both(recipe: str) -> Pair:
        state = named_state(recipe)
        rgb, depth = rgb_and_depth
        detector = from_published(state, part="student")[0].train()
        expert = from_published(state, part="teacher")[0].train()
        student = detector.look(rgb, published_camera, published_letterbox, recorded_targets.rois)
        with torch.no_grad():
            teacher = expert.look(depth, published_camera, published_letterbox, recorded_targets.rois)
        return Pair(state, detector, student, teacher)

    return both


@pytest.fixture(scope="module")
def monoskd(look: Callable[[str], Pair], recorded_targets: Targets) -> Recipe:
    pair = look("monoskd")
    adapters = {stride: adapter(pair.state, stride) for stride in CHANNELS}
    maps = [layer(pair.student.features[f"neck.{stride}"]) for stride, layer in adapters.items()]
    goals = [pair.teacher.features[f"neck.{stride}"] for stride in adapters]
    small = {"student": coarsest(maps), "teacher": coarsest(goals)}
    terms = {"spearman": SpearmanLoss("published")(**small), "affinity": AffinityLoss("published")(**small)}
    layers = {f"adapt_layer{stride}": layer for stride, layer in adapters.items()}
    return finish(pair, terms, layers, recorded_targets)


@pytest.fixture(scope="module")
def monodistill(look: Callable[[str], Pair], recorded_targets: Targets) -> Recipe:
    pair = look("monodistill")
    strides = (8, 16, 32)
    adapters = {stride: adapter(pair.state, stride) for stride in strides}
    fusion = published_fusion(pair.state)
    fused = fusion([pair.student.features[f"backbone.{stride}"] for stride in strides])
    maps = [layer(x) for layer, x in zip(adapters.values(), fused, strict=True)]
    goals = [pair.teacher.features[f"backbone.{stride}"] for stride in strides]
    imitation = Foreground(ImitationLoss("published"), published=True)
    terms = {
        "foreground_imitation": imitation(student=maps, teacher=goals, targets=recorded_targets),
        "affinity": AffinityLoss("published")(student=coarsest(maps), teacher=coarsest(goals)),
    }
    layers = {f"adapt_layer{stride}": layer for stride, layer in adapters.items()} | {"rgb_fs": fusion}
    return finish(pair, terms, layers, recorded_targets)


def finish(pair: Pair, terms: dict[str, Tensor], layers: Mapping[str, nn.Module], targets: Targets) -> Recipe:
    """Add the head term and the weighted sum, and take the gradient."""
    modules = {f"student_{theirs}": pair.detector.get_submodule(ours) for ours, theirs in STUDENT_MODULES.items()}
    modules |= {"centernet_rgb": pair.detector, **layers}
    parts = head_parts(pair, pair.student, targets)
    values = terms | parts | {"head": torch.stack(list(parts.values())).sum()}
    values["kd_total"] = total(terms, parts)
    gradients = gradient_norms(values["kd_total"], modules)
    other = gradient_norms(total(terms, head_parts(pair, mirrored(pair), targets)), modules)
    return Recipe(
        {name: float(value.detach()) for name, value in values.items()},
        gradients,
        {name: abs(gradients[name] - other[name]) for name in gradients},
    )


def head_parts(pair: Pair, student: DetectorOutput, targets: Targets) -> dict[str, Tensor]:
    return HeadLoss(published=True).parts(student=student, teacher=pair.teacher, targets=targets)


def total(terms: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
    weighted = [term * (IMITATION_WEIGHT if name == "foreground_imitation" else 1) for name, term in terms.items()]
    return torch.stack([*weighted, *parts.values()]).sum()


def mirrored(pair: Pair) -> DetectorOutput:
    """The student's output with each value that equals the teacher's within rounding on the other side of it."""

    def reflect(student: Tensor, teacher: Tensor) -> Tensor:
        error = (student - teacher).detach()
        return torch.where(error.abs() < ROUNDING * teacher.abs().max(), student - 2 * error, student)

    heads = {name: reflect(value, pair.teacher.heads[name]) for name, value in pair.student.heads.items()}
    return replace(pair.student, heads=heads)


def gradient_norms(loss: Tensor, modules: Mapping[str, nn.Module]) -> dict[str, float]:
    """The norm of the loss' gradient with respect to each module's parameters."""
    for module in modules.values():
        module.zero_grad()
    loss.backward(retain_graph=True)
    norms = {}
    for name, module in modules.items():
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        norms[f"grad_{name}"] = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    return norms


def adapter(state: Mapping[str, Tensor], stride: int) -> nn.Module:
    """The published adapter of one level."""
    channels = CHANNELS[stride]
    layers = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1))
    layers.load_state_dict(below(state, f"adapt_layer{stride}."))
    return layers


def published_fusion(state: Mapping[str, Tensor]) -> AttentionFusion:
    """The published fusion of strides 8 to 32; its fourth level, stride 4, goes nowhere."""
    fusion = AttentionFusion()
    for ours, theirs in FUSION.items():
        for level, layer in enumerate(getattr(fusion, ours)):
            if ours == "gate":
                layer.load_state_dict(below(state, f"rgb_fs.{level + 1}.{theirs}.0."))  # the coarsest has none
            else:
                layer.load_state_dict(below(state, f"rgb_fs.{level}.{theirs}."))
    return fusion


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def coarsest(maps: list[Tensor]) -> list[Tensor]:
    """All maps at the size of the last, as the original resizes them."""
    return [interpolate(x, size=maps[-1].shape[2:], mode="bilinear", align_corners=False) for x in maps]


def recorded(golden: Path, recipe: str) -> dict[str, float]:
    with np.load(golden / f"distill_{recipe}.npz") as file:
        return {name: float(file[name]) for name in file}


@pytest.mark.parametrize("recipe", ["monoskd", "monodistill"])
def test_the_terms_repeat_the_recording(recipe: str, golden: Path, request: pytest.FixtureRequest) -> None:
    theirs = {name: value for name, value in recorded(golden, recipe).items() if not name.startswith("grad_")}
    assert request.getfixturevalue(recipe).values == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("recipe", ["monoskd", "monodistill"])
def test_the_gradients_repeat_the_recording(recipe: str, golden: Path, request: pytest.FixtureRequest) -> None:
    theirs = {name: value for name, value in recorded(golden, recipe).items() if name.startswith("grad_")}
    ours: Recipe = request.getfixturevalue(recipe)
    assert ours.gradients.keys() == theirs.keys()
    off = {
        name: (ours.gradients[name], value)
        for name, value in theirs.items()
        if abs(ours.gradients[name] - value) > 1e-3 * value + ours.slack[name]
    }
    assert not off
