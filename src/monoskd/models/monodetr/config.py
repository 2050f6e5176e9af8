"""What a MonoDETR network is made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from monoskd.models.monodetr.structures import Quirk
from monoskd.models.settings import COUNT, METRES, check_settings, is_count, is_positive, names_among
from monoskd.objects import KITTI_MEAN_SIZES
from monoskd.structures import Modality


@dataclass(frozen=True)
class MonoDETRConfig:
    """What the network is made of.

    Args:
        modality: its input: `rgb` (a student), `depth` or `rgbd` (a teacher; pictures and depth maps).
        backbone: any timm model with features at strides 4 to 32, by name; published: a ResNet-50.
        backbone_arguments: further arguments of timm's constructor.
        pretrained: ImageNet weights of the backbone: true (through timm), false, or a file that holds them.
        frozen: keep the backbone's BatchNorm, its stem and its stride-4 stage as they are, as published. Switch it off
            where the backbone does not start from ImageNet weights for this input.
        width: channels of the transformer; a multiple of `heads` and of 32.
        heads: of each attention.
        points: places that a head looks at in each level.
        hidden: channels of the feed-forward layers.
        encoder_layers: of the transformer.
        decoder_layers: of the transformer; each has its own heads and losses.
        dropout: in the transformer.
        queries: detections that the network makes at most an image and class.
        groups: groups of queries in training, each of which finds all objects.
        depth_bins: of the depth map; they grow linearly with the distance, to 60 m.
        classes: what is detected, in the order of the class logits.
        mean_sizes: mean (height, width, length) [m] of each class; an untrained network predicts their mean.
        input_size: (width, height) [px] that images are brought to; multiples of 32.
        geometry: `corrected`, or `published`: fed through the original's letterbox, with every quirk.
        quirks: single quirks of the original, see docs/detectors.md; `geometry: published` has all of them.
        max_depth_m: objects farther away are not supervised.
        top_k: detections an image at inference.
        reference_focal_px: the focal length [original px] through which k = 1 at zoom 1. None: that of the training
            set, which `train` sets; without training KITTI's 721.54 px.
        input_focal_px: the focal length [network px] of the training pictures. None: `train` sets it; without training
            it is unknown.
        initial_depth_m: depth that the depth head of an untrained network says where an image is not zoomed.
    """

    modality: Modality = "rgb"
    backbone: str = "resnet50.tv_in1k"
    backbone_arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool | Path = True
    frozen: bool = True
    width: int = 256
    heads: int = 8
    points: int = 4
    hidden: int = 256
    encoder_layers: int = 3
    decoder_layers: int = 3
    dropout: float = 0.1
    queries: int = 50
    groups: int = 11
    depth_bins: int = 80
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

    def __post_init__(self) -> None:
        counts = ("heads", "points", "hidden", "encoder_layers", "decoder_layers", "queries", "groups", "depth_bins")
        check_settings(
            self,
            quirks=names_among(get_args(Quirk)),
            **dict.fromkeys(counts, COUNT),
            width=(
                f"a multiple of 32 and of heads ({self.heads})",
                lambda value: is_count(value) and value % math.lcm(32, self.heads) == 0,
            ),
            dropout=("0 or more and less than 1", lambda value: value == 0 or (is_positive(value) and value < 1)),
            max_depth_m=METRES,
        )

    @property
    def active_quirks(self) -> frozenset[Quirk]:
        """The quirks that hold: those named, or all of them as published."""
        return frozenset(get_args(Quirk) if self.geometry == "published" else self.quirks)
