"""Reading files of tensors that others wrote, without running what they say."""

import hashlib
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from monoskd.errors import InputError

# What torch.load raises for files that are damaged; the first also for pickles that ask for more than tensors.
_DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)

# A sealed checkpoint ends with a comment of the zip archive: the SHA-256 of all bytes before it.
_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64
_CHUNK_BYTES = 2**20
_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22  # its last two bytes are the length of the comment


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """The dictionary in a PyTorch checkpoint or a safetensors file.

    A pickle that asks for anything but tensors, plain data and NumPy's numbers (as plain ones) is refused. Raises
    InputError, also for what is damaged.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path}: expected a PyTorch checkpoint, got {'a folder' if path.is_dir() else 'no file'}")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: expected a safetensors file, got a damaged one: {error}") from error
    with path.open("rb") as file:
        is_checkpoint = zipfile.is_zipfile(path) or file.read(2) == b"\x80\x02"
    if not is_checkpoint:
        raise InputError(
            f"{path}: expected a PyTorch checkpoint, got another format or a damaged file; download it again"
        )
    try:
        with torch.serialization.safe_globals(_OF_NUMPY):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise InputError(
                f"{path}: expected tensors and plain data, got a pickle that asks for {wanted[1]}; refused, nothing of "
                "it was run"
            ) from error
        raise InputError(f"{path}: expected a PyTorch checkpoint, got a damaged one; download it again") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: expected a dictionary of tensors by name, got {type(checkpoint).__name__}")
    return checkpoint


class _NumberType:
    """Stands for `numpy.dtype` in a pickle: the kind, size and byte order of a number."""

    def __init__(self, code: str, *options: bool) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {"|": "="}.get(state[1], state[1])


def _number(kind: _NumberType, content: bytes) -> bool | int | float:
    """Stands for NumPy's `scalar` in a pickle: the plain number, such as the best result of a training."""
    if not re.fullmatch("b1|[iuf][1248]", kind.code):
        raise pickle.UnpicklingError(f"GLOBAL numpy.{kind.code}")  # as torch.load says it
    (number,) = np.frombuffer(content, np.dtype(kind.order + kind.code)).tolist()
    plain: bool | int | float = number
    return plain


# By the names in a pickle, which torch.load looks up: the second is that of NumPy before 2.
_OF_NUMPY: list[Any] = [
    (_NumberType, "numpy.dtype"),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
]


def sealed(content: bytes) -> bytes:
    """A checkpoint as `torch.save` writes it, with its checksum at the end; torch reads it as before."""
    content = content[:-2] + struct.pack("<H", _SEAL_BYTES)
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def check_seal(path: Path) -> None:
    """Raise InputError where a checkpoint of ours is not, bit by bit, what was written.

    Those of earlier versions have no seal: they end with the archive itself, which announces no comment, and its own
    checksums are compared.
    """
    with path.open("rb") as file:
        sealed_bytes = max(file.seek(0, os.SEEK_END) - _SEAL_BYTES, 0)
        file.seek(sealed_bytes)
        end = file.read()
        if end.startswith(_SEAL):
            whole = _SEAL + _digest(file, sealed_bytes).encode() == end
        else:
            end = end[-_ZIP_END_BYTES:]
            whole = end.startswith(_ZIP_END) and end.endswith(b"\0\0") and _members_are_whole(path)
    if not whole:
        raise InputError(
            f"{path}: expected a PyTorch checkpoint as it was written, got a damaged file: its checksum differs; "
            "restore it from a copy, or train anew in another `--out`"
        )


def _digest(file: BinaryIO, size: int) -> str:
    """The SHA-256 of the first `size` bytes, read piece by piece."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(min(size, _CHUNK_BYTES)):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _members_are_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError):
        return False
