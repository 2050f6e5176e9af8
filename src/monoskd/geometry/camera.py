"""The pinhole camera, and the image transform that moves pixels and camera together.

Frames and units: x right, y down, z forward in metres (KITTI's rectified camera frame); u right, v down in pixels.
An image of W x H pixels spans [0, W] x [0, H]: pixel (i, j) covers [i, i + 1) x [j, j + 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from monoskd.geometry.arrays import Array, namespace

_LEAST_SKEW = 1e-3  # of a camera that is not rectified, in pixels


def project(P: Any, xyz: Any) -> Any:
    """Pixels of 3D points: uv = (P [xyz, 1])_{0,1} / (P [xyz, 1])_2.

    P: ... x 3 x 4 projection; xyz: ... x 3 [m], broadcast against P's leading axes. Returns ... x 2 [px].
    A point in the camera's plane gives infinities. A point behind it gives the pixel of its mirror image.
    """
    x, y, z = xyz[..., 0:1], xyz[..., 1:2], xyz[..., 2:3]
    homogeneous = P[..., 0] * x + P[..., 1] * y + P[..., 2] * z + P[..., 3]
    return homogeneous[..., :2] / homogeneous[..., 2:]


def back_project(P: Any, uv: Any, z: Any) -> Any:
    """3D points on the pixels' rays at depth z: the inverse of `project` for a rectified P.

    Rectified: no skew, last row 0 0 1 p23.

    P: ... x 3 x 4; uv: ... x 2 [px]; z: ... [m], the point's third coordinate. Returns ... x 3 [m].
    """
    scale = z + P[..., 2, 3]
    x = (uv[..., 0] * scale - P[..., 0, 2] * z - P[..., 0, 3]) / P[..., 0, 0]
    y = (uv[..., 1] * scale - P[..., 1, 2] * z - P[..., 1, 3]) / P[..., 1, 1]
    return namespace(P).stack([x, y, z + 0 * x], -1)


def mirror(P: Any, width: Any) -> Any:
    """The projection of the world mirrored in x = 0 into the image mirrored in u = width / 2.

    With u' = W - u and x' = -x: cu' = W - cu and p03' = W p23 - p03; nothing else changes.
    """
    mirrored = P.copy() if isinstance(P, np.ndarray) else P.clone()
    mirrored[..., 0, 2] = width - P[..., 0, 2]
    mirrored[..., 0, 3] = width * P[..., 2, 3] - P[..., 0, 3]
    return mirrored


def is_rectified(P: Any) -> bool:
    """Whether a numpy projection, 3 x 3 or 3 x 4, is one that all code here relies on.

    That is: focal lengths above 0, no skew, a last row of 0 0 1 (p23). What products of matrices leave is no skew.
    """
    others = np.array([P[0, 1], P[1, 0], *P[2, :3]])
    return bool((P[[0, 1], [0, 1]] > 0).all() and np.allclose(others, [0, 0, 0, 0, 1], atol=_LEAST_SKEW))


@dataclass(frozen=True)
class Camera:
    """A rectified pinhole camera, or a batch of them.

    P: (...) x 3 x 4 projection from the camera frame [m] to pixels, numpy or torch. KITTI's P2.
    """

    P: Array

    def __post_init__(self) -> None:
        if tuple(self.P.shape[-2:]) != (3, 4):
            raise ValueError(f"Camera.P: expected shape (..., 3, 4), got {tuple(self.P.shape)}")

    @classmethod
    def from_focal(cls, focal_px: float, *, width: int, height: int) -> "Camera":
        """A camera with square pixels whose principal point is the middle of a width x height image."""
        if not (math.isfinite(focal_px) and focal_px > 0):
            raise ValueError(f"focal length: expected a positive number of pixels, got {focal_px}")
        return cls(
            np.array([[focal_px, 0, width / 2, 0], [0, focal_px, height / 2, 0], [0, 0, 1, 0]], dtype=np.float64)
        )

    @classmethod
    def from_hfov(cls, hfov_deg: float, *, width: int, height: int) -> "Camera":
        """A camera whose horizontal field of view is `hfov_deg` degrees: f = W / 2 / tan(hfov / 2)."""
        if not 0 < hfov_deg < 180:
            raise ValueError(f"field of view: expected degrees between 0 and 180, got {hfov_deg}")
        return cls.from_focal(width / 2 / math.tan(math.radians(hfov_deg) / 2), width=width, height=height)

    @property
    def focal_px(self) -> Any:
        """The horizontal focal length fu [px]."""
        return self.P[..., 0, 0]

    @property
    def centre_u(self) -> Any:
        """The principal point's column cu [px]."""
        return self.P[..., 0, 2]

    def project(self, xyz: Any) -> Any:
        """Pixels ... x 2 of the points ... x 3 [m]; see `project`."""
        return project(self.P, xyz)

    def back_project(self, uv: Any, z: Any) -> Any:
        """Points ... x 3 [m] on the rays of the pixels ... x 2 at depth z [m]; see `back_project`."""
        return back_project(self.P, uv, z)

    def mirrored(self, width: Any) -> "Camera":
        """The camera of the image flipped left to right; see `mirror`."""
        return Camera(mirror(self.P, width))


