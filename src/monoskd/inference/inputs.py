"""How a picture of any size and camera is brought to a network, and what is refused. No torch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, TypeAlias, TypeVar, get_args

import numpy as np

from monoskd.data.transforms import View, view_of
from monoskd.errors import InputError
from monoskd.frames import Frame, Modality, PublishedData, Rows, shown
from monoskd.geometry.camera import Camera, Letterbox

Fit: TypeAlias = Literal["focal", "size"]

_MOST_PIXELS = 4  # of the network's input, in those of `input_size`
_AS_TRAINED = 1.1  # a zoom within this factor of the training's is taken for it
_ROUNDING = 1e-6  # of a network size, in its multiples

T = TypeVar("T")


@dataclass(frozen=True)
class NetworkInput:
    """What a detector takes; as `Detector` says of itself. fit: how a picture is brought to it, see `Predictor`."""

    modality: Modality
    input_size: tuple[int, int]
    input_multiple: int
    input_focal_px: float | None
    published_input: bool
    fit: Fit = "focal"

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise InputError(f"fit: expected focal or size, got {self.fit!r}: choose one")

    @classmethod
    def of(cls, network: Any, *, fit: Fit = "focal") -> Self:
        """What a `Detector`, or an exported one's description, takes."""
        takes = {field.name: getattr(network, field.name) for field in fields(cls) if field.name != "fit"}
        return cls(**takes, fit=fit)

    @property
    def published(self) -> PublishedData:
        """The quirks of its input."""
        return PublishedData.all() if self.published_input else PublishedData()

    def view(self, frame: Frame) -> View:
        """A picture as the network wants it. Raises InputError for what is no picture, camera or depth map."""
        letterbox = self.letterbox(frame)
        return view_of(frame, input_size=self.input_size, published=self.published, letterbox=letterbox)

    def shown(self, detections: Sequence[Rows], frames: Sequence[Frame]) -> list[Rows]:
        """The detections in each frame that show in its picture; see `monoskd.frames.shown`."""
        return shown(detections, [frame.size for frame in frames], published=self.published_input)

    def letterbox(self, frame: Frame) -> Letterbox | None:
        """Where a picture lies in the network's input; None: whole, as large as fits `input_size`.

        Raises InputError for what is no picture, camera or depth map.
        """
        check_image(frame.image)
        _check_camera(frame.camera)
        if self.modality != "rgb":
            _check_depth(frame.depth_m, size=frame.size)
        if self.fit == "size" or self.input_focal_px is None:
            return None
        width, height = frame.size
        input_width, input_height = self.input_size
        zoom = self.input_focal_px / float(frame.camera.focal_px)
        if abs(math.log(zoom / min(input_width / width, input_height / height))) < math.log(_AS_TRAINED):
            return None
        most = _MOST_PIXELS * input_width * input_height
        zoom = min(zoom, math.sqrt(most / (width * height)), most / input_height / width, most / input_width / height)
        multiple = self.input_multiple
        seen = (math.ceil(side * zoom / multiple - _ROUNDING) * multiple for side in frame.size)
        columns, rows = map(max, seen, self.input_size)  # never less around the picture than in training
        return Letterbox.crop(centre=(width / 2, height / 2), scale=zoom, size=(columns, rows))


def by_size(views: Sequence[Any], look: Callable[[Sequence[Any]], Sequence[T]]) -> list[T]:
    """What `look` says of views (or samples) of one network size at a time, in the order of `views`."""
    seen: dict[int, T] = {}
    for size in {view.letterbox.size for view in views}:
        rows = [row for row, view in enumerate(views) if view.letterbox.size == size]
        seen |= dict(zip(rows, look([views[row] for row in rows]), strict=True))
    return [seen[row] for row in range(len(views))]


def check_image(image: Any) -> None:
    """Raise InputError for anything but RGB pixels, h x w x 3 uint8, with what to do about it."""
    shape = tuple(getattr(image, "shape", ()))
    got, advice = f"{getattr(image, 'dtype', type(image).__name__)} of shape {shape}", ""
    if not isinstance(image, np.ndarray):
        got, advice = type(image).__name__, "call `np.asarray(image)`, and `.transpose(1, 2, 0)` for a tensor C x H x W"
    elif 0 in shape:
        advice = "is there a picture?"
    elif image.ndim == 2:
        advice = "repeat the grey channel: `np.stack([image] * 3, -1)`"
    elif image.ndim != 3:
        advice = "give one picture at a time, or `Predictor.batch` frames"
    elif shape[2] != 3:
        fits = {1: "repeat the grey channel: `image.repeat(3, -1)`", 4: "leave out alpha: `image[..., :3]`"}
        advice = (
            "move the channels last: `image.transpose(1, 2, 0)`" if shape[0] == 3 else fits.get(shape[2], "use RGB")
        )
    elif image.dtype != np.uint8:
        scale = "multiply by 255, if white is 1, and" if image.dtype.kind == "f" else "scale to 0 .. 255 and"
        advice = f"{scale} call `.astype(np.uint8)`"
    if advice:
        raise InputError(f"image: expected a numpy array of RGB pixels, h x w x 3 uint8, got {got}: {advice}")


def _check_camera(camera: Any) -> None:
    shape = tuple(camera.P.shape) if isinstance(camera, Camera) else type(camera).__name__
    if shape != (3, 4):
        raise InputError(
            f"camera: expected the `Camera` of one picture, with P of shape (3, 4), got {shape}: "
            "`Camera.from_focal(focal_px, width=w, height=h)` makes one"
        )
    P = np.asarray(camera.P, np.float64)
    if not (np.isfinite(P).all() and P[0, 0] > 0 and P[1, 1] > 0):
        raise InputError(f"camera: expected finite numbers and focal lengths above 0 px, got {P.tolist()}: correct it")


def _check_depth(depth_m: Any, *, size: tuple[int, int]) -> None:
    if depth_m is None:
        raise InputError(
            "model: a depth network needs a depth map beside each picture; train an rgb student to do without"
        )
    shape = getattr(depth_m, "shape", None)
    if not isinstance(depth_m, np.ndarray) or depth_m.dtype.kind != "f" or shape != size[::-1]:
        got = f"{getattr(depth_m, 'dtype', type(depth_m).__name__)} of shape {shape}"
        raise InputError(
            f"depth_m: expected {size[1]} x {size[0]} floats, in metres, got {got}: give the picture's own"
        )
