"""KITTI's files, read and written: calibration, objects, splits, depth maps, LiDAR sweeps, images.

Every reader names what is damaged: file, line, field, what was expected and what was found. Every writer is atomic: a
file is written whole or not at all. Nothing here imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import finite_number, read_text, write_atomically, write_text
from monoskd.geometry.camera import Camera, is_rectified
from monoskd.images import read_pixels
from monoskd.kitti.labels import OBJECT_FIELDS as OBJECT_FIELDS
from monoskd.kitti.labels import format_objects as format_objects
from monoskd.kitti.labels import objects_from_table as objects_from_table
from monoskd.kitti.labels import parse_objects as parse_objects
from monoskd.kitti.labels import read_objects as read_objects
from monoskd.kitti.labels import write_objects as write_objects
from monoskd.kitti.layout import is_frame
from monoskd.kitti.sweeps import read_returns as read_returns
from monoskd.kitti.sweeps import read_velodyne as read_velodyne
from monoskd.kitti.sweeps import write_velodyne as write_velodyne

FloatArray: TypeAlias = NDArray[np.float64]

DEPTH_SCALE = 256  # a depth map stores metres * 256
MAX_DEPTH_M = 65535 / DEPTH_SCALE


# --- calibration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """A frame's calibration, float64; what its file lacks is None, but P2 is always there.

    P0 .. P3: 3 x 4, rectified camera frame [m] to pixels of the four cameras; R0_rect: 3 x 3, camera to rectified
    camera frame; Tr_velo_to_cam, Tr_imu_to_velo: 3 x 4 rigid transforms [m].
    """

    P2: FloatArray
    P0: FloatArray | None = None
    P1: FloatArray | None = None
    P3: FloatArray | None = None
    R0_rect: FloatArray | None = None
    Tr_velo_to_cam: FloatArray | None = None
    Tr_imu_to_velo: FloatArray | None = None

    @property
    def camera(self) -> Camera:
        """The left colour camera, whose images are `image_2`."""
        return Camera(self.P2)

    def velo_to_camera(self, points: NDArray[Any]) -> FloatArray:
        """Points n x 3 [m] of the LiDAR frame in the rectified camera frame: R0_rect (Tr_velo_to_cam [p, 1])."""
        if self.R0_rect is None or self.Tr_velo_to_cam is None:
            raise ValueError("calibration without R0_rect or Tr_velo_to_cam cannot place LiDAR points: `require` them")
        pose = self.R0_rect @ self.Tr_velo_to_cam
        x, y, z = points[:, 0:1], points[:, 1:2], points[:, 2:3]
        placed: FloatArray = pose[:, 0] * x + pose[:, 1] * y + pose[:, 2] * z + pose[:, 3]
        return placed


_MATRIX_SHAPES = {"P0": (3, 4), "P1": (3, 4), "P2": (3, 4), "P3": (3, 4), "R0_rect": (3, 3)} | {
    "Tr_velo_to_cam": (3, 4),
    "Tr_imu_to_velo": (3, 4),
}
_TRACKING_KEYS = {"R_rect": "R0_rect", "Tr_velo_cam": "Tr_velo_to_cam", "Tr_imu_velo": "Tr_imu_to_velo"}


def read_calibration(path: str | Path, *, require: Sequence[str] = ()) -> Calibration:
    """The calibration of one frame, by key, not by line; unknown keys and keys without numbers are skipped.

    The keys of KITTI's tracking files are read too. Raises InputError where a line is damaged, and where P2 or another
    of the `require`d matrices is missing.
    """
    matrices: dict[str, FloatArray] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.replace(":", " ", 1).split()
        key = _TRACKING_KEYS.get(words[0], words[0]) if words else ""
        if key in _MATRIX_SHAPES and len(words) > 1:
            if key in matrices:
                raise InputError(f"{path}, line {number}: expected {key} once, got it again: remove one")
            matrices[key] = parse_matrix(words[1:], shape=_MATRIX_SHAPES[key], where=f"{path}, line {number}, {key}")
            if key == "P2" and not is_rectified(matrices[key]):
                raise InputError(
                    f"{path}, line {number}, P2: expected a rectified camera (fu 0 cu p03, 0 fv cv p13, 0 0 1 p23 with "
                    f"fu, fv > 0), got {' '.join(f'{value:g}' for value in matrices[key].ravel())}: correct the line"
                )
    missing = [key for key in dict.fromkeys(("P2", *require)) if key not in matrices]
    if missing:
        found = ", ".join(matrices) or "no matrix"
        size = int(np.prod(_MATRIX_SHAPES[missing[0]]))
        raise InputError(f"{path}: expected a line '{missing[0]}: <{size} numbers>', got {found}: add it")
    return Calibration(**matrices)


def parse_matrix(words: Sequence[str], *, shape: tuple[int, int], where: str) -> FloatArray:
    """A matrix written row by row; `where` is what errors call its place."""
    size = shape[0] * shape[1]
    if len(words) != size:
        advice = "the line is damaged or cut off"
        if len(words) in (9, 12, 16):  # a matrix of another shape
            advice = f"write it as {shape[0]} x {shape[1]}, row by row"
        raise InputError(f"{where}: expected {size} numbers, got {len(words)}: {advice}")
    return np.array([finite_number(word, where=where) for word in words]).reshape(shape)


def format_calibration(calibration: Calibration) -> str:
    """The lines of a calibration file, as KITTI writes them: 13 significant digits."""
    matrices = {key: getattr(calibration, key) for key in _MATRIX_SHAPES}
    lines = (
        f"{key}: " + " ".join(f"{value:.12e}" for value in np.ravel(matrix))
        for key, matrix in matrices.items()
        if matrix is not None
    )
    return "".join(f"{line}\n" for line in lines)


def write_calibration(path: str | Path, calibration: Calibration) -> None:
    """The inverse of `read_calibration`; see `format_calibration`."""
    write_text(path, format_calibration(calibration))


# --- splits -----------------------------------------------------------------------------------------------------------


def read_split(path: str | Path) -> list[str]:
    """The frames of a split, in the file's order: one name a line (the stem of its files), none twice."""
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        frame = line.strip()
        if not frame:
            continue
        if not is_frame(frame):
            raise InputError(
                f"{path}, line {number}: expected a frame's name (000012 for 000012.png), got "
                f"'{frame[:40]}': correct the line"
            )
        if frame in lines:
            raise InputError(
                f"{path}, line {number}: expected each frame once, got {frame} again (first on line {lines[frame]}): "
                "remove one"
            )
        lines[frame] = number
    return list(lines)


def format_split(frames: Sequence[str]) -> str:
    """The lines of a split's file."""
    return "".join(f"{frame}\n" for frame in frames)


def write_split(path: str | Path, frames: Sequence[str]) -> None:
    """The inverse of `read_split`."""
    write_text(path, format_split(frames))


# --- depth maps and images --------------------------------------------------------------------------------------------


def read_depth(path: str | Path) -> NDArray[np.float32]:
    """A depth map H x W [m]; 0 where unknown. The file is a 16-bit PNG of metres * 256."""
    return read_pixels(path, mode="I;16").astype(np.float32) / np.float32(DEPTH_SCALE)


def write_depth(path: str | Path, depth_m: NDArray[Any]) -> None:
    """The inverse of `read_depth`, to within 1/512 m; depths beyond 255.99 m are stored as that."""
    import cv2  # encodes in half of Pillow's time

    stored = np.rint(np.clip(depth_m, 0, MAX_DEPTH_M) * DEPTH_SCALE).astype(np.uint16)
    write_atomically(path, cv2.imencode(".png", stored)[1].tobytes())


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """A picture as RGB H x W x 3, turned upright as its EXIF says."""
    return read_pixels(path, mode="RGB")
