"""Heads of the detector: dense ones on the whole map, regional ones on a 7 x 7 patch under each object's 2D box.

Positions and sizes in cells of the head map unless a unit is named; regions are laid flat over the batch (n).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import roi_align

from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BINS
from monoskd.models.did_m3d.structures import HEAD_STRIDE, ROI_CELLS, Rois
from monoskd.models.heads import PreciseConv2d, PreciseMap, full_precision
from monoskd.models.heatmap import HEAT_PRIOR_LOGIT, heads_at_cells
from monoskd.structures import Views


class DenseHeads(nn.Module):
    """Heat map (logits), offset and size of the 2D box, at every cell: conv3x3, ReLU, conv1x1 each.

    A cell's 2D box is cell + offset -/+ size / 2.
    """

    def __init__(self, *, inputs: int, hidden: int, classes: int, initial_size_cells: tuple[float, float]) -> None:
        super().__init__()
        self.heatmap = _dense_head(inputs, hidden, [HEAT_PRIOR_LOGIT] * classes)
        self.offset_2d = _dense_head(inputs, hidden, [0.0, 0.0])
        self.size_2d = _dense_head(inputs, hidden, list(initial_size_cells))

    def forward(self, shared: Float[Tensor, "b k v u"]) -> dict[str, Tensor]:
        """`heatmap` b x c x v x u, `offset_2d` and `size_2d` b x 2 x v x u."""
        return {name: full_precision(head(shared)) for name, head in self.named_children()}

    def heat(self, shared: Float[Tensor, "b k v u"]) -> Float[Tensor, "b c v u"]:
        """`heatmap` alone."""
        return full_precision(self.heatmap(shared))

    def boxes(self, shared: Float[Tensor, "b k v u"], rois: Rois) -> Float[Tensor, "n 4"]:
        """2D boxes [cells] at the regions' cells, where alone the heads are evaluated."""
        said = heads_at_cells({"offset_2d": self.offset_2d, "size_2d": self.size_2d}, shared, rois)
        return boxes_at(**{name: full_precision(value) for name, value in said.items()}, rois=rois)


class RegionalHeads(nn.Module):
    """Predictions from the patch under a 2D box: 3D centre, size, heading, depth and its uncertainty.

    The input of each head: the features of the patch (RoIAlign), the camera rays of its points, and the class.
    """

    def __init__(self, *, inputs: int, hidden: int, classes: int, initial_depth_m: float) -> None:
        super().__init__()
        self.classes = classes
        joined = inputs + 2 + classes
        self.offset_3d = _pooled_head(joined, hidden, 2)
        self.size_3d = _pooled_head(joined, hidden, 3)
        self.heading = _pooled_head(joined, hidden, 2 * BINS)
        self.visual_depth = _pointwise_head(joined, hidden, bias=-math.log(initial_depth_m))
        self.attribute_depth = _pointwise_head(joined, hidden)
        self.visual_log_variance = _pointwise_head(joined, hidden)
        self.attribute_log_variance = _pointwise_head(joined, hidden)

    def forward(
        self,
        shared: Float[Tensor, "b k v u"],
        *,
        rois: Rois,
        boxes: Float[Tensor, "n 4"],
        views: Views,
        magnification: Float[Tensor, " b"] | None,
    ) -> dict[str, Tensor]:
        """`offset_3d` n x 2, `size_3d` n x 3, `heading` n x 24; depths [m] and their log-variances n x 7 x 7.

        visual depth = exp(-raw) k, with k = the image's `magnification`: how much larger objects look than through the
        reference lens, which the features do not contain. None: k = height in network pixels / height in original
        pixels of each box, as published, which is right for one lens only. Instance depth = visual + attribute depth;
        its log-variance is the logsumexp of theirs.
        """
        corners_px = views.letterbox[rois.image].invert(boxes.reshape(-1, 2, 2) * HEAD_STRIDE).to(boxes)
        rays = ray_maps(corners_px, Camera(views.cameras.P[rois.image].to(boxes)))
        one_hot = nn.functional.one_hot(rois.label, self.classes)[:, :, None, None].expand(-1, -1, ROI_CELLS, ROI_CELLS)
        patches = roi_align(shared, torch.cat([rois.image[:, None].to(boxes), boxes], 1), ROI_CELLS)
        joined = torch.cat([patches, rays.to(patches), one_hot.to(patches)], 1)

        heads = {name: head(joined) for name, head in self.named_children()}
        k = _zoom(boxes=boxes, corners_px=corners_px) if magnification is None else magnification[rois.image]
        heads["visual_depth"] = torch.exp(-heads["visual_depth"]) * k[:, None, None]
        heads["depth"] = heads["visual_depth"] + heads["attribute_depth"]
        heads["depth_log_variance"] = torch.logaddexp(heads["visual_log_variance"], heads["attribute_log_variance"])
        return heads


def ray_maps(corners_px: Float[Tensor, "n 2 2"], cameras: Camera) -> Float[Tensor, "n 2 7 7"]:
    """Where the points of each patch lie in the world if they are 1 m away: maps of x and y [m].

    corners_px: the box's upper left and lower right corner in original pixels. The corners are back-projected at
    z = 1 and interpolated linearly in between, corner to corner.
    """
    cameras = Camera(cameras.P[:, None])
    corners = cameras.back_project(corners_px, torch.ones_like(corners_px[..., 0]))[..., :2]
    first, last = corners.unbind(1)
    steps = torch.linspace(0, 1, ROI_CELLS, device=corners.device, dtype=corners.dtype)
    x, y = (first[..., None] + steps * (last - first)[..., None]).unbind(1)
    return torch.stack([x[:, None, :].expand(-1, ROI_CELLS, -1), y[:, :, None].expand(-1, -1, ROI_CELLS)], 1)


def boxes_at(offset_2d: Float[Tensor, "n 2"], size_2d: Float[Tensor, "n 2"], rois: Rois) -> Float[Tensor, "n 4"]:
    """2D boxes (left, top, right, bottom) of the regions' cells: cell + offset -/+ size / 2."""
    centre = rois.cell + offset_2d
    return torch.cat([centre - size_2d / 2, centre + size_2d / 2], 1)


def _zoom(*, boxes: Tensor, corners_px: Tensor) -> Tensor:
    """Height of each box in network pixels over its height in original pixels, neither below one pixel."""
    network_px = HEAD_STRIDE * (boxes[:, 3] - boxes[:, 1])
    original_px = corners_px[:, 1, 1] - corners_px[:, 0, 1]
    return network_px.clamp(min=1) / original_px.clamp(min=1)


def _dense_head(inputs: int, hidden: int, bias: list[float]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(inplace=True), _output(PreciseMap, hidden, bias)
    )


def _pooled_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One vector for the patch."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        _output(PreciseConv2d, hidden, [0.0] * outputs),
        nn.Flatten(1),
    )


def _pointwise_head(inputs: int, hidden: int, *, bias: float = 0.0) -> nn.Sequential:
    """One number for each of the patch's points."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1),
        nn.LeakyReLU(inplace=True),
        _output(PreciseConv2d, hidden, [bias]),
        nn.Flatten(0, 1),
    )


def _output(kind: type[nn.Conv2d], hidden: int, bias: list[float]) -> nn.Conv2d:
    """A last layer whose initial output is close to `bias` everywhere."""
    layer = kind(hidden, len(bias), 1)
    nn.init.normal_(layer.weight, std=0.001)
    layer.bias = nn.Parameter(torch.tensor(bias))
    return layer
