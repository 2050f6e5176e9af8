"""Where the camera of a picture comes from: a calibration, a camera file, a number, or the picture's own EXIF."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from monoskd.errors import InputError
from monoskd.files import load_yaml, read_text
from monoskd.geometry.camera import Camera, Letterbox, is_rectified
from monoskd.inference.lens import FloatArray, Lens, level_rotation
from monoskd.kitti.io import read_calibration
from monoskd.kitti.layout import frame_file, frames_in

LONGEST_FOCAL_PX = 1_000_000
LEAST_HFOV_DEG, MOST_HFOV_DEG = 1, 179
MOST_TILT_DEG = 60
_FILM_DIAGONAL_MM = math.hypot(36, 24)
_OFF_CENTRE = 0.1  # share of the width by which a principal point may miss the middle; KITTI's does by 0.01
_LOPSIDED_DEG = 20  # between what a camera sees above and below its axis; pictures cut to half their height have 18
_HOW = (
    "give `--calib FILE`, `--camera FILE`, `--focal PX` or `--hfov DEG`; the focal length in pixels is that in mm x "
    "the picture's width in pixels / the sensor's width in mm, and for a phone the 35 mm focal length x the picture's "
    "diagonal in pixels / 43.3"
)

_KEYS = ("width", "height", "fx", "fy", "cx", "cy", "K", "distortion", "distortion_model", "R", "crop")
_RADIAL_TANGENTIAL = ("radial-tangential", "radtan", "plumb_bob", "rational_polynomial", "opencv")
_FISHEYE = ("fisheye", "equidistant", "opencv_fisheye")
_MODELS = (*_RADIAL_TANGENTIAL, *_FISHEYE)


@dataclass(frozen=True)
class CameraSource:
    """Where cameras come from: one of a calibration file or a folder of them, a camera file, or a number.

    With none of them, a picture's own EXIF says the focal length. pitch_deg: how far the camera looks down; roll_deg:
    how far it is turned clockwise, seen from behind it.
    """

    calibration: Path | None = None
    file: Path | None = None
    focal_px: float | None = None
    hfov_deg: float | None = None
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    _lenses: dict[Any, Lens] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        ways = (self.calibration, self.file, self.focal_px, self.hfov_deg)
        if (count := sum(way is not None for way in ways)) > 1:
            raise InputError(
                f"camera: expected one of --calib, --camera, --focal and --hfov, got {count}: leave out the others"
            )
        if self.focal_px is not None and not 1 <= self.focal_px <= LONGEST_FOCAL_PX:
            raise InputError(f"--focal: expected 1 to {LONGEST_FOCAL_PX} pixels, got {self.focal_px:g}")
        if self.hfov_deg is not None and not LEAST_HFOV_DEG <= self.hfov_deg <= MOST_HFOV_DEG:
            raise InputError(f"--hfov: expected {LEAST_HFOV_DEG} to {MOST_HFOV_DEG} degrees, got {self.hfov_deg:g}")
        for name, angle in (("--pitch", self.pitch_deg), ("--roll", self.roll_deg)):
            if not abs(angle) <= MOST_TILT_DEG:
                raise InputError(f"{name}: expected -{MOST_TILT_DEG} to {MOST_TILT_DEG} degrees, got {angle:g}")
        if self.calibration is not None and not self.calibration.exists():
            raise InputError(f"{self.calibration}: expected a calibration file or a folder of them, got neither")
        if self.calibration is not None and self.calibration.is_dir():
            frames_in(self.calibration, "calib")  # one file each
        if self.file is not None:
            read_camera(self.file)

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read: the calibration file or folder, or the camera file."""
        return tuple(path for path in (self.calibration, self.file) if path is not None)

    def lens(self, stem: str, *, width: int, height: int, focal_35mm: float | None = None) -> Lens:
        """The camera of the width x height picture called `stem`. focal_35mm: what its EXIF says, if anything.

        Raises InputError where there is none, and for a calibration of pictures of another size.
        """
        key = (self._calibration_of(stem), width, height, focal_35mm)
        if key not in self._lenses:
            if len(self._lenses) > 8:  # a rectified lens holds maps of its picture's size
                self._lenses.clear()
            self._lenses[key] = self._turned(self._lens(stem, width, height, focal_35mm))
        return self._lenses[key]

    def _calibration_of(self, stem: str) -> Path | None:
        """The calibration file of a picture, if cameras come from calibrations."""
        if self.calibration is None or not self.calibration.is_dir():
            return self.calibration
        return frame_file(self.calibration, "calib", stem)

    def _lens(self, stem: str, width: int, height: int, focal_35mm: float | None) -> Lens:
        if self.file is not None:
            lens = read_camera(self.file)
            if (lens.width, lens.height) != (width, height):
                turned = (lens.height, lens.width) == (width, height)
                advice = "turn it as EXIF turns the picture upright" if turned else "scale the picture or the file"
                raise InputError(
                    f"{self.file}: expected the camera of {width} x {height} pictures (that of {stem}), got one of "
                    f"{lens.width} x {lens.height}: {advice}"
                )
            return lens
        if (path := self._calibration_of(stem)) is not None:
            camera = read_calibration(path).camera
            check_size(camera, width=width, height=height, where=f"{path}: P2")
            return Lens(camera, width, height, str(path))
        if self.focal_px is not None:
            return Lens(Camera.from_focal(self.focal_px, width=width, height=height), width, height, "--focal")
        if self.hfov_deg is not None:
            return Lens(Camera.from_hfov(self.hfov_deg, width=width, height=height), width, height, "--hfov")
        if focal_35mm is None:
            raise InputError(f"{stem}: expected a camera, got none, also not from its EXIF: {_HOW}")
        focal_px = focal_35mm * math.hypot(width, height) / _FILM_DIAGONAL_MM
        source = f"EXIF, {focal_35mm:g} mm on 35 mm film"
        return Lens(Camera.from_focal(focal_px, width=width, height=height), width, height, source)

    def _turned(self, lens: Lens) -> Lens:
        """The lens with pitch and roll, which its file may not name as well."""
        if not (self.pitch_deg or self.roll_deg):
            return lens
        if not np.allclose(lens.rotation, np.eye(3)):
            raise InputError(f"{self.file}: expected R here or --pitch and --roll, got both: leave out one")
        return replace(lens, rotation=level_rotation(pitch_deg=self.pitch_deg, roll_deg=self.roll_deg))


