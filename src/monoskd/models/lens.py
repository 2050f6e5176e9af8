"""What detectors of any lens share: pixels as the first layer wants them, and depths relative to a reference lens."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monoskd.structures import Detector, Views

FAR_M = 80.0  # depth maps are divided by this
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KITTI_FOCAL_PX = 721.5377  # of most drives


def magnification(views: Views, *, reference_focal_px: float = KITTI_FOCAL_PX) -> Float[Tensor, " b"]:
    """k = f_net / f_ref: how much larger objects look than through the reference lens at zoom 1."""
    lens: Tensor = views.cameras.focal_px.to(views.images) / reference_focal_px
    return torch.as_tensor(views.letterbox.scale).to(views.images) * lens


class LensDetector(Detector):
    """A detector that predicts apparent depths: depth / k, with k = f_net / f_ref (`magnification`).

    An object of size S at depth z spans f_net S / z network pixels, with f_net = focal length x zoom. So pixels alone
    tell the apparent depth, and pictures of any focal length and zoom are supervised alike.

    config: a dataclass with `modality`, `classes`, `input_size`, `geometry` (corrected or published), `pretrained`,
    `reference_focal_px` and `input_focal_px`.
    """

    config: Any
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = replace(config, pretrained=False)  # from here on the weights are the module's own
        self.modality = config.modality
        self.published_input = config.geometry == "published"
        self.classes = tuple(config.classes)
        self.input_size = config.input_size
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    @property
    def lens_blind(self) -> bool:
        """Whether depths are predicted as if every picture were taken through the reference lens: a published quirk."""
        return self.published_input

    @property
    def reference_focal_px(self) -> float:
        """The focal length [original px] through which k = 1 at zoom 1."""
        return self.config.reference_focal_px or KITTI_FOCAL_PX

    @property
    def input_focal_px(self) -> float | None:
        """The focal length [network px] that it was trained at; None as published: there it is not used."""
        return None if self.published_input else self.config.input_focal_px

    def adapt_to(self, *, focal_px: float, input_focal_px: float) -> None:
        """Store the focal lengths of the training set in the config, unless it has them already."""
        if not self.published_input:
            self.config = replace(
                self.config,
                reference_focal_px=self.config.reference_focal_px or focal_px,
                input_focal_px=self.config.input_focal_px or input_focal_px,
            )

    def magnification(self, views: Views) -> Float[Tensor, " b"]:
        """k = f_net / f_ref: how much larger objects look than through the reference lens; 1 if `lens_blind`."""
        if self.lens_blind:
            return views.images.new_ones(views.images.shape[0])
        return magnification(views, reference_focal_px=self.reference_focal_px)

    @property
    def input_channels(self) -> int:
        """Of the first layer: 3, or 4 for pictures with depth."""
        return 4 if self.modality == "rgbd" else 3

    def normalise(self, views: Views) -> Float[Tensor, "b c h w"]:
        """The input of the first layer: RGB by ImageNet's mean and spread; apparent depth / 80 m.

        Depth alone fills all three channels; with a picture it is the fourth.
        """
        if self.modality == "rgb":
            return self._normalised_rgb(views.images)
        k = self.magnification(views)
        depth = views.images[:, -1:] / k[:, None, None, None] / FAR_M
        if self.modality == "depth":
            return depth.expand(-1, 3, -1, -1)
        return torch.cat([self._normalised_rgb(views.images[:, :3]), depth], 1)

    def _normalised_rgb(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (images - self.pixel_mean) / self.pixel_std
