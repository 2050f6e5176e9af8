"""The detectors of the house keep the promises of a detector, and each broken promise is named."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monoskd.errors import InputError
from monoskd.geometry.camera import Camera
from monoskd.models import DidM3D, DidM3DConfig
from monoskd.models.monocon import MonoCon, MonoConConfig
from monoskd.models.monodetr import MonoDETR, MonoDETRConfig
from monoskd.models.monodle import MonoDLE, MonoDLEConfig
from monoskd.structures import Detections, Detector, Views
from monoskd.testing import check_detector

SIZE = (192, 64)
DLA: dict[str, Any] = {
    "backbone_arguments": {"channels": (4, 4, 8, 8, 16, 16)},
    "pretrained": False,
    "head_width": 8,
    "input_size": SIZE,
}
RESNET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_arguments": {"channels": (8, 8, 16, 16)},
    "pretrained": False,
    "frozen": False,
    "width": 32,
    "heads": 4,
    "points": 2,
    "hidden": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "dropout": 0.0,
    "queries": 16,
    "groups": 2,
    "input_size": SIZE,
}
DETECTORS: dict[str, Callable[..., Detector]] = {
    "did_m3d": lambda **settings: DidM3D(DidM3DConfig(**DLA, **settings)),
    "monodle": lambda **settings: MonoDLE(MonoDLEConfig(**DLA, **settings)),
    "monocon": lambda **settings: MonoCon(MonoConConfig(**DLA, **settings)),
    "monodetr": lambda **settings: MonoDETR(MonoDETRConfig(**RESNET, **settings)),
}


@pytest.mark.parametrize("modality", ["rgb", "depth", "rgbd"])
@pytest.mark.parametrize("name", DETECTORS)
def test_the_detectors_of_the_house_keep_their_promises(name: str, modality: str) -> None:
    torch.manual_seed(0)
    detector = DETECTORS[name](modality=modality)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    check_detector(detector)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())


class LensBlind(MonoDLE):
    lens_blind = True  # type: ignore[assignment]


class Unordered(MonoDLE):
    def decode(self, output: Any, views: Views) -> list[Detections]:
        return [rows[torch.arange(len(rows)).flip(0)] for rows in super().decode(output, views)]


class Unbounded(MonoDLE):
    def decode(self, output: Any, views: Views) -> list[Detections]:
        return [replace(rows, scores=rows.scores + 2) for rows in super().decode(output, views)]


class Unturned(MonoDLE):
    def decode(self, output: Any, views: Views) -> list[Detections]:
        return [replace(rows, alpha=rows.boxes_3d.yaw) for rows in super().decode(output, views)]


class Nearby(MonoDLE):
    """As `Unturned`, with all objects nearer than the first of an untrained network."""

    def decode(self, output: Any, views: Views) -> list[Detections]:
        boxes = [replace(rows.boxes_3d, bottom=rows.boxes_3d.bottom / 10) for rows in super().decode(output, views)]
        found = super().decode(output, views)
        return [replace(rows, boxes_3d=b, alpha=b.yaw) for rows, b in zip(found, boxes, strict=True)]


class Smearing(MonoDLE):
    def forward(self, views: Views, at: Any = None) -> Any:
        views.images.div_(2)
        return super().forward(views, at)


class Sharpening(MonoDLE):
    def decode(self, output: Any, views: Views) -> list[Detections]:
        output.heads["heatmap"].mul_(2)
        return super().decode(output, views)


class NetworkPixels(MonoDLE):
    def decode(self, output: Any, views: Views) -> list[Detections]:
        return [
            replace(rows, boxes_2d=views.letterbox[number].apply(rows.boxes_2d.reshape(-1, 2, 2)).flatten(1))
            for number, rows in enumerate(super().decode(output, views))
        ]


class Unboxed(MonoDLE):
    """Its targets forget where the letterbox moves the picture to."""

    def target_maker(self, **settings: Any) -> Any:
        return partial(_unshifted, super().target_maker(**settings))


def _unshifted(maker: Any, objects: Any, *, letterbox: Any, **rest: Any) -> Any:
    return maker(objects, letterbox=replace(letterbox, shift=letterbox.shift * 0), **rest)


class FirstCamera(MonoDLE):
    def decode(self, output: Any, views: Views) -> list[Detections]:
        P = views.cameras.P[:1].expand_as(views.cameras.P)
        return super().decode(output, replace(views, cameras=Camera(P)))


class OffByOne(MonoDLE):
    def decode(self, output: Any, views: Views) -> list[Detections]:
        return [replace(rows, labels=rows.labels + 1) for rows in super().decode(output, views)]


class OneForAll(MonoDLE):
    def decode(self, output: Any, views: Views) -> list[Detections]:
        return super().decode(output, views)[:1]


class Leaky(MonoDLE):
    """What it says of an image depends on the batch."""

    def forward_normalised(self, inputs: Tensor, k: Tensor, at: Any = None) -> Any:
        return super().forward_normalised(inputs - inputs.mean(0, keepdim=True), k, at)


class Nameless(MonoDLE):
    def forward(self, views: Views, at: Any = None) -> Any:
        return vars(super().forward(views, at))


class Featureless(MonoDLE):
    def forward(self, views: Views, at: Any = None) -> Any:
        return replace(super().forward(views, at), features={})


class Lost(MonoDLE):
    def forward(self, views: Views, at: Any = None) -> Any:
        output = super().forward(views, at)
        return replace(output, features={name: x / 0 for name, x in output.features.items()})


class Unpicklable(MonoDLE):
    def target_maker(self, **settings: Any) -> Any:
        maker = super().target_maker(**settings)
        return lambda objects, **rest: maker(objects, **rest)


class AlwaysSure(MonoDLE):
    """It takes pseudo-labels for labels."""

    def target_maker(self, **settings: Any) -> Any:
        maker = super().target_maker(**settings)
        return lambda objects, *, soft, **rest: maker(objects, soft=False, **rest)


class EmptyMean(MonoDLE):
    def loss(self, output: Any, targets: Any) -> dict[str, Tensor]:
        return super().loss(output, targets) | {"depth": (output.heads["depth"][:, 0] - targets.depth).abs().mean()}


class Vector(MonoDLE):
    def loss(self, output: Any, targets: Any) -> dict[str, Tensor]:
        return super().loss(output, targets) | {"depth": (output.heads["depth"][:, 0] - targets.depth).abs()}


class SometimesSilent(MonoDLE):
    def loss(self, output: Any, targets: Any) -> dict[str, Tensor]:
        losses = super().loss(output, targets)
        return losses if len(targets.image) else {"heatmap": losses["heatmap"]}


class Idle(MonoDLE):
    def __init__(self, config: MonoDLEConfig) -> None:
        super().__init__(config)
        self.spare = nn.Linear(2, 2)


class Deaf(MonoDLE):
    def loss(self, output: Any, targets: Any) -> dict[str, Tensor]:
        return {name: loss * 0 + 1 for name, loss in super().loss(output, targets).items()}


class Averaging(MonoDLE):
    def metrics(self, output: Any, targets: Any, views: Views) -> dict[str, Tensor]:
        return {"depth_error_m": super().metrics(output, targets, views)["depth_error_m"].mean()}


class Choosy(MonoDLE):
    def candidates(self, output: Any, views: Views) -> Detections:
        found = super().candidates(output, views)
        return found.marked(found.scores > found.scores.median())


class WholeOnly(MonoDLE):
    """Its numbers do not survive half precision."""

    def forward_normalised(self, inputs: Tensor, k: Tensor, at: Any = None) -> Any:
        output = super().forward_normalised(inputs, k, at)
        coarse = output.features["neck.4"].dtype != torch.float32
        heads = {name: head / (0 if coarse else 1) for name, head in output.heads.items()}
        return replace(output, heads=heads)


class Forgetful(MonoDLE):
    """A setting that is not in the config."""

    def __init__(self, config: MonoDLEConfig) -> None:
        super().__init__(config)
        self.register_buffer("zoom", torch.tensor(1.0), persistent=False)

    def magnification(self, views: Views) -> Tensor:
        return super().magnification(views) * self.zoom


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (LensBlind, "distance follows the lens: expected twice the distances .* got 1 times"),
        (Unordered, "detections: expected the best first, got scores that rise"),
        (Unbounded, "detections: expected scores of 0 to 1, got 2"),
        (Unturned, r"detections: expected alpha = yaw - atan2\(x, z\), got .* rad beside it"),
        (Nearby, r"detections: expected alpha = yaw - atan2\(x, z\), got .* rad beside it"),
        (Smearing, "inputs stay as they are: expected the images of the views as they were given"),
        (Sharpening, "inputs stay as they are: expected `decode` to leave the output as it is"),
        (NetworkPixels, "original pixels: expected 2D boxes in original pixels"),
        (Unboxed, "original pixels: expected the same .*: does the target maker apply the letterbox"),
        (FirstCamera, "each image by itself: expected the same detections in image 1 of a batch"),
        (OffByOne, "detections: expected labels of 0 to 2, got"),
        (OneForAll, "detections: expected detections for each of 2 images, got 1"),
        (Leaky, "each image by itself: expected the same detections in image 0 of a batch and in that image alone"),
        (Nameless, "output: expected a DetectorOutput, got dict"),
        (Featureless, "output: expected named features, which distillation taps, got none"),
        (Lost, "output: expected finite numbers, got NaN or infinity in backbone.4"),
        (Unpicklable, "targets: expected a target maker that loader processes can pickle, got"),
        (AlwaysSure, r"targets: expected labelled = False where soft is True, got \[True, True\]"),
        (EmptyMean, "losses: expected finite numbers, got NaN or infinity in depth of images without objects"),
        (Vector, r"losses: expected a scalar, got depth of shape \(\d+,\) of two images"),
        (SometimesSilent, "losses: expected the losses .* of images without objects, too, got heatmap"),
        (Idle, r"every parameter is trained: .* got none for \['spare.weight', 'spare.bias'\]"),
        (Deaf, "learning: expected a lower loss after 15 steps on one batch, got"),
        (Averaging, r"metrics: expected depth_error_m with a number for each of \d+ objects, got shape \(\)"),
        (Choosy, "candidates: expected candidates with a score as `decode` has detections in image 0, got others"),
        (WholeOnly, "half precision: expected finite numbers, got NaN or infinity in"),
    ],
)
def test_a_broken_promise_is_named(broken: type[MonoDLE], message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=f"{broken.__name__}: {message}"):
        check_detector(broken(MonoDLEConfig(**DLA)))


def test_a_setting_that_the_model_file_does_not_hold_is_found() -> None:
    torch.manual_seed(0)
    detector = Forgetful(MonoDLEConfig(**DLA))
    check_detector(detector)
    detector.zoom.fill_(2.0)
    with pytest.raises(InputError, match="model file: expected the detections of the detector that was saved"):
        check_detector(detector)


class Tiny(Detector):
    """Says nothing right about itself."""

    modality, classes, input_size, input_multiple = "lidar", ("Car", "Car"), (190, 64), 32  # type: ignore[assignment]
    forward = loss = decode = target_maker = None  # type: ignore[assignment]


def test_what_it_says_about_itself_comes_first() -> None:
    with pytest.raises(InputError) as caught:
        check_detector(Tiny())
    said = str(caught.value)
    assert "expected a modality of rgb, depth, rgbd, got 'lidar'" in said
    assert "none twice, got ('Car', 'Car')" in said
    assert "multiples of 32 px, got 190 x 64" in said
    assert "a dataclass under the name `config`, for the model file, got NoneType" in said


def test_a_crash_is_named_with_what_was_tried() -> None:
    class Stumbling(MonoDLE):
        def metrics(self, output: Any, targets: Any, views: Views) -> dict[str, Tensor]:
            raise KeyError("neck.2")

    with pytest.raises(InputError, match=r"Stumbling: metrics: expected no error, got KeyError: 'neck\.2'"):
        check_detector(Stumbling(MonoDLEConfig(**DLA)))
