"""The nouns that data, detectors, distillation and inference share.

Letters in shapes: b images of a batch, n objects (or regions) of the whole batch laid flat, c classes, h x w network
pixels, u x v = (h / stride) x (w / stride) cells of the map that the heads read. Cells are counted from 0 at the upper
left; a position in cells is network pixels / stride.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.objects import Objects

Modality: TypeAlias = Literal["rgb", "depth"]

HEAD_STRIDE = 4  # network pixels a cell
ROI_CELLS = 7  # cells along either side of a region

# KITTI's mean (height, width, length) [m] of each class, as the published networks use them.
KITTI_MEAN_SIZES: dict[str, tuple[float, float, float]] = {
    "Pedestrian": (1.76255119, 0.66068622, 0.84422524),
    "Car": (1.52563191462, 1.62856739989, 3.88311640418),
    "Cyclist": (1.73698127, 0.59706367, 1.76282397),
}


def _moved(value: Any, *args: Any, **kwargs: Any) -> Any:
    """`value.to(...)` through dataclasses, letterboxes and dicts; what is no tensor stays."""
    if isinstance(value, Tensor):
        return value.to(*args, **kwargs)
    if isinstance(value, dict):
        return {key: _moved(item, *args, **kwargs) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type | Objects):
        return replace(
            value, **{field.name: _moved(getattr(value, field.name), *args, **kwargs) for field in fields(value)}
        )
    return value


def _counted_anew(image: Int64[Tensor, " n"], chosen: Bool[Tensor, " b"]) -> Int64[Tensor, " n"]:
    """Numbers of chosen images as numbers among the chosen."""
    return (chosen.cumsum(0) - 1)[image]


class _Movable:
    """A dataclass of tensors that goes to a device as one."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `Tensor.to`, for every tensor inside."""
        moved: Self = _moved(self, *args, **kwargs)
        return moved


@dataclass(frozen=True)
class Rois(_Movable):
    """Where the RoI heads look: one cell of the head map for each of n objects."""

    image: Int64[Tensor, " n"]
    cell: Int64[Tensor, "n 2"]  # (column, row)
    label: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Targets(_Movable):
    """What the n supervised objects of a batch should make the network say. See METHOD in docs/method.md.

    Positions and sizes in cells unless a unit is named. A region's 7 x 7 grid lies over the object's 2D box. On frames
    without labels the objects are a teacher's detections: soft targets, each as high and as heavy as its score.
    """

    heatmap: Float[Tensor, "b c v u"]
    image: Int64[Tensor, " n"]
    cell: Int64[Tensor, "n 2"]  # (column, row) of the projected 3D centre, truncated
    label: Int64[Tensor, " n"]
    box_2d: Float[Tensor, "n 4"]  # left, top, right, bottom; as labelled, not clipped to the crop
    offset_2d: Float[Tensor, "n 2"]  # centre of the 2D box minus cell
    size_2d: Float[Tensor, "n 2"]  # (width, height) of the 2D box
    offset_3d: Float[Tensor, "n 2"]  # projected 3D centre minus cell
    size_3d: Float[Tensor, "n 3"]  # (h, w, l) minus the class mean [m]
    heading_bin: Int64[Tensor, " n"]
    heading_residual: Float[Tensor, " n"]  # [rad]
    depth: Float[Tensor, " n"]  # z of the 3D centre [m]
    visual_depth: Float[Tensor, "n 7 7"]  # [m]
    attribute_depth: Float[Tensor, "n 7 7"]  # depth minus visual depth [m]
    depth_mask: Bool[Tensor, "n 7 7"]  # where a visual depth exists
    unsupervised: Int64[Tensor, " b"]  # objects listed in the label but not supervised; only `published` counts them
    weight: Float[Tensor, " n"]  # 1 for a label, the teacher's score for its detection
    labelled: Bool[Tensor, " b"]  # whether the objects of an image are labels

    @property
    def rois(self) -> Rois:
        """The training regions: the true peak cells."""
        return Rois(self.image, self.cell, self.label)

    def of(self, images: Bool[Tensor, " b"]) -> "Targets":
        """Those of the chosen images alone, which are counted anew."""
        rows = images[self.image]
        by_image = ("heatmap", "unsupervised", "labelled")
        names = [field.name for field in fields(self)]
        chosen = {name: getattr(self, name)[images if name in by_image else rows] for name in names}
        chosen["image"] = _counted_anew(chosen["image"], images)
        return Targets(**chosen)

    @classmethod
    def collate(cls, targets: Sequence["Targets"]) -> "Targets":
        """Single-image targets (image index 0) as those of a batch."""
        columns = {field.name: torch.cat([getattr(one, field.name) for one in targets]) for field in fields(cls)}
        counts = torch.tensor([len(one.label) for one in targets])
        columns["image"] = torch.repeat_interleave(torch.arange(len(targets)), counts)
        return cls(**columns)


@dataclass(frozen=True)
class Sample(_Movable):
    """One frame, ready for a network.

    image: RGB in [0, 1], warped to the network's size. depth: metres, warped alike, 0 where unknown (what the teacher
    sees). camera: projects to *original* (unwarped, but flipped if the image was) pixels. letterbox: original to
    network pixels. size: (width, height) of the original image. objects: the labels, moved through the augmentation.
    """

    frame: str
    image: Float[Tensor, "3 h w"]
    camera: Camera  # P 3 x 4
    letterbox: Letterbox
    size: tuple[int, int]
    depth: Float[Tensor, "1 h w"] | None = None
    targets: Targets | None = None
    objects: Objects | None = None


