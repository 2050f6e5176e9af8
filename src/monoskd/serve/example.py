"""The example: a street that the library renders itself."""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image

from monoskd.synthetic.frame import render_frame

SEED, INDEX, SIZE = 3, 1, (1242, 375)


@dataclass(frozen=True)
class Example:
    """A picture as a JPEG file, and the 3 x 4 projection of its camera, row by row."""

    jpeg: bytes
    projection: tuple[float, ...]


@lru_cache(maxsize=1)
def example() -> Example:
    """Rendered at the first call, in about two seconds."""
    frame = render_frame(SEED, INDEX, SIZE)
    file = BytesIO()
    Image.fromarray(frame.image).save(file, "JPEG", quality=92)
    return Example(file.getvalue(), tuple(np.asarray(frame.calibration.camera.P).ravel().tolist()))
