"""A camera as it is built in: its lens may bend lines, and it may be turned against the horizon.

Such a picture is rectified once, to what a level pinhole camera at the same place sees; boxes are made there and drawn
on the picture as it was. Pixels are ours (a picture spans [0, W] x [0, H]), OpenCV's are half a pixel less.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.frames import MEAN_COLOUR, Pixels
from monoskd.geometry.camera import Camera

FloatArray = NDArray[np.float64]

_STEEPEST = 2.5  # x / z and y / z of the widest rays that are rectified: 68 degrees off the axis
_AHEAD = 0.1  # z of the unit vectors of the rays that count as ahead
_GRID = 41  # pixels each way at which it is asked where a lens looks
_MOST_SIDE_PX = 4096  # of a rectified picture
_STEP = 1e-4  # [x / z] of differences
_NEWTON_STEPS = 30
_NO_SECOND_MAP: Any = None  # OpenCV's stubs do not know that there may be none
_FAR = 50.0  # [x / z] no lens model is asked beyond
_STEPS = 16  # points along the side of a box
_SQUARE = 0.01  # relative difference of the focal lengths from where pixels are not square


def level_rotation(*, pitch_deg: float, roll_deg: float) -> FloatArray:
    """3 x 3: from the frame of a camera that looks `pitch_deg` down and is rolled clockwise to the level frame."""
    pitch, roll = np.radians([pitch_deg, roll_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(about_x @ about_z, np.float64)


def _is_ahead(rays: FloatArray) -> NDArray[np.bool_]:
    """Which directions n x 3, of any length, look ahead; NaN does not."""
    return np.asarray(rays[:, 2] > _AHEAD * np.linalg.norm(rays, axis=1), np.bool_)


@dataclass(frozen=True, eq=False)
class Lens:
    """The camera of width x height pictures.

    pinhole: its projection without distortion. source: where it comes from, in words. distortion: OpenCV's
    coefficients, radial-tangential (k1 k2 p1 p2 k3 ...) or, with `fisheye`, k1 .. k4. rotation: 3 x 3, from its frame
    to a level one.
    """

    pinhole: Camera
    width: int
    height: int
    source: str
    distortion: FloatArray = field(default_factory=lambda: np.zeros(0))
    fisheye: bool = False
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))

    @cached_property
    def rectified(self) -> "Rectified | None":
        """How its pictures become those of a level pinhole camera with square pixels; None: they are."""
        K = np.asarray(self.pinhole.P)[:, :3]
        square = abs(K[0, 0] / K[1, 1] - 1) < _SQUARE
        plain = square and not self.distortion.size and np.allclose(self.rotation, np.eye(3))
        return None if plain else Rectified.of(self)

    @property
    def exif(self) -> str | None:
        """What a picture's EXIF said, in words; None where the camera is known otherwise."""
        return f"{self.source}: {float(self.pinhole.focal_px):.0f} px" if self.source.startswith("EXIF") else None

    @property
    def camera(self) -> Camera:
        """Projects to the pixels of the picture that the network is given."""
        return self.pinhole if self.rectified is None else self.rectified.camera

    def pixels(self, rays: Any) -> FloatArray:
        """Pixels n x 2 of directions n x 3 in its own frame; NaN behind it and where the lens model does not hold."""
        rays = np.asarray(rays, np.float64)
        ahead = _is_ahead(rays)
        flat = np.where(ahead[:, None], rays[:, :2] / np.where(ahead, rays[:, 2], 1)[:, None], 0)
        bent, K = self._bend(flat), np.asarray(self.pinhole.P)
        holds = ahead & self._is_unfolded(flat, bent)
        return np.where(holds[:, None], bent * (K[0, 0], K[1, 1]) + K[:2, 2], np.nan)

    def rays(self, uv: Any) -> FloatArray:
        """Directions n x 3 (z = 1) of pixels n x 2, in its own frame; NaN where the lens model does not hold."""
        K, uv = np.asarray(self.pinhole.P), np.asarray(uv, np.float64)
        bent = (uv - K[:2, 2]) / (K[0, 0], K[1, 1])
        flat = bent
        if self.distortion.size:
            with np.errstate(all="ignore"):
                for _ in range(_NEWTON_STEPS):
                    here, slope = self._bend(flat), self._slope(flat)
                    step = np.linalg.solve(slope + 1e-12 * np.eye(2), (here - bent)[..., None])[..., 0]
                    flat = np.clip(np.nan_to_num(flat - step), -_FAR, _FAR)
        rays = np.column_stack([flat, np.ones(len(uv))])
        return np.where((np.abs(self.pixels(rays) - uv) <= 0.5).all(1)[:, None], rays, np.nan)

    def _bend(self, flat: FloatArray) -> FloatArray:
        """What the lens makes of x / z, y / z, n x 2."""
        if not len(flat) or not self.distortion.size:
            return flat
        still, points = np.zeros((3, 1)), np.insert(flat, 2, 1, 1)[:, None]
        project = cv2.fisheye.projectPoints if self.fisheye else cv2.projectPoints
        bent: Any = project(points, still, still, np.eye(3), self.distortion)[0]
        return np.asarray(bent, np.float64).reshape(-1, 2)

    def _slope(self, flat: FloatArray) -> FloatArray:
        """The Jacobian of `_bend`, n x 2 x 2."""
        columns = [(self._bend(flat + step) - self._bend(flat - step)) / (2 * _STEP) for step in _STEP * np.eye(2)]
        return np.stack(columns, -1)

    def _is_unfolded(self, flat: FloatArray, bent: FloatArray) -> NDArray[np.bool_]:
        """Whether the polynomial still grows here: beyond a radius it turns around and covers the picture again."""
        if not self.distortion.size:
            return np.ones(len(flat), np.bool_)
        return np.asarray((np.linalg.det(self._slope(flat)) > 0) & ((bent * flat).sum(1) >= -_STEP), np.bool_)


