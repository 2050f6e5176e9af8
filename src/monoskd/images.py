"""Reading pictures, with damage named. Pillow is imported when the first picture is read."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import cannot_read, check_regular, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif")

MOST_BYTES = 2**28  # of a picture's file
MOST_PIXELS = 2**27  # phones take 108 million

Mode: TypeAlias = Literal["RGB", "I;16"]  # Pillow's names: 8 bits of red, green and blue; 16 bits of grey

_EXIF_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that swap width and height
_PNG_START, _JPEG_START, _JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_SCAN = b"\xff\xda"  # what follows are the pixels
_PNG_WORDS = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}  # chunks that may hold an orientation
_TAIL = 4096  # [bytes] a JPEG's end is looked for here first
_BLOCK = 2**20  # [bytes] and then from its pixels on, so many at a time
_WITH_PREVIEWS = ("MPO",)  # Pillow's formats of several pictures whose first is the photograph: phones write them
_NOWHERE = logging.NullHandler()
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # grey of more than 8 bits, which Pillow would clip to white


def read_pixels(path: str | Path, *, mode: Mode) -> NDArray[Any]:
    """RGB as H x W x 3 uint8, or a 16-bit grey picture as H x W uint16; turned upright as its EXIF says.

    Raises InputError for what is not a picture, not whole, too large, animated, of several pages, or of another depth
    than `mode`.
    """
    return decode_pixels(read_bytes(path, at_most=MOST_BYTES), mode=mode, where=path)


def decode_pixels(
    data: bytes, *, mode: Mode, where: str | Path, formats: tuple[str, ...] | None = None
) -> NDArray[Any]:
    """As `read_pixels`, of a file's bytes. where: what errors name; formats: Pillow's names of those taken, or all."""
    from PIL import ImageOps

    file = BytesIO(data)
    _check_end(where, file)
    with opened(file, where=where, formats=formats) as image:
        _check_mode(where, image, mode)
        image.load()
        upright = ImageOps.exif_transpose(image)
        return np.array(upright if upright.mode == mode else upright.convert(mode))


def read_image_size(path: str | Path, *, mode: Mode = "RGB") -> tuple[int, int]:
    """(width, height) of the picture that `read_pixels` would return, mostly without decoding it.

    Raises InputError as `read_pixels`, except for damage inside the pixels.
    """
    check_regular(path)
    try:
        with Path(path).open("rb") as file:
            if file.seek(0, 2) > MOST_BYTES:
                read_bytes(path, at_most=MOST_BYTES)  # says so
            words = _check_end(path, file)
            with opened(file, where=path) as image:
                _check_mode(path, image, mode)
                return _upright_size(image) if words else image.size
    except OSError as error:
        raise cannot_read(path, error) from error


def _upright_size(image: "Image") -> tuple[int, int]:
    from PIL import ImageOps

    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation != 1 and image.format == "TIFF":  # Pillow turns these itself, and its size tells so or not
        image.load()
        return ImageOps.exif_transpose(image).size
    return (image.height, image.width) if orientation in _ON_ITS_SIDE else image.size


def _check_mode(path: str | Path, image: "Image", mode: Mode) -> None:
    """Raise for a depth that Pillow would silently cut: 12 bits in 16 become nearly black, 16 bits of grey white."""
    if mode == "I;16":
        if image.mode != mode:
            raise InputError(f"{path}: expected a 16-bit grey PNG, got mode {image.mode}: replace the file")
        return
    tiles: Any = getattr(image, "tile", None)  # how the pixels are stored, where Pillow says so
    codec, raw = (tiles[0][0], str(tiles[0][3])) if tiles else ("", "")
    deep_colour = ";16" in raw or codec.upper() == "SGI16" or (codec == "ppm" and "65535" in raw)
    if image.format == "JPEG2000":  # Pillow does not say how deep it is
        raise InputError(f"{path}: expected a PNG or JPEG, got a JPEG 2000: convert the picture first")
    if image.mode in _DEEP or deep_colour:
        kind = image.mode if image.mode in _DEEP else f"16 bits ({image.mode})"
        raise InputError(f"{path}: expected 8 bits a channel, got mode {kind}: convert the picture first")


@contextmanager
def opened(file: Path | IO[bytes], *, where: str | Path, formats: tuple[str, ...] | None = None) -> Iterator["Image"]:
    """The picture in `file`, whose pixels are not read yet.

    Pillow's errors, now or when the caller reads the pixels, become one line. Raises InputError for too many pixels,
    and for animations and several pages, of which Pillow would give the first.
    """
    from PIL import Image, UnidentifiedImageError

    logging.getLogger("PIL").addHandler(_NOWHERE)  # what is wrong is said in one line
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # sizes at half of what is refused, odd metadata
            with Image.open(file, formats=formats) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                if getattr(image, "is_animated", False) and image.format not in _WITH_PREVIEWS:
                    raise InputError(
                        f"{where}: expected one picture, got an animation or several pages: save the one that is meant "
                        "as PNG or JPEG"
                    )
                yield image
    except (InputError, MemoryError):  # not of the file
        raise
    except UnidentifiedImageError as error:
        kinds = "an image" if formats is None else f"an image ({', '.join(formats)})"
        raise InputError(f"{where}: expected {kinds}, got another kind of file: convert it to JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        most = min(MOST_PIXELS, 2 * (Image.MAX_IMAGE_PIXELS or MOST_PIXELS))
        raise InputError(f"{where}: expected at most {most} pixels, got a larger picture: scale it down") from error
    except Exception as error:  # a decoder says in any of many ways that a file is damaged
        raise InputError(f"{where}: expected a whole image, got a damaged one ({error}): replace the file") from error


def _check_end(path: str | Path, file: IO[bytes]) -> bool:
    """Raise where a PNG or JPEG is cut off, which a decoder may forgive. Returns whether it may hold EXIF.

    What lies behind the end does not matter: phones append videos. Leaves the file at its start.
    """
    file.seek(0)
    start = file.read(8)
    whole, words = True, True
    if start == _PNG_START:
        chunks = _png_chunks(file)
        whole, words = b"IEND" in chunks, bool(chunks & _PNG_WORDS)
    elif start.startswith(_JPEG_START):
        whole = _jpeg_ends(file)
    file.seek(0)
    if not whole:
        raise InputError(f"{path}: expected a whole image, got one without its end: it is cut off, copy it again")
    return words


def _png_chunks(file: IO[bytes]) -> set[bytes]:
    """The names of the chunks up to the end or to where the file is cut off or damaged."""
    size, offset, names = file.seek(0, 2), len(_PNG_START), set()
    while offset + 12 <= size:  # length, name, data, checksum
        file.seek(offset)
        head = file.read(8)
        offset += 12 + int.from_bytes(head[:4], "big")
        if offset > size or not head[4:].isalpha():
            break
        names.add(head[4:])
        if head[4:] == b"IEND":
            break
    return names


def _jpeg_ends(file: IO[bytes]) -> bool:
    """Whether the mark of the end stands behind the start of the pixels, among which it cannot occur."""
    size, offset = file.seek(0, 2), 2
    while offset + 4 <= size:  # a segment: its mark, its length, its data; a thumbnail in it has an end of its own
        file.seek(offset)
        head = file.read(4)
        if head[:2] == _JPEG_SCAN or head[0] != 0xFF:
            break
        offset += 1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:], "big")
    file.seek(max(offset, size - _TAIL))
    if _JPEG_END in file.read():
        return True
    file.seek(offset)
    last = b""
    while block := file.read(_BLOCK):
        if _JPEG_END in last + block:
            return True
        last = block[-1:]
    return False
