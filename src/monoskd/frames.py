"""A frame, and what is detected in one, without torch: what runs an exported network needs no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.objects import Objects

Modality: TypeAlias = Literal["rgb", "depth", "rgbd"]
"""What a network looks at: pictures, depth maps, or both on top of each other."""

Pixels: TypeAlias = NDArray[np.uint8]
DepthMap: TypeAlias = NDArray[np.float32]

MEAN_COLOUR = (124, 116, 104)  # ImageNet's mean, which the detectors subtract
LEAST_SCORE = 0.2  # shown, of a network whose training has not measured a better one


@dataclass(frozen=True)
class Frame:
    """One picture and what is known about it, in its own pixels.

    image: h x w x 3 RGB; camera: its projection; depth_m: h x w, 0 where unknown; objects: its labels.
    """

    image: Pixels
    camera: Camera
    depth_m: DepthMap | None = None
    objects: Objects | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) [px]."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True)
class PublishedData:
    """Quirks of the original implementations' data pipeline, each named after what it does; none by default.

    Args:
        double_depth_scale: the teacher sees metres / 256 x relative size of the crop; the depth targets stay metres.
        per_axis_decoding: both axes are scaled by the ratio of the widths, but decoding uses each axis' own ratio.
        divide_by_z: points are projected with a division by z, as if p23 were 0; a mirrored camera has p03' = -p03.
        plain_bilinear: one bilinear sample a pixel, without a low-pass filter; unknown depth counts as 0 metres.
        truncated_cells: cells are rounded towards zero, so that a centre just left of or above the map counts as in it.
    """

    double_depth_scale: bool = False
    per_axis_decoding: bool = False
    divide_by_z: bool = False
    plain_bilinear: bool = False
    truncated_cells: bool = False

    @classmethod
    def all(cls) -> "PublishedData":
        """Every quirk: what the published numbers were trained with."""
        return cls(**{field.name: True for field in fields(cls)})


class DetectionRows:
    """What detections in tensors and in arrays have in common."""

    classes: tuple[str, ...]
    labels: Any
    scores: Any
    boxes_2d: Any
    boxes_3d: Boxes3D
    alpha: Any
    heat: Any
    depth_std_m: Any

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Self:
        """The rows that a mask, a slice or an index selects."""
        this: Any = self  # a dataclass
        columns = {field.name: getattr(self, field.name) for field in fields(this) if field.name != "classes"}
        chosen = {name: column[index] for name, column in columns.items() if column is not None}
        rows: Self = replace(this, **chosen)
        return rows

    def above(self, score: float) -> Self:
        """Those with at least this score."""
        return self[self.scores >= score]

    def within(self, width: int, height: int) -> Self:
        """Those whose 2D box shows in a picture of this size [px]."""
        left, top, right, bottom = self.boxes_2d.T
        return self[(right > 0) & (bottom > 0) & (left < width) & (top < height)]

    def to_objects(self) -> Objects:
        """The same as rows of a KITTI result file; truncation and occlusion are not estimated (-1)."""
        labels = self.labels if isinstance(self.labels, np.ndarray) else self.labels.cpu().numpy()
        return Objects(
            names=np.array(self.classes, np.str_)[labels] if len(self) else np.zeros(0, np.str_),
            truncation=np.full(len(self), -1.0),
            occlusion=np.full(len(self), -1, np.int64),
            alpha=_float64(self.alpha),
            boxes_2d=_float64(self.boxes_2d),
            dimensions=_float64(self.boxes_3d.dimensions),
            bottom=_float64(self.boxes_3d.bottom),
            yaw=_float64(self.boxes_3d.yaw),
            scores=_float64(self.scores),
        )


Rows = TypeVar("Rows", bound=DetectionRows)


def shown(detections: Sequence[Rows], sizes: Sequence[tuple[int, int]], *, published: bool) -> list[Rows]:
    """The detections in each picture without those that lie wholly beside it, where it was filled for the network.

    sizes: (width, height) of each picture. published: leave them in, as the published code does.
    """
    if published:
        return list(detections)
    return [rows.within(*size) for rows, size in zip(detections, sizes, strict=True)]


@dataclass(frozen=True)
class DetectionArrays(DetectionRows):
    """The n detections of one image, best first, as `Detections` but in numpy."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes_2d: NDArray[np.float32]
    boxes_3d: Boxes3D
    alpha: NDArray[np.float32]
    heat: NDArray[np.float32]
    depth_std_m: NDArray[np.float32] | None = None


def score_worth_showing(provenance: Any) -> float:
    """The `best_score` that training notes in a model file's provenance; 0.2 where there is none."""
    score = provenance.get("best_score") if isinstance(provenance, Mapping) else None
    return float(score) if isinstance(score, float) and 0 <= score <= 1 else LEAST_SCORE


class AnyPredictor(Protocol):
    """A trained detector, ready for pictures of any size and camera, whatever runs it: torch or onnxruntime."""

    fit: Any  # how pictures are brought to the network, see `Predictor`
    score: float  # the least that is worth showing

    @property
    def modality(self) -> Modality:
        """What it looks at."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What it finds."""

    def __call__(self, image: Pixels, camera: Camera, depth_m: DepthMap | None = None) -> DetectionRows:
        """Boxes in one picture, best first, in its own pixels and metres."""

    def batch(self, frames: Sequence[Frame]) -> Sequence[DetectionRows]:
        """As a call for each of the frames."""


def _float64(values: Any) -> NDArray[np.float64]:
    """Numbers of any precision, in an array or in a tensor on any device."""
    array = values if isinstance(values, np.ndarray) else values.detach().cpu().double().numpy()
    return np.asarray(array, np.float64)