def check_size(camera: Camera, *, width: int, height: int, where: str) -> None:
    """Raise InputError for a focal length that no camera has and a principal point of pictures of another size.

    The sky or the bonnet is often cut off, so a height is judged by angles: in shares of the height, KITTI's camera in
    a picture of twice its height looks as one of nuScenes in a picture without its sky.
    """
    P = np.asarray(camera.P)
    if not 1 <= P[0, 0] <= LONGEST_FOCAL_PX:
        raise InputError(
            f"{where}: expected a focal length of 1 to {LONGEST_FOCAL_PX} pixels, got {P[0, 0]:g}: correct it"
        )
    u, v = (float(value) for value in P[:2, 2])
    above, below = (math.degrees(math.atan2(side, float(P[1, 1]))) for side in (v, height - v))
    if abs(u - width / 2) > _OFF_CENTRE * width or not 0 < v < height or abs(above - below) > _LOPSIDED_DEG:
        raise InputError(
            f"{where}: expected the camera of a {width} x {height} picture, got the principal point "
            f"({u:.0f}, {v:.0f}), as of pictures of about {2 * u:.0f} x {2 * v:.0f}: "
            "scale the picture or the calibration; the camera of a cropped picture is given by a file with `crop`"
        )


def read_camera(path: Path) -> Lens:
    """A camera file, JSON or YAML: `width`, `height`, `fx fy cx cy` or `K`; optional `distortion`, `R` and `crop`."""
    try:
        document = load_yaml(read_text(path, at_most=2**20))  # JSON is YAML
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: expected JSON or YAML, got something else ({reason}): correct it") from error
    if not isinstance(document, Mapping):
        raise InputError(f"{path}: expected {', '.join(_KEYS[:6])}, got {type(document).__name__}: write them by name")
    for key in document:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, 1) or ["leave it out"]
            raise InputError(f"{path}: expected {', '.join(_KEYS)}, got '{key}': {near[0]}?")
    width, height = (_side(document.get(name), f"{path}: {name}") for name in ("width", "height"))
    K = _intrinsics(document, path)
    rotation = _matrix(document["R"], f"{path}: R") if "R" in document else np.eye(3)
    if not (np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0):
        raise InputError(f"{path}: R: expected a rotation, 3 x 3, got {rotation.round(3).tolist()}: correct it")
    distortion, fisheye = _distortion(document, path)
    camera = Camera(np.column_stack([K, np.zeros(3)]))
    check_size(camera, width=width, height=height, where=str(path))
    left, top, width, height = _crop(document, path, width=width, height=height)
    moved = Letterbox(np.float64(1), -np.array([left, top], np.float64), (width, height)).camera(camera)
    return Lens(moved, width, height, str(path), distortion, fisheye, rotation)


