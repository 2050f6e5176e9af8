"""What prediction writes: result files, one document, drawings, a video."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import MOST_BYTES, check_output, read_json, write_atomically, write_json
from monoskd.inference.draw import Bend, draw_scene, scene_size
from monoskd.inference.lens import Lens
from monoskd.inference.pictures import Picture, count_frames, quiet_opencv
from monoskd.kitti.io import write_objects
from monoskd.objects import Objects

SCHEMA = "monoskd/detections/1"
DOCUMENT, RESULTS, DRAWINGS = "detections.json", "kitti", "drawn"  # a file and two folders of what is written
_LONGEST_SIDE_PX = 65_500  # of a JPEG


@dataclass(frozen=True)
class Prediction:
    """The detections in a picture.

    objects: 2D boxes in the picture's pixels, 3D boxes in the lens' level frame.
    """

    picture: Picture
    lens: Lens
    objects: Objects
    depth_std_m: NDArray[np.float64] | None = None

    def drawn(self) -> NDArray[np.uint8]:
        """The picture with its boxes and horizon, and the street from above."""
        rectified = self.lens.rectified
        bend = None if rectified is None else Bend(rectified.back, rectified.size)
        return draw_scene(self.picture.image, camera=self.lens.camera, detections=self.objects, bend=bend, horizon=True)

    def as_json(self) -> dict[str, Any]:
        """The picture's entry in the document."""
        return {
            "image": self.picture.stem,
            "camera": _lens_as_json(self.lens),
            "detections": as_json(self.objects, self.depth_std_m),
        }


class Outputs:
    """The files of one prediction in the folder `out`, and its video, if there is one.

    What was written before an interruption stays, and so do the entries of other pictures in `detections.json`.
    """

    def __init__(
        self, out: Path, *, draw: bool = False, video: Path | None = None, frames_a_second: float = 10.0
    ) -> None:
        self.out, self.draw = out, draw
        self.document = out / DOCUMENT
        self.entries = read_entries(self.document)
        self.written = 0
        self._film = None if video is None else Film(video, frames_a_second)

    def check(self, picture: Picture) -> None:
        """Raise InputError for a picture that cannot be drawn as asked."""
        if self.draw:
            check_drawing(self.out, picture)
        if self._film is not None:
            self._film.check(picture)

    def write(self, prediction: Prediction) -> None:
        """Write all that one picture brings."""
        if not self.document.exists():  # it says whose the folder is, should this process be killed
            write_document(self.document, self.entries)
        drawn = prediction.drawn() if self.draw or self._film is not None else None
        write_results(self.out, prediction, drawn=drawn if self.draw else None)
        if self._film is not None and drawn is not None:
            self._film.add(drawn)
        self.entries[prediction.picture.stem] = prediction.as_json()
        self.written += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        """Write the document and end the video, also after an error."""
        try:
            if self.written:
                write_document(self.document, self.entries)
        finally:
            if self._film is not None:
                self._film.close()


class Film:
    """An MP4 file of drawings, which takes its name when it is closed."""

    def __init__(self, path: Path, frames_a_second: float) -> None:
        check_output(path, suffix=".mp4")
        self.path, self.rate = path, frames_a_second
        self.partial = path.with_name(f".{path.stem[:100]}.partial.mp4")
        self.shape: tuple[int, ...] | None = None
        self.writer: Any = None
        self.frames = 0

    def check(self, picture: Picture) -> None:
        """Raise InputError for a picture of another size than the first."""
        self.shape = self.shape or picture.image.shape
        if picture.image.shape != self.shape:
            (height, width), (rows, columns) = self.shape[:2], picture.image.shape[:2]
            raise InputError(
                f"{picture.stem}: expected {width} x {height} pixels, as of the video's first picture, got {columns} x "
                f"{rows}: predict it without `--video`"
            )

    def add(self, drawn: NDArray[np.uint8]) -> None:
        """One more frame; the codec wants even sides."""
        frame = np.ascontiguousarray(drawn[: len(drawn) // 2 * 2, : drawn.shape[1] // 2 * 2, ::-1])
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            quiet_opencv()
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.partial), code, self.rate, frame.shape[1::-1])
            if not self.writer.isOpened():
                raise InputError(
                    f"{self.path}: expected to write an MP4 video of {frame.shape[1]} x {frame.shape[0]} pixels, but "
                    "OpenCV cannot here: use `--draw`"
                )
        self.writer.write(frame)
        self.frames += 1

    def close(self) -> None:
        """Give the video its name. Raises InputError where it is not whole: OpenCV does not say that a disk is full."""
        if self.writer is None:
            return
        self.writer.release()
        if count_frames(self.partial) < self.frames:
            self.partial.unlink(missing_ok=True)
            raise InputError(
                f"{self.path}: expected a video of {self.frames} pictures, got one that is cut off, as on a full disk: "
                "free some space; the results of the pictures are kept"
            )
        self.partial.replace(self.path)


