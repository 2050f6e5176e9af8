"""An image and its camera become boxes; so do folders and videos."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from monoskd.data.samples import make_sample
from monoskd.errors import InputError
from monoskd.files import MOST_BYTES, read_json, visible, write_atomically, write_json
from monoskd.geometry.camera import Camera
from monoskd.images import IMAGE_SUFFIXES
from monoskd.inference.draw import draw_scene
from monoskd.kitti.io import read_calibration, read_image, write_objects
from monoskd.models.weights import load_model
from monoskd.objects import Objects
from monoskd.structures import Batch, Detections, Detector, Frame, PublishedData, Sample

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
SCHEMA = "monoskd/detections/1"
_LONGEST_FOCAL_PX = 1_000_000
_LONGEST_SIDE_PX = 65_500  # of a JPEG


class Predictor:
    """A trained detector, ready for pictures of any size.

    model: a model file or a detector; device: where it runs.

    >>> Predictor("model.safetensors")(image, Camera.from_hfov(90, width=1280, height=720))  # doctest: +SKIP
    """

    def __init__(self, model: str | Path | Detector, *, device: str | torch.device = "cpu") -> None:
        self.device = usable_device(device)
        detector = load_model(model) if isinstance(model, str | Path) else model
        self.detector = detector.to(self.device).eval()
        self.published = PublishedData.all() if detector.published_input else PublishedData()

    @torch.inference_mode()
    def __call__(
        self, image: NDArray[np.uint8], camera: Camera, depth_m: NDArray[np.float32] | None = None
    ) -> Detections:
        """Boxes in one picture, best first, in its own pixels and metres, on the CPU.

        image: h x w x 3 RGB. camera: its projection. depth_m: h x w depth map, for a depth network (a teacher) only.
        """
        if self.detector.modality == "depth" and depth_m is None:
            raise InputError(
                "model: a depth network needs a depth map beside each picture; train an rgb student to do without"
            )
        batch = Batch.collate([self.sample(Frame(image=image, camera=camera, depth_m=depth_m))]).to(self.device)
        views = batch.views(self.detector.modality)
        return self.detector.decode(self.detector(views), views)[0].to("cpu")

    def sample(self, frame: Frame) -> Sample:
        """A picture as the network wants it."""
        return make_sample("", frame, input_size=self.detector.input_size, published=self.published)


def usable_device(device: str | torch.device) -> torch.device:
    """The device, once a tensor has been there. Raises InputError for one that this machine has not."""
    try:
        there = torch.zeros((), device=device)
        there.item()  # `meta` holds no numbers
        return there.device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(f"device: expected one that this machine has, such as cpu, got {device}: {reason}") from error


@dataclass(frozen=True)
class CameraSource:
    """Where the camera of a picture comes from: a calibration file, a folder of them, or one number."""

    calibration: Path | None = None
    focal_px: float | None = None
    hfov_deg: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.calibration, self.focal_px, self.hfov_deg) if value is not None]
        if len(given) != 1:
            raise InputError(f"camera: expected exactly one of --calib, --focal and --hfov, got {len(given)}")
        if self.focal_px is not None and not 1 <= self.focal_px <= _LONGEST_FOCAL_PX:
            raise InputError(f"--focal: expected 1 to {_LONGEST_FOCAL_PX} pixels, got {self.focal_px:g}")
        if self.hfov_deg is not None and not 1 <= self.hfov_deg <= 179:
            raise InputError(f"--hfov: expected 1 to 179 degrees, got {self.hfov_deg:g}")
        if self.calibration is not None and not self.calibration.exists():
            raise InputError(f"{self.calibration}: expected a calibration file or a folder of them, got neither")

    def camera(self, stem: str, *, width: int, height: int) -> Camera:
        """The camera of the width x height picture called `stem`."""
        if self.focal_px is not None:
            return Camera.from_focal(self.focal_px, width=width, height=height)
        if self.hfov_deg is not None:
            return Camera.from_hfov(self.hfov_deg, width=width, height=height)
        assert self.calibration is not None
        path = self.calibration / f"{stem}.txt" if self.calibration.is_dir() else self.calibration
        return read_calibration(path).camera


@dataclass(frozen=True)
class Found:
    """How many pictures were looked at, and how many objects were found in them."""

    images: int
    detections: int


def predict_source(
    predictor: Predictor,
    source: Path,
    *,
    cameras: CameraSource,
    out: Path,
    score: float = 0.2,
    draw: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """Predict an image, a folder of images or a video; returns how many pictures and how many detections there were.

    Writes `out/kitti/<stem>.txt` and `out/detections.json`, with `draw` also `out/drawn/<stem>.jpg` (the boxes on the
    picture and from above). score: least score. What was done before an interruption stays, and so do the entries of
    other pictures in `detections.json`. Raises InputError where files that are read would be written over.
    """
    total, pictures = open_source(source)
    _check_apart(out, source=source, calibration=cameras.calibration)
    document = out / "detections.json"
    entries, done, found = _entries(document), 0, 0
    try:
        for stem, image in pictures:
            camera = cameras.camera(stem, width=image.shape[1], height=image.shape[0])
            objects = predictor(image, camera).above(score).to_objects()
            write_objects(out / "kitti" / f"{stem}.txt", objects)
            if draw:
                write_jpeg(out / "drawn" / f"{stem}.jpg", draw_scene(image, camera=camera, detections=objects))
            entries[stem] = as_json(objects)
            found, done = found + len(objects), done + 1
            progress(done, total)
    finally:
        if done:
            images = [{"image": stem, "detections": entries[stem]} for stem in sorted(entries)]
            write_json(document, {"schema": SCHEMA, "images": images})
    return Found(images=done, detections=found)


def _check_apart(out: Path, *, source: Path, calibration: Path | None) -> None:
    """Refuse an output folder whose files would fall on those that are read."""
    writes = {(out / "kitti").resolve(): "results", (out / "drawn").resolve(): "drawings"}
    for path in (source, *([calibration] if calibration else [])):
        folder = (path if path.is_dir() else path.parent).resolve()
        if folder in writes:
            raise InputError(f"{path}: expected a place that no {writes[folder]} go to, got {folder}: change `--out`")


def _entries(path: Path) -> dict[str, Any]:
    """What an earlier prediction found, by picture. Raises InputError where it or its neighbours are another's."""
    if not path.exists():
        if strange := next((path.parent / "kitti").glob("*.txt"), None):
            raise InputError(
                f"{strange}: expected {path.name} of the prediction that it is from, got none: change `--out`"
            )
        return {}
    try:
        document = read_json(path, at_most=MOST_BYTES)
        if document["schema"] != SCHEMA:
            raise ValueError(document["schema"])
        return {one["image"]: one["detections"] for one in document["images"]}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: expected an earlier prediction, got another file: choose another `--out`") from error


