"""Whether a video file is cut off: what its container says about its own length, whatever the codec."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_MOST_PARTS = 1_000_000  # of one file
_MATROSKA, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675  # EBML identifiers


def is_cut_off(video: Path) -> bool:
    """Whether a part that holds pictures ends behind the end of the file. False for containers that do not say.

    Known are AVI (RIFF), MP4 and MOV (boxes), Matroska and WebM (EBML).
    """
    with video.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(12)
        if start[:4] == b"RIFF":
            ends = _riff(file, size)
        elif start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            ends = _boxes(file, size)
        elif int.from_bytes(start[:4], "big") == _MATROSKA:
            ends = _ebml(file, size)
        else:
            return False
        return any(end > size for _, end in zip(range(_MOST_PARTS), ends, strict=False))


def _riff(file: IO[bytes], size: int) -> Iterator[int]:
    """The ends of the lists of frames; files beyond 1 GiB have several, each in a RIFF of its own."""
    offset = 0
    while offset + 12 <= size:
        file.seek(offset)
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] == b"RIFF":
            offset += 12
            continue
        if head[:4] == b"LIST" and head[8:] == b"movi":
            yield offset + 8 + length
        offset += 8 + length + length % 2


def _boxes(file: IO[bytes], size: int) -> Iterator[int]:
    """The ends of the boxes of media data."""
    offset = 0
    while offset + 8 <= size:
        file.seek(offset)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # up to the end of the file, or damaged
            return
        if head[4:8] == b"mdat":
            yield offset + length
        offset += length


def _ebml(file: IO[bytes], size: int) -> Iterator[int]:
    """The ends of the clusters, and nothing once a length is unknown, as of a live recording."""
    offset = 0
    while offset < size:
        file.seek(offset)
        head = file.read(12)
        wide = _width(head[0])
        identifier, rest = int.from_bytes(head[:wide], "big"), head[wide:]
        if not (wide and rest):
            return
        many = _width(rest[0])
        length = int.from_bytes(rest[:many], "big") & ((1 << 7 * many) - 1)
        offset += wide + many
        if identifier == _SEGMENT:
            continue
        if not many or length == (1 << 7 * many) - 1:
            return
        offset += length
        if identifier == _CLUSTER:
            yield offset


def _width(first: int) -> int:
    """How many bytes a number of variable length has, from the first of them; 0 for none."""
    return 9 - first.bit_length() if first else 0
