"""DID-M3D (Peng et al., ECCV 2022): a monocular 3D detector that decouples an object's depth.

image -> backbone -> neck -> dense heads -> 2D boxes -> regional heads -> depth, size, heading, 3D centre.
With depth maps instead of images as input, the same network is the teacher.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monoskd.models.backbone import maps_by_name
from monoskd.models.did_m3d.decode import decode_regions, merge_depth
from monoskd.models.did_m3d.heads import DenseHeads, RegionalHeads
from monoskd.models.did_m3d.losses import task_losses
from monoskd.models.did_m3d.structures import HEAD_STRIDE, DidM3DOutput, DidM3DTargets, Rois
from monoskd.models.did_m3d.targets import make_targets
from monoskd.models.heatmap import heat_at, peaks
from monoskd.models.lens import LensDetector
from monoskd.models.neck import backbone_and_neck
from monoskd.models.settings import CELLS, COUNT, INPUT_MULTIPLE, check_settings
from monoskd.objects import KITTI_MEAN_SIZES, MIN_HEIGHT_PX
from monoskd.structures import Detections, Modality, PublishedData, TargetMaker, Views


@dataclass(frozen=True)
class DidM3DConfig:
    """The network's architecture and classes.

    Args:
        modality: its input: `rgb` (a student), `depth` or `rgbd` (a teacher; pictures and depth maps).
        backbone: any timm model with features at strides 4 to 32, by name.
        backbone_arguments: further arguments of timm's constructor, such as `channels` of a DLA.
        backbone_early_stride: halve the image in the backbone's first layer where it would do so later (a DLA): faster.
        pretrained: ImageNet weights of the backbone: true (through timm), false, or a file that holds them.
        head_width: channels of the heads' hidden layers.
        classes: what is detected, in the order of the heat map's channels.
        mean_sizes: mean (height, width, length) [m] of each class; sizes are predicted relative to it.
        input_size: (width, height) [px] that images are brought to; multiples of 32.
        geometry: the letterbox of its input: `corrected` (one scale, exact inverse) or `published`.
        top_k: detections per image at inference.
        reference_focal_px: the focal length [original px] through which visual depth = exp(-raw) at zoom 1. None: that
            of the training set, which `train` sets; without training KITTI's 721.54 px.
        input_focal_px: the focal length [network px] of the training pictures. None: `train` sets it;
            without training it is unknown.
        initial_depth_m: visual depth that an untrained network predicts for an image that is not zoomed.
        initial_size_cells: (width, height) of 2D boxes that an untrained network predicts, in cells of 4 px.
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
    top_k: int = 50
    reference_focal_px: float | None = None
    input_focal_px: float | None = None
    initial_depth_m: float = 20.0
    initial_size_cells: tuple[float, float] = (6.0, 4.0)

    def __post_init__(self) -> None:
        check_settings(self, head_width=COUNT, initial_size_cells=CELLS)


