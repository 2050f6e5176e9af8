"""MonoDLE (Ma et al., "Delving into Localization Errors for Monocular 3D Object Detection", CVPR 2021).

image -> backbone -> neck -> seven dense heads, all at the cell of the projected 3D centre. No regions. Fed with depth
maps instead of images, the same network is a teacher.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.errors import InputError
from monoskd.models.backbone import STRIDES, Backbone
from monoskd.models.heatmap import at_cells
from monoskd.models.monodle.decode import decode_peaks
from monoskd.models.monodle.heads import Heads, depth_m
from monoskd.models.monodle.losses import task_losses
from monoskd.models.monodle.structures import HEAD_STRIDE, MonoDLETargets, Quirk
from monoskd.models.monodle.targets import make_targets
from monoskd.models.neck import DLAUp
from monoskd.objects import KITTI_MEAN_SIZES, MIN_HEIGHT_PX
from monoskd.structures import Detections, Detector, DetectorOutput, Modality, PublishedData, TargetMaker, Views

FAR_M = 80.0  # depth maps are divided by this
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KITTI_FOCAL_PX = 721.5377  # of most drives


@dataclass(frozen=True)
class MonoDLEConfig:
    """What the network is made of.

    Args:
        modality: what it looks at: `rgb` (a student) or `depth` (a teacher).
        backbone: any timm model with features at strides 4 to 32, by name.
        backbone_arguments: further arguments of timm's constructor, such as `channels` of a DLA.
        backbone_early_stride: halve the image in the backbone's first layer where it would do so later (a DLA): faster.
        pretrained: ImageNet weights of the backbone: true (through timm), false, or a file that holds them.
        head_width: channels of the heads' hidden layers.
        classes: what is detected, in the order of the heat map's channels.
        mean_sizes: mean (height, width, length) [m] of each class; sizes are predicted relative to it.
        input_size: (width, height) [px] that images are brought to; multiples of 32.
        geometry: `corrected`, or `published`: fed through the original's letterbox, with every quirk.
        quirks: single quirks of the original, see docs/detectors.md; `geometry: published` has all of them.
        max_depth_m: objects farther away are not supervised.
        top_k: detections an image at inference.
        reference_focal_px: the focal length [original px] through which depth = exp(-raw) at zoom 1. None: that of the
            training set, which `train` sets; without training KITTI's 721.54 px.
        input_focal_px: the focal length [network px] of the pictures that it learns from. None: `train` sets it;
            without training it is unknown.
        initial_depth_m: depth that an untrained network says where an image is not zoomed.
        initial_size_cells: (width, height) of 2D boxes that an untrained network says, in cells of 4 px.
    """

    modality: Modality = "rgb"
    backbone: str = "dla34"
    backbone_arguments: Mapping[str, Any] = field(default_factory=dict)
    backbone_early_stride: bool = False
    pretrained: bool | Path = True
    head_width: int = 256
    classes: tuple[str, ...] = tuple(KITTI_MEAN_SIZES)
    mean_sizes: Mapping[str, tuple[float, float, float]] = field(default_factory=lambda: dict(KITTI_MEAN_SIZES))
    input_size: tuple[int, int] = (1280, 384)
    geometry: Literal["corrected", "published"] = "corrected"
    quirks: tuple[Quirk, ...] = ()
    max_depth_m: float = 65.0
    top_k: int = 50
    reference_focal_px: float | None = None
    input_focal_px: float | None = None
    initial_depth_m: float = 20.0
    initial_size_cells: tuple[float, float] = (6.0, 4.0)

    def __post_init__(self) -> None:
        for name, expected, fits in (
            ("modality", "rgb or depth", self.modality in get_args(Modality)),
            ("geometry", "corrected or published", self.geometry in ("corrected", "published")),
            ("quirks", f"names among {', '.join(get_args(Quirk))}", set(self.quirks) <= set(get_args(Quirk))),
            ("classes", "names, none twice", 0 < len(self.classes) == len(set(self.classes))),
            ("head_width", "a whole number of at least 1", self.head_width >= 1),
            ("top_k", "a whole number of at least 1", self.top_k >= 1),
            (
                "input_size",
                "(width, height) in multiples of 32 px",
                len(self.input_size) == 2 and all(side > 0 and side % STRIDES[-1] == 0 for side in self.input_size),
            ),
            ("max_depth_m", "more than 0 m", self.max_depth_m > 0),
            ("initial_depth_m", "more than 0 m", 0 < self.initial_depth_m < math.inf),
            ("initial_size_cells", "(width, height) of at least 0 cells", min(self.initial_size_cells) >= 0),
            ("reference_focal_px", "more than 0 px, or none", 0 < (self.reference_focal_px or 1) < math.inf),
            ("input_focal_px", "more than 0 px, or none", 0 < (self.input_focal_px or 1) < math.inf),
        ):
            if not fits:
                raise InputError(f"{name}: expected {expected}, got {getattr(self, name)!r}")
        for label in self.classes:
            size = self.mean_sizes.get(label, ())
            if len(size) != 3 or not all(0 < side < math.inf for side in size):
                raise InputError(f"mean_sizes: expected (height, width, length) above 0 m of {label}, got {size!r}")

    @property
    def active_quirks(self) -> frozenset[Quirk]:
        """The quirks that hold: those named, or all of them as published."""
        return frozenset(get_args(Quirk) if self.geometry == "published" else self.quirks)


class MonoDLE(Detector):
    """The detector. Its features are called `backbone.4` .. `backbone.32` and `neck.4` .. `neck.32` by stride.

    Its heads are those of `Heads`, but `depth` is in metres and `depth_log_std` is beside it, both b x 1 x v x u.
    """

    input_multiple = STRIDES[-1]

    pixel_mean: Tensor
    pixel_std: Tensor
    mean_sizes: Tensor

    def __init__(self, config: MonoDLEConfig | None = None) -> None:
        super().__init__()
        config = config or MonoDLEConfig()
        self.config = replace(config, pretrained=False)  # from here on the weights are the module's own
        self.modality = config.modality
        self.published_input = config.geometry == "published"
        self.classes = tuple(config.classes)
        self.input_size = config.input_size
        self.quirks = config.active_quirks
        self.backbone = Backbone(
            config.backbone,
            pretrained=config.pretrained,
            arguments=config.backbone_arguments,
            early_stride=config.backbone_early_stride,
        )
        self.neck = DLAUp(self.backbone.channels)
        for layer in self.neck.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        start = {"size_2d": list(config.initial_size_cells), "depth": [-math.log(config.initial_depth_m), 0.0]}
        self.heads = Heads(
            inputs=self.backbone.channels[0],
            hidden=config.head_width,
            classes=len(config.classes),
            biases={} if "small_start" in self.quirks else start,
        )
        sizes = torch.tensor([self._mean_sizes[name] for name in config.classes])
        self.register_buffer("mean_sizes", sizes, persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    @property
    def _mean_sizes(self) -> dict[str, tuple[float, float, float]]:
        """What sizes are relative to [m], by class."""
        absolute = "absolute_sizes" in self.quirks
        return {name: (0.0, 0.0, 0.0) if absolute else self.config.mean_sizes[name] for name in self.config.classes}

    @property
    def reference_focal_px(self) -> float:
        """The focal length [original px] through which k = 1 at zoom 1."""
        return self.config.reference_focal_px or KITTI_FOCAL_PX

    @property
    def input_focal_px(self) -> float | None:
        """The focal length [network px] that it was trained at; None as published: there it plays no part."""
        return None if self.published_input else self.config.input_focal_px

    def adapt_to(self, *, focal_px: float, input_focal_px: float) -> None:
        """Keep the lens of the training set in the config, unless one is there already."""
        if not self.published_input:
            self.config = replace(
                self.config,
                reference_focal_px=self.config.reference_focal_px or focal_px,
                input_focal_px=self.config.input_focal_px or input_focal_px,
            )

    def magnification(self, views: Views) -> Float[Tensor, " b"]:
        """k = f_net / f_ref: how much larger objects look than through the reference lens; 1 if `lens_blind_depth`.

        An object of size S at depth z spans f_net S / z network pixels, with f_net = focal length x zoom.
        """
        if "lens_blind_depth" in self.quirks:
            return views.images.new_ones(views.images.shape[:1])  # `len` would be a constant in an exported graph
        lens: Tensor = views.cameras.focal_px.to(views.images) / self.reference_focal_px
        return torch.as_tensor(views.letterbox.scale).to(views.images) * lens

    def normalise(self, views: Views) -> Float[Tensor, "b 3 h w"]:
        """What the first layer sees: RGB by ImageNet's mean and spread; apparent depth / 80 m in all three channels.

        Apparent depth is depth / `magnification`: what the depth head has to say before it multiplies by k.
        """
        if self.modality == "rgb":
            return (views.images - self.pixel_mean) / self.pixel_std
        k = self.magnification(views)
        return (views.images / k[:, None, None, None] / FAR_M).expand(-1, 3, -1, -1)

    def forward(self, views: Views, at: Any = None) -> DetectorOutput:
        """Look at pictures or depth maps."""
        return self.forward_normalised(self.normalise(views), self.magnification(views))

    def forward_normalised(self, inputs: Float[Tensor, "b 3 h w"], k: Float[Tensor, " b"]) -> DetectorOutput:
        """`forward` for inputs that are normalised already, of this magnification. depth = k exp(-raw)."""
        backbone = self.backbone(inputs)
        neck = self.neck(backbone)
        heads = self.heads(neck[str(HEAD_STRIDE)])
        raw, heads["depth_log_std"] = heads["depth"].split(1, 1)
        heads["depth"] = depth_m(raw) * k[:, None, None, None].to(raw)
        features = {f"backbone.{stride}": x for stride, x in backbone.items()}
        return DetectorOutput(features | {f"neck.{stride}": x for stride, x in neck.items()}, heads)

    def loss(self, output: DetectorOutput, targets: MonoDLETargets) -> dict[str, Tensor]:
        """Task losses by name: heatmap, offset_2d, size_2d, offset_3d, depth, size_3d, heading; each weighs 1."""
        return task_losses(output.heads, targets, clamped_heat="clamped_heat" in self.quirks)

    def decode(self, output: DetectorOutput, views: Views) -> list[Detections]:
        """Detections of each image, best first, in original pixels and metres."""
        found, image = self._peaks(output, views)
        if "negative_sizes" not in self.quirks:
            return found.by_image(image, images=len(views))
        order = found.scores.argsort(descending=True, stable=True)
        return [found[order[(image == number)[order]]] for number in range(len(views))]

    def candidates(self, output: DetectorOutput, views: Views) -> Detections:
        """The `top_k` cells of each image; those with a negative dimension are marked, unless `negative_sizes`."""
        found, _ = self._peaks(output, views)
        return found if "negative_sizes" in self.quirks else found.marked(found.is_real)

    def _peaks(self, output: DetectorOutput, views: Views) -> tuple[Detections, Tensor]:
        """The box at each of the best cells, and the image of each."""
        return decode_peaks(
            output.heads,
            views,
            classes=self.classes,
            mean_sizes=self.mean_sizes,
            top_k=self.config.top_k,
            quirks=self.quirks,
        )

    def target_maker(
        self, *, min_height_px: float = MIN_HEIGHT_PX, published: PublishedData | None = None
    ) -> TargetMaker:
        """`make_targets` for these classes; `published`: the quirk of cells."""
        return partial(
            make_targets,
            classes=self.classes,
            mean_sizes=self._mean_sizes,
            max_depth_m=self.config.max_depth_m,
            quirks=self.quirks,
            min_height_px=min_height_px,
            published=published or PublishedData(),
        )

    def metrics(self, output: DetectorOutput, targets: MonoDLETargets, views: Views) -> dict[str, Tensor]:
        """depth_error_m: |z - true z| at the labelled objects' cells, n."""
        return {"depth_error_m": (at_cells(output.heads["depth"], targets).squeeze(1) - targets.depth).abs()}
