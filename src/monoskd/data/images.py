"""Pictures out of files, with damage named. Pillow is imported when the first one is read."""

from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monoskd.data.files import read_bytes
from monoskd.errors import InputError

_TURNED_FORMAT = "JPEG"  # what cameras write; asking a PNG for its EXIF decodes the whole picture
_EXIF_ORIENTATION = 0x0112
_ON_ITS_SIDE = 5  # orientations from here on swap width and height
_ENDS = {b"\x89PNG": b"IEND\xaeB\x60\x82", b"\xff\xd8\xff": b"\xff\xd9"}  # first bytes of PNG and JPEG to their last
_END_WITHIN = 4096  # [bytes] some writers append a little after the end


_DEEP = ("I", "F", "I;16", "I;16B", "I;16L")  # grey of more than 8 bits, which Pillow would clip to white


def read_pixels(path: str | Path, *, mode: Literal["RGB", "I;16"]) -> NDArray[Any]:
    """RGB as H x W x 3 uint8, a JPEG turned upright as its EXIF says; a 16-bit grey picture as H x W uint16."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    data = read_bytes(path)
    _check_end(path, start=data[:4], end=data[-_END_WITHIN:])
    try:
        with Image.open(BytesIO(data)) as image:
            if mode == "I;16" and image.mode != mode:
                raise InputError(f"{path}: expected a 16-bit grey PNG, got mode {image.mode}: replace the file")
            if mode == "RGB" and image.mode in _DEEP:
                raise InputError(f"{path}: expected 8 bits a channel, got mode {image.mode}: convert the picture first")
            upright = ImageOps.exif_transpose(image) if image.format == _TURNED_FORMAT else image
            return np.array(upright if upright.mode == mode else upright.convert(mode))
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: expected an image, got {len(data)} bytes that are none: replace the file") from error
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path}: expected a whole image, got a damaged one ({error}): replace the file") from error


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the picture that `read_pixels` would return, from the file's first and last bytes alone."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Path(path).open("rb") as file:
            start = file.read(4)
            length = file.seek(0, 2)
            file.seek(max(0, length - _END_WITHIN))
            _check_end(path, start=start, end=file.read())
            with Image.open(file) as image:
                turned = image.format == _TURNED_FORMAT
                on_its_side = turned and image.getexif().get(_EXIF_ORIENTATION, 1) >= _ON_ITS_SIDE
                return (image.height, image.width) if on_its_side else image.size
    except (UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{path}: expected an image, got something else: replace the file") from error
    except OSError as error:
        raise InputError(f"{path}: expected a readable image, got '{error.strerror or error}': check it") from error


def _check_end(path: str | Path, *, start: bytes, end: bytes) -> None:
    """A decoder may forgive a missing end; whoever copied half a data set wants to know."""
    for first, last in _ENDS.items():
        if start.startswith(first) and last not in end:
            raise InputError(f"{path}: expected a whole image, got one without its end: it is cut off, copy it again")
