"""MonoCon (Liu, Xue and Wu, "Learning Auxiliary Monocular Contexts Helps Monocular 3D Object Detection", AAAI 2022).

image -> backbone -> neck -> dense heads, all at the cell of the 2D box's centre. In training auxiliary heads learn what
the labelled 3D boxes show in the picture, their projected corners; prediction does without them. Fed with depth maps
instead of images, the same network is a teacher.

It follows the paper and the structure of its published implementation, but is not checked against recordings of that.
Where the house has a way of its own it goes that way. Not as in the original: depths are relative to the lens (k);
sizes are relative to the class means; heading bins are learnt by one cross-entropy, not by twelve; peaks of the heat
maps are as wide as in the house's other detectors; the confidence stays below 1; corners nearer than 1 m are not
supervised; 2D boxes are not clipped to the crop.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from monoskd.models.backbone import maps_by_name
from monoskd.models.dense import decode_cells
from monoskd.models.heatmap import HEAD_STRIDE, Peaks, heat_at, peaks
from monoskd.models.lens import LensDetector
from monoskd.models.monocon.heads import Heads
from monoskd.models.monocon.losses import task_losses
from monoskd.models.monocon.structures import MonoConOutput, MonoConTargets
from monoskd.models.monocon.targets import make_targets
from monoskd.models.neck import backbone_and_neck
from monoskd.models.settings import CELLS, COUNT, INPUT_MULTIPLE, METRES, check_settings
from monoskd.objects import KITTI_MEAN_SIZES, MIN_HEIGHT_PX
from monoskd.structures import Detections, Modality, PublishedData, TargetMaker, Views


@dataclass(frozen=True)
class MonoConConfig:
    """What the network is made of.

    Args:
        modality: what it looks at: `rgb` (a student), `depth` or `rgbd` (a teacher; pictures and depth maps).
        backbone: any timm model with features at strides 4 to 32, by name.
        backbone_arguments: further arguments of timm's constructor, such as `channels` of a DLA.
        backbone_early_stride: halve the image in the backbone's first layer where it would do so later (a DLA): faster.
        pretrained: ImageNet weights of the backbone: true (through timm), false, or a file that holds them.
        head_width: channels of the heads' hidden layers.
        mixture: scales and shifts that each attentive normalisation mixes.
        classes: what is detected, in the order of the heat map's channels.
        mean_sizes: mean (height, width, length) [m] of each class; sizes are predicted relative to it.
        input_size: (width, height) [px] that images are brought to; multiples of 32.
        max_depth_m: objects farther away are not supervised.
        top_k: detections an image at inference.
        reference_focal_px: the focal length [original px] through which depth = exp(-raw) at zoom 1. None: that of the
            training set, which `train` sets; without training KITTI's 721.54 px.
        input_focal_px: the focal length [network px] of the pictures that it learns from. None: `train` sets it;
            without training it is unknown.
        initial_depth_m: depth that an untrained network says where an image is not zoomed.
        initial_size_cells: (width, height) of 2D boxes that an untrained network says, in cells of 4 px.
    """

    geometry: ClassVar[str] = "corrected"  # there is no other

    modality: Modality = "rgb"
    backbone: str = "dla34"
    backbone_arguments: Mapping[str, Any] = field(default_factory=dict)
    backbone_early_stride: bool = False
    pretrained: bool | Path = True
    head_width: int = 64
    mixture: int = 10
    classes: tuple[str, ...] = tuple(KITTI_MEAN_SIZES)
    mean_sizes: Mapping[str, tuple[float, float, float]] = field(default_factory=lambda: dict(KITTI_MEAN_SIZES))
    input_size: tuple[int, int] = (1280, 384)
    max_depth_m: float = 65.0
    top_k: int = 50
    reference_focal_px: float | None = None
    input_focal_px: float | None = None
    initial_depth_m: float = 20.0
    initial_size_cells: tuple[float, float] = (6.0, 4.0)

    def __post_init__(self) -> None:
        check_settings(self, head_width=COUNT, mixture=COUNT, max_depth_m=METRES, initial_size_cells=CELLS)


class MonoCon(LensDetector):
    """The detector. Its features are called `backbone.4` .. `backbone.32` and `neck.4` .. `neck.32` by stride.

    Its heads are those of `Heads`, but `depth` is in metres and `depth_log_std` is beside it, both n x 1. Whole maps:
    `detector.heads(output.features["neck.4"], detector.magnification(views))`.
    """

    input_multiple = INPUT_MULTIPLE

    config: MonoConConfig
    mean_sizes: Tensor

    def __init__(self, config: MonoConConfig | None = None) -> None:
        config = config or MonoConConfig()
        super().__init__(config)
        self.backbone, self.neck = backbone_and_neck(config, input_channels=self.input_channels, kaiming=True)
        self.heads = Heads(
            inputs=self.backbone.channels[0],
            hidden=config.head_width,
            mixture=config.mixture,
            classes=len(config.classes),
            biases={"size_2d": config.initial_size_cells, "depth": (-math.log(config.initial_depth_m), 0.0)},
        )
        sizes = torch.tensor([config.mean_sizes[name] for name in config.classes])
        self.register_buffer("mean_sizes", sizes, persistent=False)

    def forward(self, views: Views, at: MonoConTargets | None = None) -> MonoConOutput:
        """Look at pictures or depth maps: all heads at the objects of `at`, or those that predict at the peaks."""
        return self.forward_normalised(self.normalise(views), self.magnification(views), at)

    def forward_normalised(
        self, inputs: Float[Tensor, "b c h w"], k: Float[Tensor, " b"], at: MonoConTargets | None = None
    ) -> MonoConOutput:
        """`forward` for inputs that are normalised already, of this magnification."""
        backbone = self.backbone(inputs)
        neck = self.neck(backbone)
        features = maps_by_name(backbone=backbone, neck=neck)
        shared = neck[str(HEAD_STRIDE)]
        heatmap = self.heads.heat(shared)
        heat = heatmap.sigmoid()
        if at is None:
            where = peaks(heat, count=self.config.top_k)
            said = self.heads.at(shared, k, where)
        else:
            where = Peaks(at.image, at.cell, at.label, heat_at(heat, at))
            said = self.heads.learning(shared, k, at)
        return MonoConOutput(features, {"heatmap": heatmap, **said}, where)

    def loss(self, output: MonoConOutput, targets: MonoConTargets) -> dict[str, Tensor]:
        """Task losses by name: heatmap, keypoint_heatmap, offset_2d, size_2d, keypoints, keypoint_offset, depth,
        size_3d, heading; `size_2d` weighs 0.1, the others 1.

        `output` is that of a forward pass at `targets`.
        """
        return task_losses(output.heads, targets)

    def decode(self, output: MonoConOutput, views: Views) -> list[Detections]:
        """Detections of each image, best first, in original pixels and metres."""
        return self._boxes(output, views).by_image(output.where.image, images=len(views))

    def candidates(self, output: MonoConOutput, views: Views) -> Detections:
        """The `top_k` cells of each image; those with a negative dimension are marked."""
        detections = self._boxes(output, views)
        return detections.marked(detections.is_real)

    def _boxes(self, output: MonoConOutput, views: Views) -> Detections:
        """The box at each of the output's cells."""
        return decode_cells(output, views, classes=self.classes, mean_sizes=self.mean_sizes, bounded_score=True)

    def target_maker(
        self, *, min_height_px: float = MIN_HEIGHT_PX, published: PublishedData | None = None
    ) -> TargetMaker:
        """`make_targets` for these classes. `published` makes no difference: there is no published mode."""
        return partial(
            make_targets,
            classes=self.classes,
            mean_sizes={name: self.config.mean_sizes[name] for name in self.classes},
            max_depth_m=self.config.max_depth_m,
            min_height_px=min_height_px,
        )

    def metrics(self, output: MonoConOutput, targets: MonoConTargets, views: Views) -> dict[str, Tensor]:
        """depth_error_m: |z - true z| at the labelled objects' cells, n. Only the depth head runs again."""
        shared = output.features[f"neck.{HEAD_STRIDE}"]
        said = self.heads.at(shared, self.magnification(views), targets, names=("depth",))
        return {"depth_error_m": (said["depth"].squeeze(1) - targets.depth).abs()}
