"""MonoDLE (Ma et al., "Delving into Localization Errors for Monocular 3D Object Detection", CVPR 2021).

image -> backbone -> neck -> seven dense heads, all at the cell of the projected 3D centre. No regions. Fed with depth
maps instead of images, the same network is a teacher.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from monoskd.models.backbone import maps_by_name
from monoskd.models.dense import CellOutput, decode_cells
from monoskd.models.heatmap import HEAD_STRIDE, LabelledCells, Peaks, heat_at, peaks
from monoskd.models.lens import LensDetector
from monoskd.models.monodle.heads import Heads
from monoskd.models.monodle.losses import task_losses
from monoskd.models.monodle.structures import MonoDLETargets, Quirk
from monoskd.models.monodle.targets import make_targets
from monoskd.models.neck import backbone_and_neck
from monoskd.models.settings import CELLS, COUNT, INPUT_MULTIPLE, METRES, check_settings, names_among
from monoskd.objects import KITTI_MEAN_SIZES, MIN_HEIGHT_PX
from monoskd.structures import Detections, Modality, PublishedData, TargetMaker, Views


@dataclass(frozen=True)
class MonoDLEConfig:
    """What the network is made of.

    Args:
        modality: what it looks at: `rgb` (a student), `depth` or `rgbd` (a teacher; pictures and depth maps).
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
        check_settings(
            self,
            quirks=names_among(get_args(Quirk)),
            head_width=COUNT,
            max_depth_m=METRES,
            initial_size_cells=CELLS,
        )

    @property
    def active_quirks(self) -> frozenset[Quirk]:
        """The quirks that hold: those named, or all of them as published."""
        return frozenset(get_args(Quirk) if self.geometry == "published" else self.quirks)


class MonoDLE(LensDetector):
    """The detector. Its features are called `backbone.4` .. `backbone.32` and `neck.4` .. `neck.32` by stride.

    Its heads are those of `Heads`, but `depth` is in metres and `depth_log_std` is beside it, both n x 1. Whole maps:
    `detector.heads(output.features["neck.4"], detector.magnification(views))`.
    """

    input_multiple = INPUT_MULTIPLE

    config: MonoDLEConfig
    mean_sizes: Tensor

    def __init__(self, config: MonoDLEConfig | None = None) -> None:
        config = config or MonoDLEConfig()
        super().__init__(config)
        self.quirks = config.active_quirks
        self.backbone, self.neck = backbone_and_neck(config, input_channels=self.input_channels, kaiming=True)
        start = {"size_2d": list(config.initial_size_cells), "depth": [-math.log(config.initial_depth_m), 0.0]}
        self.heads = Heads(
            inputs=self.backbone.channels[0],
            hidden=config.head_width,
            classes=len(config.classes),
            biases={} if "small_start" in self.quirks else start,
        )
        sizes = torch.tensor([self._mean_sizes[name] for name in config.classes])
        self.register_buffer("mean_sizes", sizes, persistent=False)

    @property
    def _mean_sizes(self) -> dict[str, tuple[float, float, float]]:
        """What sizes are relative to [m], by class."""
        absolute = "absolute_sizes" in self.quirks
        return {name: (0.0, 0.0, 0.0) if absolute else self.config.mean_sizes[name] for name in self.config.classes}

    @property
    def lens_blind(self) -> bool:
        """Whether k is 1, whatever the lens and the zoom."""
        return "lens_blind_depth" in self.quirks

    def forward(self, views: Views, at: LabelledCells | None = None) -> CellOutput:
        """Look at pictures or depth maps, at the objects of `at` or at the heat map's peaks."""
        return self.forward_normalised(self.normalise(views), self.magnification(views), at)

    def forward_normalised(
        self, inputs: Float[Tensor, "b c h w"], k: Float[Tensor, " b"], at: LabelledCells | None = None
    ) -> CellOutput:
        """`forward` for inputs that are normalised already, of this magnification."""
        backbone = self.backbone(inputs)
        neck = self.neck(backbone)
        features = maps_by_name(backbone=backbone, neck=neck)
        shared = neck[str(HEAD_STRIDE)]
        heatmap = self.heads.heat(shared)
        heat = heatmap.sigmoid()
        if at is None:
            where = peaks(heat, count=self.config.top_k)
        else:
            where = Peaks(at.image, at.cell, at.label, heat_at(heat, at))
        return CellOutput(features, {"heatmap": heatmap, **self.heads.at(shared, k, where)}, where)

    def loss(self, output: CellOutput, targets: MonoDLETargets) -> dict[str, Tensor]:
        """Task losses by name: heatmap, offset_2d, size_2d, offset_3d, depth, size_3d, heading; each weighs 1.

        `output` is that of a forward pass at `targets`.
        """
        return task_losses(output.heads, targets, clamped_heat="clamped_heat" in self.quirks)

    def decode(self, output: CellOutput, views: Views) -> list[Detections]:
        """Detections of each image, best first, in original pixels and metres."""
        detections, any_size = self._boxes(output, views), "negative_sizes" in self.quirks
        return detections.by_image(output.where.image, images=len(views), any_size=any_size)

    def candidates(self, output: CellOutput, views: Views) -> Detections:
        """The `top_k` cells of each image; those with a negative dimension are marked, unless `negative_sizes`."""
        detections = self._boxes(output, views)
        return detections if "negative_sizes" in self.quirks else detections.marked(detections.is_real)

    def _boxes(self, output: CellOutput, views: Views) -> Detections:
        """The box at each of the output's cells."""
        bounded = "unbounded_score" not in self.quirks
        return decode_cells(output, views, classes=self.classes, mean_sizes=self.mean_sizes, bounded_score=bounded)

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

    def metrics(self, output: CellOutput, targets: MonoDLETargets, views: Views) -> dict[str, Tensor]:
        """depth_error_m: |z - true z| at the labelled objects' cells, n. Only the heads run again, and only there."""
        said = self.heads.at(output.features[f"neck.{HEAD_STRIDE}"], self.magnification(views), targets)
        return {"depth_error_m": (said["depth"].squeeze(1) - targets.depth).abs()}