def _crop(document: Mapping[str, Any], path: Path, *, width: int, height: int) -> tuple[int, int, int, int]:
    """left, top, width and height of the part that the pictures show: all of it, unless told."""
    crop = document.get("crop", [0, 0, width, height])
    whole = isinstance(crop, list) and len(crop) == 4 and all(type(value) is int and value >= 0 for value in crop)
    if not (whole and min(crop[2:]) > 0 and crop[0] + crop[2] <= width and crop[1] + crop[3] <= height):
        raise InputError(
            f"{path}: crop: expected left, top, width and height of a part of {width} x {height} pixels, got "
            f"{crop!r:.80}: correct it"
        )
    return crop[0], crop[1], crop[2], crop[3]


def _intrinsics(document: Mapping[str, Any], path: Path) -> FloatArray:
    names = ("fx", "fy", "cx", "cy")
    given = [name for name in names if name in document]
    if ("K" in document) == bool(given) or (given and len(given) < len(names)):
        got = ", ".join(given + ["K"] * ("K" in document)) or "none of them"
        raise InputError(f"{path}: expected either K or fx, fy, cx and cy, got {got}: complete it")
    if given:
        fx, fy, cx, cy = _numbers([document[name] for name in names], f"{path}: fx, fy, cx, cy")
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    else:
        K = _matrix(document["K"], f"{path}: K")
    if not ((K[[0, 1], [0, 1]] >= 1).all() and is_rectified(K)):
        raise InputError(f"{path}: expected focal lengths of at least 1 px and no skew, got {K.tolist()}: correct it")
    return K


def _distortion(document: Mapping[str, Any], path: Path) -> tuple[FloatArray, bool]:
    """The coefficients, none where all are 0 in the radial-tangential model, and whether the model is the fisheye one.

    A list, its model in `distortion_model`; or a mapping of `model` and `coefficients`; or of the model to a list.
    """
    given, model = document.get("distortion"), document.get("distortion_model", "radial-tangential")
    if isinstance(given, Mapping):
        if len(given) == 1 and (name := next(iter(given))) in _MODELS:
            model, given = name, given[name]
        elif given and not given.keys() - {"model", "coefficients"}:
            model, given = given.get("model", model), given.get("coefficients")
        else:
            raise InputError(
                f"{path}: distortion: expected a list, {{fisheye: a list}} or {{model: a name, coefficients: a list}}, "
                f"got {dict(given)!r:.80}: correct it"
            )
    if model not in _MODELS:
        raise InputError(f"{path}: distortion: expected the model radial-tangential or fisheye, got '{model}'")
    fisheye = model in _FISHEYE
    if given is None or given == []:
        given = [0.0] * 4 if fisheye else []
    values = np.array(_numbers(given, f"{path}: distortion"))
    counts = (4,) if fisheye else (4, 5, 8, 12, 14)
    if values.size and values.size not in counts:
        expected = ", ".join(map(str, counts))
        raise InputError(f"{path}: distortion: expected {expected} numbers for {model}, got {values.size}: correct it")
    return (values if fisheye or values.any() else np.zeros(0)), fisheye


def _matrix(value: Any, where: str) -> FloatArray:
    """3 x 3, from rows or from nine numbers."""
    rows = value if isinstance(value, list) else []
    flat = [item for row in rows for item in (row if isinstance(row, list) else [row])]
    if len(flat) != 9:
        raise InputError(f"{where}: expected 3 x 3 numbers, got {value!r:.80}: correct it")
    return np.array(_numbers(flat, where)).reshape(3, 3)


def _numbers(values: Any, where: str) -> list[float]:
    good = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 for value in values
    )
    if not good:
        raise InputError(f"{where}: expected finite numbers, got {values!r:.80}: correct it")
    return [float(value) for value in values]


def _side(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100_000:
        raise InputError(f"{where}: expected the picture's side in pixels, got {value!r:.80}: add it")
    return value
