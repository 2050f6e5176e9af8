"""Lines, areas and text on RGB pixels, and their colours. Positions in pixels, [0, W] x [0, H]."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from monoskd.frames import Pixels

Colour: TypeAlias = tuple[int, int, int]

CLASS_COLOURS: dict[str, Colour] = {
    "Car": (74, 195, 255),
    "Pedestrian": (255, 122, 92),
    "Cyclist": (255, 209, 64),
    "Van": (72, 214, 172),
    "Truck": (186, 140, 255),
}
OTHER_COLOUR: Colour = (176, 184, 196)
TRUTH_COLOUR: Colour = (255, 255, 255)
TEACHER_COLOUR: Colour = (255, 92, 214)
INK: Colour = (16, 20, 27)

_FRACTION_BITS = 4
_FURTHEST = 2**30  # the largest position that OpenCV's integers hold
_MOVES = 3  # how often a word moves up to a free position before it is left out


def class_colour(name: str) -> Colour:
    """The colour of a class; grey for other classes."""
    return CLASS_COLOURS.get(name, OTHER_COLOUR)


def _fixed(points: NDArray[Any]) -> NDArray[np.int32]:
    """Positions as OpenCV wants them: its integers are the pixels' centres, here with 4 fractional bits."""
    scaled = np.clip((points - 0.5) * 2**_FRACTION_BITS, -_FURTHEST, _FURTHEST)
    fixed: NDArray[np.int32] = np.rint(scaled).astype(np.int32)
    return fixed


def stroke(image: Pixels, lines: Iterable[NDArray[Any]], colour: Colour, *, width: int, closed: bool = False) -> None:
    """Draw polylines (k x 2 each) onto `image`."""
    points = [_fixed(line) for line in lines if len(line) > 1]
    cv2.polylines(image, points, closed, colour, width, cv2.LINE_AA, _FRACTION_BITS)


def fill(image: Pixels, polygon: NDArray[Any], colour: Colour, *, opacity: float) -> None:
    """Blend a convex polygon (k x 2) into `image`."""
    if len(polygon) < 3:
        return
    extent = np.array([image.shape[1], image.shape[0]])
    first = np.clip(np.floor(polygon.min(0)) - 1, 0, extent).astype(int)
    last = np.clip(np.ceil(polygon.max(0)) + 1, 0, extent).astype(int)
    if (first >= last).any():
        return
    window = image[first[1] : last[1], first[0] : last[0]]
    layer = window.copy()
    cv2.fillConvexPoly(layer, _fixed(polygon - first), colour, cv2.LINE_AA, _FRACTION_BITS)
    cv2.addWeighted(layer, opacity, window, 1 - opacity, 0, dst=layer)
    window[...] = layer


def clip_planes(*, width: float, height: float, near: float) -> NDArray[np.float64]:
    """5 x 4: planes that bound an image and a margin of its size, for homogeneous pixels (u w, v w, w, 1)."""
    return np.array(
        [
            [0, 0, 1, -near],
            [1, 0, width, 0],
            [-1, 0, 2 * width, 0],
            [0, 1, height, 0],
            [0, -1, 2 * height, 0],
        ],
        np.float64,
    )


def visible_segments(segments: NDArray[Any], planes: NDArray[Any]) -> NDArray[np.float64]:
    """The parts of n segments (n x 2 x 3, homogeneous pixels) inside all planes: m x 2 x 2 pixels."""
    start, end = segments[:, 0], segments[:, 1]
    inside_start, inside_end = (points @ planes[:, :3].T + planes[:, 3] for points in (start, end))
    crossing = np.divide(
        inside_start,
        inside_start - inside_end,
        out=np.zeros_like(inside_start),
        where=(inside_start < 0) != (inside_end < 0),
    )
    first = np.where(inside_start < 0, crossing, 0).max(1)
    last = np.where(inside_end < 0, crossing, 1).min(1)
    seen = (first < last) & ~((inside_start < 0) & (inside_end < 0)).any(1)
    ends = np.stack([start + share[:, None] * (end - start) for share in (first, last)], 1)[seen]
    pixels: NDArray[np.float64] = ends[..., :2] / ends[..., 2:]
    return pixels


def visible_polygon(corners: NDArray[Any], planes: NDArray[Any]) -> NDArray[np.float64]:
    """The part of a convex polygon (homogeneous pixels, k x 3) inside all planes: pixels, possibly none."""
    for plane in planes:
        inside = corners @ plane[:3] + plane[3]
        kept = []
        for i, (distance, following) in enumerate(zip(inside, np.roll(inside, -1), strict=True)):
            if distance >= 0:
                kept.append(corners[i])
            if (distance < 0) != (following < 0):
                kept.append(
                    corners[i] + distance / (distance - following) * (corners[(i + 1) % len(corners)] - corners[i])
                )
        if not kept:
            return np.zeros((0, 2))
        corners = np.array(kept)
    pixels: NDArray[np.float64] = corners[:, :2] / corners[:, 2:]
    return pixels


@dataclass(frozen=True)
class Word:
    """Text on a coloured rectangle, the chip, whose lower left corner is `at`; no rectangle where `chip` is None."""

    text: str
    at: tuple[float, float]
    ink: Colour = INK
    chip: Colour | None = None


def write(image: Pixels, words: Sequence[Word], *, height: int) -> Pixels:
    """`image` with words of `height` pixels; a word that would cover an earlier one moves up, or is left out."""
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    font = _font(height)
    pad = max(2, round(0.28 * height))
    taken: list[tuple[float, float, float, float]] = []
    for word in words:
        wide, high = pen.textlength(word.text, font) + 2 * pad, height + pad
        left = min(max(word.at[0], 0), image.shape[1] - wide)
        bottom = max(word.at[1], high)
        for _ in range(_MOVES):
            if not any(_overlap((left, bottom - high, left + wide, bottom), other) for other in taken):
                break
            bottom -= high + 1
        else:
            continue
        if bottom < high:
            continue
        box = (left, bottom - high, left + wide, bottom)
        taken.append(box)
        if word.chip is not None:
            pen.rounded_rectangle(box, radius=0.25 * height, fill=word.chip)
        pen.text((left + pad, bottom - high / 2), word.text, fill=word.ink, font=font, anchor="lm")
    return np.array(picture)


@lru_cache(maxsize=8)
def _font(height: int) -> Any:
    return ImageFont.load_default(size=height)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