@dataclass(frozen=True, eq=False)
class Rectified:
    """What a level pinhole camera in a lens' place sees. camera: projects to it; size: (width, height) [px]."""

    lens: Lens
    camera: Camera
    size: tuple[int, int]

    @classmethod
    def of(cls, lens: Lens) -> "Rectified":
        """As much as the lens sees, at the focal length that it has."""
        u, v = np.linspace(0, lens.width, _GRID), np.linspace(0, lens.height, _GRID)
        rays = lens.rays(np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)) @ lens.rotation.T
        rays = rays[_is_ahead(rays)]
        if not len(rays):
            raise InputError(
                f"{lens.source}: expected a camera that looks ahead through a lens of OpenCV's model, got no "
                "pixel that does: check the distortion and the rotation"
            )
        flat = np.clip(rays[:, :2] / rays[:, 2:], -_STEEPEST, _STEEPEST)
        first, last = flat.min(0), flat.max(0)
        P = np.asarray(lens.pinhole.P)
        focal_px = min(float(P[0, 0]), _MOST_SIDE_PX / float((last - first).max()))
        size = np.maximum(np.ceil((last - first) * focal_px), 1).astype(int)
        K = np.array([[focal_px, 0, -first[0] * focal_px], [0, focal_px, -first[1] * focal_px], [0, 0, 1]])
        shift = lens.rotation @ np.linalg.solve(P[:, :3], P[:, 3])  # [m] P = K [R | t] about the labels' origin
        return cls(lens, Camera(K @ np.column_stack([np.eye(3), shift])), (int(size[0]), int(size[1])))

    def back(self, uv: Any) -> FloatArray:
        """Pixels n x 2 of the picture as it was; NaN outside the lens's view."""
        K = np.asarray(self.camera.P)[:, :3]
        rays = np.column_stack([(np.asarray(uv) - K[:2, 2]) / K[0, 0], np.ones(len(uv))])
        return self.lens.pixels(rays @ self.lens.rotation)  # R^T ray

    def back_boxes(self, boxes: FloatArray) -> FloatArray:
        """2D boxes n x 4 around the same edges in the picture as it was; one without an area shows nowhere in it."""
        steps = np.linspace(0, 1, _STEPS)
        ring = np.concatenate(
            [
                np.column_stack([steps, 0 * steps]),
                np.column_stack([steps, 0 * steps + 1]),
                np.column_stack([0 * steps, steps]),
                np.column_stack([0 * steps + 1, steps]),
            ]
        )
        moved = np.zeros((len(boxes), 4))
        for row, (left, top, right, bottom) in enumerate(np.clip(boxes, 0, np.tile(self.size, 2))):
            uv = self.back((left, top) + ring * (right - left, bottom - top))
            uv = uv[np.isfinite(uv).all(1)]
            if len(uv):
                uv = np.clip(uv, 0, (self.lens.width, self.lens.height))
                moved[row] = [*uv.min(0), *uv.max(0)]
        return moved

    @cached_property
    def _map(self) -> NDArray[np.float32]:
        columns, rows = np.meshgrid(np.arange(self.size[0]) + 0.5, np.arange(self.size[1]) + 0.5)
        uv = self.back(np.column_stack([columns.ravel(), rows.ravel()])) - 0.5
        return np.where(np.isfinite(uv), uv, -9).astype(np.float32).reshape(*columns.shape, 2)

    def picture(self, image: Pixels) -> Pixels:
        """The picture that the level pinhole camera sees; what the lens does not see is filled as in `warp_image`."""
        options: dict[str, Any] = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": MEAN_COLOUR}
        return np.asarray(cv2.remap(image, self._map, _NO_SECOND_MAP, cv2.INTER_LINEAR, **options), np.uint8)