@dataclass(frozen=True)
class Letterbox:
    """Original pixels to network pixels: uv' = scale * uv + shift, one scale for both axes.

    scale: (...) ; shift: (...) x 2 [px]; numpy, torch or (scale) float. size: the network image's (width, height).
    Crop and zoom of the augmentation are letterboxes too: one object maps every pixel there and exactly back.
    """

    scale: Any
    shift: Any
    size: tuple[int, int]

    @classmethod
    def fit(cls, *, width: int, height: int, size: tuple[int, int]) -> "Letterbox":
        """The whole width x height image, as large as fits, in the middle of `size` (width, height)."""
        return cls.crop(centre=(width / 2, height / 2), scale=min(size[0] / width, size[1] / height), size=size)

    @classmethod
    def crop(cls, *, centre: tuple[float, float], scale: float, size: tuple[int, int]) -> "Letterbox":
        """The part of the image around `centre` [original px] enlarged by `scale`, in the middle of `size`."""
        return cls(np.float64(scale), np.array(size, np.float64) / 2 - scale * np.array(centre, np.float64), size)

    def apply(self, uv: Any) -> Any:
        """Network pixels of the original pixels ... x 2."""
        return self._expand(self.scale, uv)[..., None] * uv + self._expand(self.shift, uv, 1)

    def invert(self, uv: Any) -> Any:
        """Original pixels of the network pixels ... x 2: the exact inverse of `apply`."""
        return (uv - self._expand(self.shift, uv, 1)) / self._expand(self.scale, uv)[..., None]

    def camera(self, camera: Camera) -> Camera:
        """The camera that projects to network pixels."""
        xp = namespace(camera.P)
        focal_and_centre = self.scale[..., None, None] * camera.P[..., :2, :]
        moved = focal_and_centre + self.shift[..., :, None] * camera.P[..., 2:, :]
        return Camera(xp.concatenate([moved, camera.P[..., 2:, :]], -2))

    def __getitem__(self, index: Any) -> Self:
        """The letterbox of one image, or of each object when indexed by the objects' image index."""
        return self.map(lambda value: value[index])

    def map(self, function: Callable[[Any], Any]) -> Self:
        """The letterbox with `function` applied to each of its numbers; the size stays."""
        changed: dict[str, Any] = {
            field.name: function(getattr(self, field.name)) for field in fields(self) if field.name != "size"
        }
        return replace(self, **changed)

    @staticmethod
    def _expand(value: Any, uv: Any, trailing: int = 0) -> Any:
        """`value` with axes added after its batch axes, so that it broadcasts against the points of `uv`."""
        batch_axes = value.ndim - trailing
        for _ in range(uv.ndim - 1 - batch_axes):
            value = value[..., None] if trailing == 0 else value[..., None, :]
        return value


@dataclass(frozen=True)
class PublishedLetterbox(Letterbox):
    """The letterbox of the original implementation: `apply` scales both axes alike, `invert` each by its own ratio.

    They agree only if the region has the network's aspect ratio: KITTI is up to 1.4 px off, a 16:9 photo over 300 px.

    region: (...) x 2 x 2 [original px], the upper left and lower right corners that `invert` assumes the network sees.
    picture: (...) x 2 [original px], (width, height) of the whole picture; that of the region unless told.
    """

    region: Any
    picture: Any = None

    def __post_init__(self) -> None:
        if self.picture is None:
            object.__setattr__(self, "picture", self.region[..., 1, :] - self.region[..., 0, :])

    @classmethod
    def of_region(
        cls,
        *,
        centre: tuple[float, float],
        extent: tuple[float, float],
        size: tuple[int, int],
        picture: tuple[float, float] | None = None,
    ) -> "PublishedLetterbox":
        """The region of `extent` (width, height) around `centre`, enlarged by the ratio of the widths.

        picture: (width, height) of the whole picture, where the region is not all of it.
        """
        box = Letterbox.crop(centre=centre, scale=size[0] / extent[0], size=size)
        half = np.array(extent, np.float64) / 2
        region = np.stack([np.array(centre) - half, np.array(centre) + half])
        return cls(box.scale, box.shift, size, region, None if picture is None else np.array(picture, np.float64))

    @property
    def crop_scale(self) -> Any:
        """The region's width as a share of the picture's: 1 for the whole picture, less where it is enlarged."""
        return (self.region[..., 1, 0] - self.region[..., 0, 0]) / self.picture[..., 0]

    def invert(self, uv: Any) -> Any:
        """Original pixels of the network pixels ... x 2, read linearly from corner to corner of the region."""
        first = self._expand(self.region[..., 0, :], uv, 1)
        last = self._expand(self.region[..., 1, :], uv, 1)
        xp = namespace(uv)
        return first + uv / xp.asarray(self.size, dtype=uv.dtype, device=uv.device) * (last - first)