def open_source(source: Path) -> tuple[int, Iterator[tuple[str, NDArray[np.uint8]]]]:
    """How many pictures there are and the pictures, as (stem, RGB pixels). Raises InputError if there are none."""
    if source.is_dir():
        paths = [path for path in visible(source.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
        if not paths:
            raise InputError(f"{source}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
        for one, other in pairwise(paths):
            if one.stem == other.stem:
                raise InputError(f"{source}: expected names that differ, got {one.name} and {other.name}; rename one")
        return len(paths), ((path.stem, read_image(path)) for path in paths)
    if not source.exists():
        raise InputError(f"{source}: no such image, folder or video")
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(source)
    return 1, iter([(source.stem, read_image(source))])


def _open_video(source: Path) -> tuple[int, Iterator[tuple[str, NDArray[np.uint8]]]]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is said below, in one line
    capture = cv2.VideoCapture(str(source))
    good, bgr = capture.read()
    if not good:
        raise InputError(
            f"{source}: expected a video that OpenCV can read, got something else; try an .mp4 or a folder of images"
        )

    def pictures(good: bool, bgr: Any) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for index in count():
            if not good:
                return
            yield f"{index:06d}", np.ascontiguousarray(bgr[..., ::-1])
            good, bgr = capture.read()

    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), pictures(good, bgr)


def as_json(objects: Objects) -> list[dict[str, Any]]:
    """One entry a detection: pixels, metres and radians, as in the text files."""
    assert objects.scores is not None
    return [
        {
            "class": str(objects.names[i]),
            "score": float(objects.scores[i]),
            "box_2d_px": objects.boxes_2d[i].tolist(),
            "bottom_centre_m": objects.bottom[i].tolist(),
            "height_width_length_m": objects.dimensions[i].tolist(),
            "yaw_rad": float(objects.yaw[i]),
            "alpha_rad": float(objects.alpha[i]),
        }
        for i in range(len(objects))
    ]


def write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write RGB pixels."""
    if max(image.shape[:2]) > _LONGEST_SIDE_PX:
        height, width = image.shape[:2]
        raise InputError(
            f"{path}: expected a drawing of at most {_LONGEST_SIDE_PX} pixels each way, got {width} x {height}: "
            "predict such a picture without `--draw`"
        )
    good, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert good, "JPEG encoding of an RGB image does not fail"
    write_atomically(path, code.tobytes())
