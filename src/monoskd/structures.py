"""The types that packages share: frames, samples, batches, views, the detector's interface and its output.

Letters in shapes: b images of a batch, n objects of the whole batch laid flat, h x w network pixels, u x v cells of a
detector's map. A position in cells is network pixels / stride, counted from 0 at the upper left.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from monoskd.frames import DepthMap as DepthMap
from monoskd.frames import DetectionRows
from monoskd.frames import Frame as Frame
from monoskd.frames import Modality as Modality
from monoskd.frames import Pixels as Pixels
from monoskd.frames import PublishedData as PublishedData
from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.objects import MIN_HEIGHT_PX, Objects


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with every tensor changed, through dataclasses and dicts; other values stay."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type | Objects):
        return replace(value, **{field.name: _mapped(getattr(value, field.name), change) for field in fields(value)})
    return value


def renumbered(image: Int64[Tensor, " n"], chosen: Bool[Tensor, " b"]) -> Int64[Tensor, " n"]:
    """The numbers of chosen images, counted among the chosen ones alone."""
    return (chosen.cumsum(0) - 1)[image]


class _Movable:
    """A dataclass of tensors that moves to a device as one."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `Tensor.to`, for every tensor inside."""
        moved: Self = _mapped(self, lambda tensor: tensor.to(*args, **kwargs))
        return moved

    def double(self) -> Self:
        """In float64, but for whole numbers and masks."""
        doubled: Self = _mapped(self, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        return doubled


class FrameSource(ABC):
    """A recording, frame by frame: KITTI's files, or a class of your own (docs/extend.md).

    Training makes one for each split. depth, labels: whether depth maps and labels are needed; a source may skip those
    that are not. names: of the frames, any file stems.
    """

    names: Sequence[str]

    @abstractmethod
    def __init__(self, root: Path, *, split: str, depth: bool, labels: bool) -> None:
        """Open one split of the recording in a folder."""

    @abstractmethod
    def read(self, name: str) -> Frame:
        """The frame of this name."""

    def objects(self, name: str) -> Objects | None:
        """The labels of a frame; a source that can read them without the picture overrides this."""
        return self.read(name).objects

    def held_back(self, name: str) -> Objects | None:
        """Labels of a frame that training treats as unlabelled: to measure pseudo-labels, never to train on."""
        return None

    def check_apart(self, validation: "FrameSource") -> None:  # noqa: B027 - names differ, most sources know no more
        """Raise InputError where a frame is a validation frame under another name."""

    def check_unlabelled(self, *, mapping: Path | None) -> None:  # noqa: B027 - most sources have nothing to check
        """Raise InputError where a frame without labels shows a validation frame; see `UnlabelledConfig`."""


@dataclass(frozen=True)
class Views(_Movable):
    """A network's input: b pictures, their cameras, and where each picture lies in the network's pixels.

    images: RGB in [0, 1] (k = 3), depth [m] (k = 1) or both (k = 4), warped by `letterbox`. cameras: project to
    *original* pixels.
    """

    images: Float[Tensor, "b k h w"]
    cameras: Camera  # P b x 3 x 4
    letterbox: Letterbox

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class Targets(_Movable):
    """What a detector should output for the n objects of a batch. Each detector adds its own fields.

    A field has a row for each object, unless `BY_IMAGE` names it: then it has one for each image. On frames without
    labels the objects are pseudo-labels: a teacher's detections.
    """

    BY_IMAGE: ClassVar[tuple[str, ...]] = ("labelled",)

    image: Int64[Tensor, " n"]  # the image of each object
    labelled: Bool[Tensor, " b"]  # whether an image has labels; False: pseudo-labels

    def of(self, images: Bool[Tensor, " b"]) -> Self:
        """The targets of the chosen images, which are numbered anew."""
        rows = images[self.image]
        names = [field.name for field in fields(self)]
        chosen = {name: getattr(self, name)[images if name in self.BY_IMAGE else rows] for name in names}
        return type(self)(**{**chosen, "image": renumbered(chosen["image"], images)})

    @classmethod
    def collate(cls, targets: Sequence[Self]) -> Self:
        """Targets of single images, one after another, as those of a batch."""
        columns = {field.name: torch.cat([getattr(part, field.name) for part in targets]) for field in fields(cls)}
        counts = torch.tensor([len(part.image) for part in targets])
        columns["image"] = torch.repeat_interleave(torch.arange(len(targets)), counts)
        return cls(**columns)


class TargetMaker(Protocol):
    """The objects of one sample -> the detector's targets (image number 0). Loader processes pickle it."""

    def __call__(
        self, objects: Objects, *, camera: Camera, letterbox: Letterbox, depth_m: DepthMap | None, soft: bool
    ) -> Targets:
        """objects, camera: in original pixels. depth_m: in network pixels, 0 where unknown. soft: pseudo-labels."""
        ...


@dataclass(frozen=True)
class Sample(_Movable):
    """One frame, ready for a network.

    image: RGB, 0 to 255, warped to the network's size. depth: metres, warped by the same letterbox, 0 where unknown
    (the teacher's input). camera: projects to *original* (unwarped, but flipped if the image was) pixels. letterbox:
    original to network pixels. picture_size: (width, height) of the picture [original px]. objects: the labels, moved
    through the augmentation.
    """

    frame: str
    image: UInt8[Tensor, "3 h w"]
    camera: Camera  # P 3 x 4
    letterbox: Letterbox
    picture_size: tuple[int, int]
    depth: Float[Tensor, "1 h w"] | None = None
    targets: Targets | None = None
    objects: Objects | None = None


@dataclass(frozen=True)
class Batch(_Movable):
    """b samples; fields as in `Sample`. depth and targets: None unless every sample has them.

    all_labelled: `targets.labelled.all()`, known without a question to the device.
    """

    frames: list[str]
    image: UInt8[Tensor, "b 3 h w"]
    cameras: Camera  # P b x 3 x 4
    letterbox: Letterbox
    picture_sizes: list[tuple[int, int]]
    depth: Float[Tensor, "b 1 h w"] | None
    targets: Targets | None
    objects: list[Objects | None]
    all_labelled: bool

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `Tensor.to`, for every tensor inside; from pinned memory while the host goes on."""
        return super().to(*args, **{"non_blocking": self.image.is_pinned(), **kwargs})

    def pin_memory(self) -> Self:
        """In pinned memory, for loaders."""
        pinned: Self = _mapped(self, Tensor.pin_memory)
        return pinned

    def views(self, modality: Modality) -> Views:
        """The input of a network of this modality. Raises ValueError where the batch has no depth maps."""
        images = []
        if modality != "depth":
            images.append(self.image.to(self.cameras.P.dtype).div_(255))
        if modality != "rgb":
            if self.depth is None:
                raise ValueError(f"a {modality} network needs depth maps, this batch has none: run `monoskd prepare`")
            images.append(self.depth)
        return Views(images[0] if len(images) == 1 else torch.cat(images, 1), self.cameras, self.letterbox)

    @classmethod
    def collate(cls, samples: Sequence[Sample]) -> "Batch":
        """Stack samples of one network size."""
        letterboxes = [sample.letterbox for sample in samples]
        depths = [sample.depth for sample in samples if sample.depth is not None]
        targets = [sample.targets for sample in samples if sample.targets is not None]
        names = [field.name for field in fields(letterboxes[0]) if field.name != "size"]
        stacked: dict[str, Any] = {name: torch.stack([getattr(box, name) for box in letterboxes]) for name in names}
        return cls(
            frames=[sample.frame for sample in samples],
            image=torch.stack([sample.image for sample in samples]),
            cameras=Camera(torch.stack([torch.as_tensor(sample.camera.P) for sample in samples])),
            letterbox=replace(letterboxes[0], **stacked),
            picture_sizes=[sample.picture_size for sample in samples],
            depth=torch.stack(depths) if len(depths) == len(samples) else None,
            targets=type(targets[0]).collate(targets) if targets and len(targets) == len(samples) else None,
            objects=[sample.objects for sample in samples],
            all_labelled=all(bool(part.labelled.all()) for part in targets),
        )


@dataclass(frozen=True)
class DetectorOutput(_Movable):
    """The output of one forward pass; detectors that have more (regions, queries) add fields.

    features: named maps (backbone and neck); heads: named tensors, b x ... in this class.
    """

    features: dict[str, Tensor]
    heads: dict[str, Tensor]

    def of(self, images: Bool[Tensor, " b"]) -> Self:
        """The output for the chosen images, which are numbered anew; without the features."""
        return replace(self, features={}, heads={name: head[images] for name, head in self.heads.items()})


@dataclass(frozen=True)
class Detections(DetectionRows, _Movable):
    """The n detections of one image, best first (or of a batch, see `by_image`).

    classes: the names that `labels` index; scores: heat times the confidence in the depth; boxes_2d: (left, top, right,
    bottom) in original pixels; alpha [rad]; heat: the confidence that an object of the class is there, whatever its
    exact position; depth_std_m: standard deviation of the depth, where a detector estimates it.
    """

    classes: tuple[str, ...]
    labels: Int64[Tensor, " n"]
    scores: Float[Tensor, " n"]
    boxes_2d: Float[Tensor, "n 4"]
    boxes_3d: Boxes3D
    alpha: Float[Tensor, " n"]
    heat: Float[Tensor, " n"]
    depth_std_m: Float[Tensor, " n"] | None = None

    @property
    def is_real(self) -> Bool[Tensor, " n"]:
        """Which boxes have no negative dimension."""
        real: Tensor = (self.boxes_3d.dimensions >= 0).all(1)
        return real

    def marked(self, real: Bool[Tensor, " n"]) -> "Detections":
        """The same rows; a score of -1 marks those that are none."""
        return replace(self, scores=torch.where(real, self.scores, -1))

    def by_image(self, image: Int64[Tensor, " n"], *, images: int, any_size: bool = False) -> list["Detections"]:
        """Detections of a whole batch, n in all, as those of each image, best first. image: the image of each.

        Boxes with a negative dimension are dropped, unless `any_size`.
        """
        image = image if any_size else torch.where(self.is_real, image, -1)
        order = self.scores.argsort(descending=True, stable=True)
        return [self[order[image[order] == number]] for number in range(images)]


class Detector(nn.Module, ABC):
    """The interface of a monocular 3D detector, as training, distillation, measurement and prediction use it.

    modality: its input, pictures (`rgb`), depth maps (`depth`) or both (`rgbd`, four channels). classes: in the order
    of its labels.
    input_size: (width, height) [px] of its input; input_multiple: both are multiples of it.
    published_input: whether its input is made as for the published networks (`PublishedData`).
    depth_targets: whether its targets are made of depth maps, also those of a network on pictures.
    task_graph: for hierarchical task learning, for each task of `loss` the tasks that must converge before it
    counts in full; in the order of the published implementation. Empty: every task weighs 1.

    A model file holds any detector whose constructor takes one argument, `config`, a dataclass of plain values, and
    keeps it under that name.
    """

    modality: Modality
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    input_multiple: int = 1
    published_input: bool = False
    depth_targets: bool = False
    task_graph: Mapping[str, tuple[str, ...]] = {}

    @property
    def input_focal_px(self) -> float | None:
        """The focal length [network px] of the pictures it was trained on, to which prediction brings others.

        None: unknown; then a picture is only resized to fit `input_size`.
        """
        return None

    def adapt_to(self, *, focal_px: float, input_focal_px: float) -> None:
        """Store the focal lengths of a training set, before training, in original and in network pixels."""

    @abstractmethod
    def forward(self, views: Views, at: Any = None) -> Any:
        """A `DetectorOutput`. at: the batch's targets in training, if the heads run at known objects."""

    @abstractmethod
    def loss(self, output: Any, targets: Any) -> dict[str, Tensor]:
        """Named scalar task losses of an output and the targets of the same images."""

    @abstractmethod
    def decode(self, output: Any, views: Views) -> list[Detections]:
        """The detections of each image, in original pixels and metres. output: of a forward pass without `at`."""

    def candidates(self, output: Any, views: Views) -> Detections:
        """Equally many detections for each image, laid flat, image after image: `decode` without its choice.

        A score of -1 marks those that `decode` leaves out. `monoskd export` needs it, nothing else does.
        """
        raise NotImplementedError

    @abstractmethod
    def target_maker(
        self, *, min_height_px: float = MIN_HEIGHT_PX, published: PublishedData | None = None
    ) -> TargetMaker:
        """Makes this detector's targets. min_height_px: least 2D height of a supervised object [original px]."""

    def metrics(self, output: Any, targets: Any, views: Views) -> dict[str, Tensor]:
        """Errors at the labelled objects by name, n each, such as `depth_error_m`; output: of a pass without `at`."""
        return {}
