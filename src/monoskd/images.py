"""Pictures out of files, with damage named. Pillow is imported when the first one is read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

_TURNED_FORMAT = "JPEG"  # what cameras write; asking a PNG for its EXIF decodes the whole picture
_EXIF_ORIENTATION = 0x0112
_ON_ITS_SIDE = 5  # orientations from here on swap width and height
_ENDS = {b"\x89PNG": b"IEND\xaeB\x60\x82", b"\xff\xd8\xff": b"\xff\xd9"}  # first bytes of PNG and JPEG to their last
_END_WITHIN = 4096  # [bytes] some writers append a little after the end
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L")  # grey of more than 8 bits, which Pillow would clip to white


def read_pixels(path: str | Path, *, mode: Literal["RGB", "I;16"]) -> NDArray[Any]:
    """RGB as H x W x 3 uint8, a JPEG turned upright as its EXIF says; a 16-bit grey picture as H x W uint16."""
    from PIL import ImageOps

    data = read_bytes(path)
    _check_end(path, start=data[:4], end=data[-_END_WITHIN:])
    with _opened(path, BytesIO(data)) as image:
        if mode == "I;16" and image.mode != mode:
            raise InputError(f"{path}: expected a 16-bit grey PNG, got mode {image.mode}: replace the file")
        if mode == "RGB" and image.mode in _DEEP:
            raise InputError(f"{path}: expected 8 bits a channel, got mode {image.mode}: convert the picture first")
        upright = ImageOps.exif_transpose(image) if image.format == _TURNED_FORMAT else image
        return np.array(upright if upright.mode == mode else upright.convert(mode))


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the picture that `read_pixels` would return, from the file's first and last bytes alone."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(4)
            length = file.seek(0, 2)
            file.seek(max(0, length - _END_WITHIN))
            _check_end(path, start=start, end=file.read())
            with _opened(path, file) as image:
                turned = image.format == _TURNED_FORMAT
                on_its_side = turned and image.getexif().get(_EXIF_ORIENTATION, 1) >= _ON_ITS_SIDE
                return (image.height, image.width) if on_its_side else image.size
    except OSError as error:
        raise InputError(f"{path}: expected a readable image, got '{error.strerror or error}': check it") from error


@contextmanager
def _opened(path: str | Path, file: IO[bytes]) -> Iterator["Image"]:
    """The picture in `file`. What Pillow says, now or when the caller reads the pixels, becomes one line."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # at half of what is refused
            with Image.open(file) as image:
                yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: expected an image, got bytes that are none: replace the file") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"{path}: expected at most {most} pixels, got a larger picture: scale it down") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: expected a whole image, got a damaged one ({error}): replace the file") from error


def _check_end(path: str | Path, *, start: bytes, end: bytes) -> None:
    """A decoder may forgive a missing end; whoever copied half a data set wants to know."""
    for first, last in _ENDS.items():
        if start.startswith(first) and last not in end:
            raise InputError(f"{path}: expected a whole image, got one without its end: it is cut off, copy it again")
