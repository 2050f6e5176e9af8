"""Whether train and val share recordings, judged by their pictures."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.kitti.io import read_image
from monoskd.kitti.layout import KittiLayout

_FRAMES = 60  # validation frames that are compared, spread over the split
_THUMBNAIL = (64, 20)  # width, height [px]

# Correlation of two thumbnails. In KITTI's drives frames 0.2 s apart have a median of 0.86; of 25 000 pairs from
# different drives the largest is 0.70, and two random frames of the object benchmark seldom reach 0.8.
_ALIKE = 0.8
_LEAST_SHARE, _LEAST_PAIRS = 0.1, 2


def neighbours(layout: KittiLayout, train: Sequence[str], val: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (validation frame, train frame) that look like two moments of one recording; none if there are few.

    Recordings are numbered in order. So a validation frame is compared with the train frame before and the one after it
    in the order of names.
    """
    training = sorted(set(train) - set(val))
    if not training or not val:
        return []
    chosen = spread(sorted(val), at_most=_FRAMES)
    thumbnails: dict[str, NDArray[np.float64] | None] = {}
    pairs = []
    for frame in chosen:
        after = int(np.searchsorted(np.array(training), frame))
        for other in training[max(after - 1, 0) : after + 1]:
            for name in {frame, other} - thumbnails.keys():
                thumbnails[name] = _thumbnail(layout, name)
            first, second = thumbnails[frame], thumbnails[other]
            if first is not None and second is not None and float((first * second).sum()) > _ALIKE:
                pairs.append((frame, other))
                break
    return pairs if len(pairs) >= max(_LEAST_PAIRS, _LEAST_SHARE * len(chosen)) else []


def spread(frames: Sequence[str], *, at_most: int) -> list[str]:
    """Some of the frames, spread evenly over all of them."""
    positions = np.linspace(0, max(len(frames) - 1, 0), min(len(frames), at_most)).round().astype(int)
    return [frames[position] for position in np.unique(positions)]


def _thumbnail(layout: KittiLayout, frame: str) -> NDArray[np.float64] | None:
    """Luma of mean 0 and norm 1; None for a picture that cannot be read or is of one colour."""
    try:
        grey = cv2.cvtColor(read_image(layout.image(frame)), cv2.COLOR_RGB2GRAY)
    except InputError:
        return None
    small = cv2.resize(grey, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float64)
    small -= small.mean()
    norm = float(np.linalg.norm(small))
    return small / norm if norm > 0 else None
