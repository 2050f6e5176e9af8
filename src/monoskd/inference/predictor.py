"""An image and its camera become boxes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from monoskd.data.samples import make_sample
from monoskd.errors import InputError
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models.weights import load_model
from monoskd.structures import Batch, Detections, Detector, Frame, PublishedData, Sample

Fit: TypeAlias = Literal["focal", "size"]

_MOST_PIXELS = 4  # of the network's input, in those of `input_size`
_AS_TRAINED = 1.1  # a zoom within this factor of the training's is taken for it
_ROUNDING = 1e-6  # of a network size, in its multiples


class Predictor:
    """A trained detector, ready for pictures of any size and camera.

    model: a model file or a detector; device: where it runs. fit: how a picture is brought to the network: `focal`, at
    the focal length that it was trained at, so that objects look as large as there, in an input that holds the picture;
    or `size`, as large as fits the input that it was trained on.

    >>> Predictor("model.safetensors")(image, Camera.from_hfov(90, width=1280, height=720))  # doctest: +SKIP
    """

    def __init__(self, model: str | Path | Detector, *, device: str | torch.device = "cpu", fit: Fit = "focal") -> None:
        if fit not in get_args(Fit):
            raise InputError(f"fit: expected focal or size, got {fit!r}: choose one")
        self.fit = fit
        self.device = usable_device(device)
        detector = load_model(model) if isinstance(model, str | Path) else model
        self.detector = detector.to(self.device).eval()
        self.published = PublishedData.all() if detector.published_input else PublishedData()

    def __call__(
        self, image: NDArray[np.uint8], camera: Camera, depth_m: NDArray[np.float32] | None = None
    ) -> Detections:
        """Boxes in one picture, best first, in its own pixels and metres, on the CPU.

        image: h x w x 3 RGB. camera: its projection. depth_m: h x w depth map, for a depth network (a teacher) only.
        """
        return self.batch([Frame(image=image, camera=camera, depth_m=depth_m)])[0]

    @torch.inference_mode()
    def batch(self, frames: Sequence[Frame]) -> list[Detections]:
        """As a call for each of the frames; those that the network sees at one size go through it together."""
        samples = [self.sample(frame) for frame in frames]
        detections: list[Detections | None] = [None] * len(samples)
        for size in {sample.letterbox.size for sample in samples}:
            rows = [row for row, sample in enumerate(samples) if sample.letterbox.size == size]
            batch = Batch.collate([samples[row] for row in rows]).to(self.device)
            views = batch.views(self.detector.modality)
            for row, detected in zip(rows, self.detector.decode(self.detector(views), views), strict=True):
                detections[row] = detected.to("cpu")
        return [detected for detected in detections if detected is not None]

    def sample(self, frame: Frame) -> Sample:
        """A picture as the network wants it. Raises InputError for what is no picture, camera or depth map."""
        check_image(frame.image)
        _check_camera(frame.camera)
        if self.detector.modality == "depth":
            _check_depth(frame.depth_m, size=frame.size)
        letterbox = self._letterbox(frame.camera, size=frame.size)
        return make_sample(
            "", frame, input_size=self.detector.input_size, published=self.published, letterbox=letterbox
        )

    def _letterbox(self, camera: Camera, *, size: tuple[int, int]) -> Letterbox | None:
        """Where a picture lies in the network's input; None: whole, as large as fits `input_size`."""
        focal_px = self.detector.input_focal_px
        if self.fit == "size" or focal_px is None:
            return None
        width, height = size
        input_width, input_height = self.detector.input_size
        zoom = focal_px / float(camera.focal_px)
        if abs(math.log(zoom / min(input_width / width, input_height / height))) < math.log(_AS_TRAINED):
            return None
        zoom = min(zoom, math.sqrt(_MOST_PIXELS * input_width * input_height / (width * height)))
        multiple = self.detector.input_multiple
        columns, rows = (max(math.ceil(side * zoom / multiple - _ROUNDING), 1) * multiple for side in size)
        return Letterbox.crop(centre=(width / 2, height / 2), scale=zoom, size=(columns, rows))


def usable_device(device: str | torch.device) -> torch.device:
    """The device, once a tensor has been there. Raises InputError for one that this machine does not have."""
    try:
        there = torch.zeros((), device=device)
        there.item()  # `meta` holds no numbers
        return there.device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(f"device: expected one that this machine has, such as cpu, got {device}: {reason}") from error


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