@dataclass(frozen=True)
class Batch(_Movable):
    """b samples side by side; fields as in `Sample`. depth and targets are there if every sample has them."""

    frames: list[str]
    image: Float[Tensor, "b 3 h w"]
    cameras: Camera  # P b x 3 x 4
    letterbox: Letterbox
    sizes: list[tuple[int, int]]
    depth: Float[Tensor, "b 1 h w"] | None
    targets: Targets | None
    objects: list[Objects | None]

    def input(self, modality: Modality) -> Tensor:
        """What a network of this modality looks at. Raises ValueError where the batch has no depth maps."""
        if modality == "rgb":
            return self.image
        if self.depth is None:
            raise ValueError("a depth network needs depth maps, and this batch has none: run `monoskd prepare`")
        return self.depth

    @classmethod
    def collate(cls, samples: Sequence[Sample]) -> "Batch":
        """Stack samples of one network size."""
        letterboxes = [sample.letterbox for sample in samples]
        depths = [sample.depth for sample in samples if sample.depth is not None]
        targets = [sample.targets for sample in samples if sample.targets is not None]
        places = [field.name for field in fields(letterboxes[0]) if field.name != "size"]
        stacked: dict[str, Any] = {name: torch.stack([getattr(box, name) for box in letterboxes]) for name in places}
        return cls(
            frames=[sample.frame for sample in samples],
            image=torch.stack([sample.image for sample in samples]),
            cameras=Camera(torch.stack([torch.as_tensor(sample.camera.P) for sample in samples])),
            letterbox=replace(letterboxes[0], **stacked),
            sizes=[sample.size for sample in samples],
            depth=torch.stack(depths) if len(depths) == len(samples) else None,
            targets=Targets.collate(targets) if len(targets) == len(samples) else None,
            objects=[sample.objects for sample in samples],
        )


@dataclass(frozen=True)
class DetectorOutput(_Movable):
    """What one forward pass says.

    features: named maps (backbone and neck); heads: named logits, dense ones b x k x v x u, regional ones n x ...;
    rois: the cells that the regional heads looked at, n of them; boxes: their 2D boxes (left, top, right, bottom)
    in cells, n x 4; scores: the heat there, n.
    """

    features: dict[str, Tensor]
    heads: dict[str, Tensor]
    rois: Rois
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]

    def of(self, images: Bool[Tensor, " b"]) -> "DetectorOutput":
        """What was said of the chosen images alone, which are counted anew; without the features."""
        rows = images[self.rois.image]
        heads = {name: head[images if head.ndim == 4 else rows] for name, head in self.heads.items()}
        image = _counted_anew(self.rois.image[rows], images)
        rois = Rois(image, self.rois.cell[rows], self.rois.label[rows])
        return DetectorOutput({}, heads, rois, self.boxes[rows], self.scores[rows])


@dataclass(frozen=True)
class Detections(_Movable):
    """The n detections of one image, best first.

    classes: the names that `labels` index; scores: heat times the confidence in the depth; boxes_2d: (left, top, right,
    bottom) in original pixels; alpha [rad]; heat: the certainty that an object of the class is there, wherever exactly.
    """

    classes: tuple[str, ...]
    labels: Int64[Tensor, " n"]
    scores: Float[Tensor, " n"]
    boxes_2d: Float[Tensor, "n 4"]
    boxes_3d: Boxes3D
    alpha: Float[Tensor, " n"]
    heat: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Detections":
        """The rows that a mask, a slice or an index tensor selects."""
        names = [field.name for field in fields(self) if field.name != "classes"]
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def above(self, score: float) -> "Detections":
        """Those with at least this score."""
        return self[self.scores >= score]

    def to_objects(self) -> Objects:
        """The same as rows of a KITTI result file; truncation and occlusion are not estimated (-1)."""

        def array(tensor: Tensor) -> NDArray[np.float64]:
            return tensor.detach().cpu().double().numpy()

        names = np.array(self.classes, np.str_)[self.labels.cpu().numpy()] if len(self) else np.zeros(0, np.str_)
        return Objects(
            names=names,
            truncation=np.full(len(self), -1.0),
            occlusion=np.full(len(self), -1, np.int64),
            alpha=array(self.alpha),
            boxes_2d=array(self.boxes_2d),
            dimensions=array(self.boxes_3d.dimensions),
            bottom=array(self.boxes_3d.bottom),
            yaw=array(self.boxes_3d.yaw),
            scores=array(self.scores),
        )


@runtime_checkable
class Detector(Protocol):
    """A monocular 3D detector: what training, distillation and prediction need of one."""

    modality: Modality
    classes: tuple[str, ...]
    input_size: tuple[int, int]  # (width, height) [px]

    def forward(
        self, images: Tensor, cameras: Camera, letterbox: Letterbox, rois: Rois | None = None
    ) -> DetectorOutput:
        """Look at images (RGB in [0, 1], or depth in metres); at `rois` if given, else at the best of the heat map."""
        ...

    def loss(self, output: DetectorOutput, targets: Targets) -> dict[str, Tensor]:
        """Named scalar task losses."""
        ...

    def decode(self, output: DetectorOutput, cameras: Camera, letterbox: Letterbox) -> list[Detections]:
        """Detections of each image, in original pixels and metres."""
        ...
