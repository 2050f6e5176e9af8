"""One request becomes one answer: the bytes of a picture and its camera become the document of `predict`.

This runs in a worker process: nothing of a picture is decoded in the server itself.
"""

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from monoskd.errors import InputError
from monoskd.geometry.camera import Camera
from monoskd.images import decode_pixels
from monoskd.inference.cameras import CameraSource, check_size
from monoskd.inference.lens import Lens, level_rotation
from monoskd.inference.open_model import open_predictor
from monoskd.inference.outputs import SCHEMA
from monoskd.inference.pictures import Picture, focal_35mm
from monoskd.inference.predict import check_pictures_suffice, predict_pictures
from monoskd.serve.limits import Limits
from monoskd.serve.question import Model, Question

FORMATS = ("JPEG", "PNG", "WEBP")  # other decoders of Pillow are not for bytes of strangers
_NO_CAMERA = "camera: expected one, got none, also not from the picture's EXIF: give focal_px, hfov_deg or projection"


class Answerer:
    """A loaded model that answers questions. Raises InputError where it cannot be loaded or needs depth maps."""

    def __init__(self, model: Model, limits: Limits) -> None:
        Image.MAX_IMAGE_PIXELS = limits.pixels // 2  # Pillow refuses twice as many
        self.limits = limits
        self.predictor = open_predictor(model.path, device=model.device, fit=model.fit, half=model.half)
        check_pictures_suffice(self.predictor)
        self.classes, self.score = tuple(self.predictor.classes), self.predictor.score

    def __call__(self, question: Question) -> dict[str, Any]:
        """The document, `monoskd/detections/1`, of one picture. Raises InputError for a bad picture or camera."""
        picture = self._picture(question)
        pair = (picture, lens(question, picture))
        score = self.score if question.score is None else question.score
        (prediction,) = predict_pictures(self.predictor, [pair], score=score)
        return {"schema": SCHEMA, "images": [prediction.as_json()]}

    def _picture(self, question: Question) -> Picture:
        image = decode_pixels(question.data, mode="RGB", where="picture", formats=FORMATS)
        if min(image.shape[:2]) < self.limits.least_side_px:
            raise InputError(
                f"picture: expected at least {self.limits.least_side_px} pixels each way, got {image.shape[1]} x "
                f"{image.shape[0]}: send a larger one"
            )
        return Picture(question.name, image, focal_35mm(BytesIO(question.data), formats=FORMATS))


def lens(question: Question, picture: Picture) -> Lens:
    """The camera that the question names, or the EXIF of its picture, or what is assumed without either."""
    height, width = picture.image.shape[:2]
    rotation = level_rotation(pitch_deg=question.pitch_deg, roll_deg=question.roll_deg)
    if question.projection is not None:
        camera = Camera(np.array(question.projection, np.float64).reshape(3, 4))
        check_size(camera, width=width, height=height, where="projection")
        return Lens(camera, width, height, "projection", rotation=rotation)
    if question.focal_px is not None:
        source, words = CameraSource(focal_px=question.focal_px), "focal_px"
    elif question.hfov_deg is not None:
        source, words = CameraSource(hfov_deg=question.hfov_deg), "hfov_deg"
    elif picture.focal_35mm is not None:
        source, words = CameraSource(), ""
    elif question.assumed_hfov_deg is not None:
        source, words = CameraSource(hfov_deg=question.assumed_hfov_deg), "assumed"
    else:
        raise InputError(_NO_CAMERA)
    known = source.lens(picture.stem, width=width, height=height, focal_35mm=picture.focal_35mm)
    return replace(known, source=words or known.source, rotation=rotation)
