"""The published recipes: terms and their gradients, both networks in training mode, against recorded outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monoskd.distill import (
    AffinityLoss,
    AttentionFusion,
    Distiller,
    ImitationLoss,
    SpearmanLoss,
    Tap,
    Term,
)
from monoskd.geometry.camera import Camera, PublishedLetterbox
from monoskd.models.did_m3d import DidM3D
from monoskd.models.did_m3d.published import from_published
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets, Rois
from monoskd.models.did_m3d.teaching import Foreground, HeadLoss
from monoskd.structures import Views

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


class Look(nn.Module):
    """A detector that is fed the recorded inputs, which are normalised already."""

    def __init__(self, detector: DidM3D, camera: Camera, letterbox: PublishedLetterbox, rois: Rois) -> None:
        super().__init__()
        self.detector = detector
        self.views = Views(torch.empty(2, 3, 0, 0), camera, letterbox)  # its pictures are not read
        self.rois = rois

    def forward(self, inputs: Tensor) -> DidM3DOutput:
        return self.detector.forward_normalised(inputs, self.views, rois=self.rois)


Networks = Callable[[str], tuple[Mapping[str, Tensor], Look, Look]]


@pytest.fixture(scope="module")
def networks(
    named_state: Callable[[str], dict[str, Tensor]],
    published_camera: Camera,
    published_letterbox: PublishedLetterbox,
    recorded_targets: DidM3DTargets,
) -> Networks:
    """The tensors of a recipe's checkpoint, its student and its teacher."""

    def load(recipe: str) -> tuple[Mapping[str, Tensor], Look, Look]:
        state = named_state(recipe)
        where = (published_camera, published_letterbox, recorded_targets.rois)
        student, teacher = (Look(from_published(state, part=part)[0], *where) for part in ("student", "teacher"))
        return state, student, teacher

    return load


@pytest.fixture(scope="module")
def monoskd(networks: Networks, rgb_and_depth: tuple[Tensor, Tensor], recorded_targets: DidM3DTargets) -> Recipe:
    state, student, teacher = networks("monoskd")
    distiller = Distiller(
        student,
        teacher,
        taps=[Tap(f"detector.neck.{stride}", adapter=adapter(state, stride)) for stride in CHANNELS],
        terms={
            "spearman": SpearmanLoss("published"),
            "affinity": AffinityLoss("published"),
            "head": Term(HeadLoss(published=True), between="output"),
        },
        teacher_batch_statistics=True,
    )
    layers = dict(zip((f"adapt_layer{stride}" for stride in CHANNELS), distiller.adapters, strict=True))
    return run(distiller, layers, rgb_and_depth, recorded_targets)


@pytest.fixture(scope="module")
def monodistill(networks: Networks, rgb_and_depth: tuple[Tensor, Tensor], recorded_targets: DidM3DTargets) -> Recipe:
    state, student, teacher = networks("monodistill")
    strides = (8, 16, 32)
    fusion = published_fusion(state)
    distiller = Distiller(
        student,
        teacher,
        taps=[Tap(f"detector.backbone.{stride}", adapter=adapter(state, stride)) for stride in strides],
        terms={
            "foreground_imitation": Term(
                Foreground(ImitationLoss("published"), published=True), weight=IMITATION_WEIGHT, resize="none"
            ),
            "affinity": AffinityLoss("published"),
            "head": Term(HeadLoss(published=True), between="output"),
        },
        fusion=fusion,
        teacher_batch_statistics=True,
    )
    layers = dict(zip((f"adapt_layer{stride}" for stride in strides), distiller.adapters, strict=True))
    return run(distiller, layers | {"rgb_fs": fusion}, rgb_and_depth, recorded_targets)


def run(
    distiller: Distiller, layers: Mapping[str, nn.Module], inputs: tuple[Tensor, Tensor], targets: DidM3DTargets
) -> Recipe:
    """One step of a recipe up to the gradient."""
    rgb, depth = inputs
    distilled = distiller.train()(rgb, teacher_inputs=depth, targets=targets)
    parts = head_parts(distilled.student, distilled.teacher, targets)
    detector = distiller.get_submodule("student.detector")
    modules = {f"student_{theirs}": detector.get_submodule(ours) for ours, theirs in STUDENT_MODULES.items()}
    modules |= {"centernet_rgb": detector, **layers}
    gradients = gradient_norms(distilled.total, modules)
    other_parts = head_parts(mirrored(distilled.student, distilled.teacher), distilled.teacher, targets)
    other_total = distilled.total + sum(other_parts.values()) - sum(parts.values())
    other = gradient_norms(other_total, modules)
    values = distilled.terms | parts | {"kd_total": distilled.total}
    return Recipe(
        {name: float(value.detach()) for name, value in values.items()},
        gradients,
        {name: abs(gradients[name] - other[name]) for name in gradients},
    )


def head_parts(student: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets) -> dict[str, Tensor]:
    return HeadLoss(published=True).parts(student=student, teacher=teacher, targets=targets)


def mirrored(student: DidM3DOutput, teacher: DidM3DOutput) -> DidM3DOutput:
    """The student's output with each value that equals the teacher's within rounding on the other side of it."""

    def reflect(ours: Tensor, theirs: Tensor) -> Tensor:
        error = (ours - theirs).detach()
        return torch.where(error.abs() < ROUNDING * theirs.abs().max(), ours - 2 * error, ours)

    heads = {name: reflect(value, teacher.heads[name]) for name, value in student.heads.items()}
    return replace(student, heads=heads)


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
