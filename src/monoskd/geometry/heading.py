"""Yaw and observation angle, and an angle as a bin and a residual. Angles in radians.

Yaw `ry` turns about +y (down): 0 faces +x, -pi/2 faces away from the camera. The observation angle `alpha` is the yaw
seen along the object's viewing ray, which is what a picture of the object shows.
"""

import math
from typing import Any

from monoskd.geometry.arrays import namespace
from monoskd.geometry.camera import Camera

BINS = 12
BIN_WIDTH = 2 * math.pi / BINS


def wrap(angle: Any) -> Any:
    """`angle` moved by whole turns into [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def alpha_from_yaw(yaw: Any, *, u: Any, camera: Camera) -> Any:
    """alpha = ry - atan2(u - cu, fu), wrapped. u: a column [px] of the object, such as its 2D box's centre."""
    return wrap(yaw - _ray_angle(u, camera))


def yaw_from_alpha(alpha: Any, *, u: Any, camera: Camera) -> Any:
    """ry = alpha + atan2(u - cu, fu), wrapped: the inverse of `alpha_from_yaw`."""
    return wrap(alpha + _ray_angle(u, camera))


def encode_heading(alpha: Any) -> tuple[Any, Any]:
    """The nearest of 12 bins centred on multiples of 30 degrees, and the residual in [-pi/12, pi/12)."""
    turned = (alpha + BIN_WIDTH / 2) % (2 * math.pi)
    index = namespace(alpha).floor(turned / BIN_WIDTH) % BINS
    return index, wrap(alpha - index * BIN_WIDTH)


def decode_heading(index: Any, residual: Any) -> Any:
    """The angle of a bin and its residual, wrapped: the inverse of `encode_heading`."""
    return wrap(index * BIN_WIDTH + residual)


def _ray_angle(u: Any, camera: Camera) -> Any:
    xp = namespace(camera.P)
    return xp.arctan2(u - camera.centre_u, camera.focal_px + 0 * u)
