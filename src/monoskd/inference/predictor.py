"""An image and its camera become boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from monoskd.data.samples import make_sample
from monoskd.errors import InputError, first_line
from monoskd.frames import Frame, Modality, score_worth_showing
from monoskd.geometry.camera import Camera
from monoskd.inference.inputs import Fit as Fit
from monoskd.inference.inputs import NetworkInput, by_size
from monoskd.models.weights import describe_model, load_model
from monoskd.precision import half_type
from monoskd.structures import Batch, Detections, Detector, Sample


class Predictor:
    """A trained detector, ready for pictures of any size and camera.

    model: a model file or a detector; device: where it runs. fit: how a picture is brought to the network: `focal`, at
    the focal length that it was trained at, so that objects look as large as there, in an input that holds the picture;
    or `size`, as large as fits the input that it was trained on. half: layers compute in 16 bits, and what is read off
    them in float32; InputError where that is no faster. Its `score` is the least that is worth showing: the one of
    highest F1 in the last validation, 0.2 if there was none.

    >>> Predictor("model.safetensors")(image, Camera.from_hfov(90, width=1280, height=720))  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | Detector,
        *,
        device: str | torch.device = "cpu",
        fit: Fit = "focal",
        half: bool = False,
    ) -> None:
        self.fit = fit
        self.device = usable_device(device)
        self.half = half_type(self.device.type) if half else None
        if isinstance(model, str | Path):
            detector, provenance = load_model(model), describe_model(model).get("provenance")
            if half or self.device.type == "cpu":
                detector.to(memory_format=torch.channels_last)  # faster, above all in half precision: docs/cost.md
        else:
            detector, provenance = model, None
        self.score = score_worth_showing(provenance)
        self.detector = detector.to(self.device).eval()
        self.input = NetworkInput.of(detector, fit=fit)

    @property
    def modality(self) -> Modality:
        """What it looks at."""
        return self.detector.modality

    @property
    def classes(self) -> tuple[str, ...]:
        """What it finds."""
        return self.detector.classes

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
        return self.input.shown(by_size([self.sample(frame) for frame in frames], self._look), frames)

    def sample(self, frame: Frame) -> Sample:
        """A picture as the network wants it. Raises InputError for what is no picture, camera or depth map."""
        size, letterbox = self.input.input_size, self.input.letterbox(frame)
        return make_sample("", frame, input_size=size, published=self.input.published, letterbox=letterbox)

    def _look(self, samples: Sequence[Sample]) -> list[Detections]:
        """What the network says of samples of one size."""
        views = Batch.collate(samples).to(self.device).views(self.modality)
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            output = self.detector(views)
        return [detections.to("cpu") for detections in self.detector.decode(output, views)]


def usable_device(device: str | torch.device) -> torch.device:
    """The device, once a tensor has been there. Raises InputError for one that this machine does not have."""
    try:
        there = torch.zeros((), device=device)
        there.item()  # `meta` holds no numbers
        return there.device
    except (RuntimeError, AssertionError, ImportError) as error:  # torch built without CUDA asserts
        raise InputError(
            f"device: expected one that this machine has, such as cpu, got {device}: {first_line(error):.200}"
        ) from error