class DidM3D(LensDetector):
    """The detector. Its features are called `backbone.4` .. `backbone.32` and `neck.4` .. `neck.32` by stride.

    task_graph: Lu et al., GUPNet, ICCV 2021, figure 4.
    """

    input_multiple = INPUT_MULTIPLE
    depth_targets = True
    task_graph = {  # noqa: RUF012 - never written to
        "offset_2d": (),
        "size_2d": (),
        "depth": ("size_2d", "size_3d", "offset_2d"),
        "offset_3d": ("size_2d", "offset_2d"),
        "size_3d": ("size_2d", "offset_2d"),
        "heading": ("size_2d", "offset_2d"),
        "heatmap": (),
    }

    config: DidM3DConfig
    mean_sizes: Tensor

    def __init__(self, config: DidM3DConfig | None = None) -> None:
        config = config or DidM3DConfig()
        super().__init__(config)
        self.backbone, self.neck = backbone_and_neck(config, input_channels=self.input_channels)
        width = self.backbone.channels[0]
        self.dense = DenseHeads(
            inputs=width,
            hidden=config.head_width,
            classes=len(config.classes),
            initial_size_cells=config.initial_size_cells,
        )
        self.regional = RegionalHeads(
            inputs=width,
            hidden=config.head_width,
            classes=len(config.classes),
            initial_depth_m=config.initial_depth_m,
        )
        sizes = [config.mean_sizes[name] for name in config.classes]
        self.register_buffer("mean_sizes", torch.tensor(sizes), persistent=False)

    def forward(self, views: Views, at: DidM3DTargets | None = None) -> DidM3DOutput:
        """Run on pictures or depth maps, at the objects of `at` or at the heat map's peaks.

        At peaks `offset_2d` and `size_2d` are evaluated there alone, and are not in the output.
        """
        return self.forward_normalised(self.normalise(views), views, rois=None if at is None else at.rois)

    def forward_normalised(
        self, inputs: Float[Tensor, "b c h w"], views: Views, *, rois: Rois | None = None
    ) -> DidM3DOutput:
        """`forward` for normalised inputs; of `views` only cameras and letterbox are read."""
        backbone = self.backbone(inputs)
        neck = self.neck(backbone)
        shared = neck[str(HEAD_STRIDE)]
        if rois is None:
            dense = {"heatmap": self.dense.heat(shared)}
            best = peaks(dense["heatmap"].sigmoid(), count=self.config.top_k)
            rois, scores = Rois(best.image, best.cell, best.label), best.heat
        else:
            dense = self.dense(shared)
            scores = heat_at(dense["heatmap"].sigmoid(), rois)
        features = maps_by_name(backbone=backbone, neck=neck)
        boxes, regional = self.heads_at(rois, shared=shared, views=views)
        return DidM3DOutput(features, dense | regional, rois, boxes, scores)

    def heads_at(
        self, rois: Rois, *, shared: Float[Tensor, "b k v u"], views: Views
    ) -> tuple[Float[Tensor, "n 4"], dict[str, Tensor]]:
        """The 2D boxes [cells] that the dense heads give at these regions, and the outputs of the regional heads."""
        boxes = self.dense.boxes(shared, rois)
        k = None if self.published_input else self.magnification(views)
        return boxes, self.regional(shared, rois=rois, boxes=boxes, views=views, magnification=k)

    def loss(self, output: DidM3DOutput, targets: DidM3DTargets) -> dict[str, Tensor]:
        """Task losses by name: heatmap, offset_2d, size_2d, offset_3d, size_3d, heading, depth.

        `output` is that of a forward pass at `targets`.
        """
        return task_losses(output.heads, targets)

    def decode(self, output: DidM3DOutput, views: Views) -> list[Detections]:
        """Detections of each image, best first, in original pixels and metres."""
        return self.candidates(output, views).by_image(output.rois.image, images=len(views))

    def candidates(self, output: DidM3DOutput, views: Views) -> Detections:
        """The `top_k` regions of each image; those with a negative dimension are marked."""
        regions = decode_regions(
            output, views, classes=self.classes, mean_sizes=self.mean_sizes, published=self.published_input
        )
        return regions.marked(regions.is_real)

    def target_maker(
        self, *, min_height_px: float = MIN_HEIGHT_PX, published: PublishedData | None = None
    ) -> TargetMaker:
        """`make_targets` for these classes; `published`: the quirks of cells and of visual depth."""
        return partial(
            make_targets,
            classes=self.classes,
            mean_sizes=dict(self.config.mean_sizes),
            min_height_px=min_height_px,
            published=published or PublishedData(),
        )

    def metrics(self, output: DidM3DOutput, targets: DidM3DTargets, views: Views) -> dict[str, Tensor]:
        """depth_error_m: |z - true z| at the labelled objects' cells, n. Only the regional heads run again."""
        _, heads = self.heads_at(targets.rois, shared=output.features[f"neck.{HEAD_STRIDE}"], views=views)
        depth_m, _ = merge_depth(heads["depth"], heads["depth_log_variance"])
        return {"depth_error_m": (depth_m - targets.depth).abs()}
