"""The radius of an object's peak on a heat map."""

from typing import Any

from monoskd.geometry.arrays import namespace

MIN_OVERLAP = 0.7


def gaussian_radius(width: Any, height: Any) -> Any:
    """The radius around a box's centre within which a shifted box still counts as a hit, as CenterNet computes it.

    CornerNet takes the largest shift of the corners that keeps an overlap of 0.7: the smallest root of three
    quadratics. Later implementations divide each root by 2 instead of 2a. Of these three,

        r = (-b + sqrt(b^2 + 4 * 4o * (1 - o) w h)) / 2,    b = 2 o (w + h),    o = 0.7

    is always the smallest: it is at most 0.14 (w + h), the others at least (w + h) / 2. It is about three times
    CornerNet's radius. Every detector of this family was trained with it.

    width, height: numpy or torch, in cells. Returns cells.
    """
    b = 2 * MIN_OVERLAP * (width + height)
    return (namespace(width).sqrt(b**2 + 16 * MIN_OVERLAP * (1 - MIN_OVERLAP) * width * height) - b) / 2