def check_drawing(out: Path, picture: Picture) -> None:
    """Raise InputError for a picture whose drawing is larger than a JPEG can be."""
    width, height = scene_size(width=picture.image.shape[1], height=picture.image.shape[0])
    if max(width, height) > _LONGEST_SIDE_PX:
        raise InputError(
            f"{_drawing(out, picture)}: expected a drawing of at most {_LONGEST_SIDE_PX} pixels each way, got {width} "
            f"x {height}: predict such a picture without `--draw`"
        )


def write_results(out: Path, prediction: Prediction, *, drawn: NDArray[np.uint8] | None) -> None:
    """Write the result file of one picture, and its drawing (RGB) if there is one."""
    write_objects(out / RESULTS / f"{prediction.picture.stem}.txt", prediction.objects)
    if drawn is not None:
        good, code = cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        assert good, "JPEG encoding fails for pictures that `check_drawing` refuses alone"
        write_atomically(_drawing(out, prediction.picture), code.tobytes())


def _drawing(out: Path, picture: Picture) -> Path:
    return out / DRAWINGS / f"{picture.stem}.jpg"


def write_document(path: Path, entries: Mapping[str, Any]) -> None:
    """Write the entries of pictures, by name, as the document."""
    write_json(path, {"schema": SCHEMA, "images": [entries[stem] for stem in sorted(entries)]})


def read_entries(path: Path) -> dict[str, Any]:
    """What an earlier prediction says, by picture. Raises InputError where it or its neighbours are not ours."""
    if not path.exists():
        if strange := next((path.parent / RESULTS).glob("*.txt"), None):
            raise InputError(
                f"{strange}: expected {path.name} of the prediction that it is from, got none: change `--out`"
            )
        return {}
    try:
        document = read_json(path, at_most=MOST_BYTES)
        if document["schema"] != SCHEMA:
            raise ValueError(document["schema"])
        return {image["image"]: {**image, "detections": image["detections"]} for image in document["images"]}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: expected an earlier prediction, got another file: choose another `--out`") from error


def as_json(objects: Objects, depth_std_m: NDArray[np.float64] | None = None) -> list[dict[str, Any]]:
    """One entry a detection: pixels, metres and radians, as in the text files."""
    assert objects.scores is not None
    corners = objects.boxes_3d.corners()
    return [
        {
            "class": str(objects.names[i]),
            "score": float(objects.scores[i]),
            "box_2d_px": objects.boxes_2d[i].tolist(),
            "bottom_centre_m": objects.bottom[i].tolist(),
            "height_width_length_m": objects.dimensions[i].tolist(),
            "yaw_rad": float(objects.yaw[i]),
            "alpha_rad": float(objects.alpha[i]),
            "depth_m": float(objects.bottom[i, 2]),
            "depth_std_m": None if depth_std_m is None else _finite(depth_std_m[i]),
            "corners_m": corners[i].tolist(),
        }
        for i in range(len(objects))
    ]


def _lens_as_json(lens: Lens) -> dict[str, Any]:
    """The camera: from where, of which pictures, and how it projects."""
    P = np.asarray(lens.pinhole.P)
    entry: dict[str, Any] = {
        "source": lens.source,
        "width": lens.width,
        "height": lens.height,
        "focal_px": [float(P[0, 0]), float(P[1, 1])],
        "principal_point_px": [float(P[0, 2]), float(P[1, 2])],
        "projection": P.tolist(),
    }
    if lens.rectified is not None:  # boxes are in the level frame: rotation x a point of the camera's frame
        entry |= {"rotation_to_level": lens.rotation.tolist(), "distortion": lens.distortion.tolist()}
        entry["distortion_model"] = "fisheye" if lens.fisheye else "radial-tangential"
    return entry


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
