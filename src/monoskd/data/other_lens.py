"""A frame as another lens would have taken it, brought back to this one's scale: an augmentation.

That is how prediction brings pictures of other cameras to a network (`--fit focal`, docs/focal.md): objects look as
large as in training, with less detail after a wider lens, and with less of the street around them after a longer one.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monoskd.frames import MEAN_COLOUR, Frame, Pixels
from monoskd.objects import Objects


def through_lens(frame: Frame, lens: float) -> Frame:
    """The frame through a lens whose focal length is `lens` times this one's; size and camera stay.

    Below 1: the picture loses the detail that pixels 1 / lens times as large have not. Above 1: outside the middle
    1 / lens of width and height there are the mean colour, no depth and no objects; objects on the border are cut.
    """
    if lens < 1:
        return replace(frame, image=_coarse(frame.image, lens))
    if lens > 1:
        return _windowed(frame, lens)
    return frame


def _coarse(image: Pixels, lens: float) -> Pixels:
    height, width = image.shape[:2]
    small = (max(round(lens * width), 1), max(round(lens * height), 1))
    picture = Image.fromarray(np.ascontiguousarray(image))
    for size in (small, (width, height)):
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.array(picture)


def _windowed(frame: Frame, lens: float) -> Frame:
    size = np.array(frame.size)
    first, last = (np.round(size * (0.5 + sign / (2 * lens))).astype(int) for sign in (-1, 1))
    window = (slice(first[1], last[1]), slice(first[0], last[0]))

    def only(pixels: NDArray[Any], outside: Any) -> NDArray[Any]:
        kept = np.full_like(pixels, outside)
        kept[window] = pixels[window]
        return kept

    return replace(
        frame,
        image=only(frame.image, MEAN_COLOUR),
        depth_m=None if frame.depth_m is None else only(frame.depth_m, 0),
        objects=None if frame.objects is None else _cut(frame.objects, np.concatenate([first, last])),
    )


def _cut(objects: Objects, window: NDArray[np.int64]) -> Objects:
    """The objects in a window (left, top, right, bottom) [px], their 2D boxes cut; truncation says how much is gone."""
    boxes = np.concatenate(
        [np.maximum(objects.boxes_2d[:, :2], window[:2]), np.minimum(objects.boxes_2d[:, 2:], window[2:])], 1
    )
    there = (boxes[:, :2] < boxes[:, 2:]).all(1)
    objects, boxes = objects[there], boxes[there]
    left = _area(boxes) / _area(objects.boxes_2d)
    known = objects.truncation >= 0
    truncation = np.where(known, 1 - (1 - objects.truncation) * left, objects.truncation)
    return replace(objects, boxes_2d=boxes, truncation=truncation)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], 1))
