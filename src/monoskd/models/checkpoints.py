"""Reading files of tensors that others wrote, without running what they say."""

import hashlib
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

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
_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22  # its last two bytes are the length of the comment


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """The dictionary in a PyTorch checkpoint or a safetensors file.

    A pickle that asks for anything but tensors and plain data is refused. Raises InputError, also for what is damaged.
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


def sealed(content: bytes) -> bytes:
    """A checkpoint as `torch.save` writes it, with its checksum at the end; torch reads it as before."""
    content = content[:-2] + struct.pack("<H", _SEAL_BYTES)
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def check_seal(path: Path) -> None:
    """Raise InputError where a checkpoint of ours is not, bit by bit, what was written.

    Those of earlier versions have no seal: they end with the archive itself, and its own checksums are compared.
    """
    content = path.read_bytes()
    if content[-_SEAL_BYTES : len(_SEAL) - _SEAL_BYTES] == _SEAL:
        whole = hashlib.sha256(content[:-_SEAL_BYTES]).hexdigest().encode() == content[-64:]
    else:
        whole = content[-_ZIP_END_BYTES:].startswith(_ZIP_END) and _members_are_whole(path)
    if not whole:
        raise InputError(
            f"{path}: expected a PyTorch checkpoint as it was written, got a damaged file: its checksum differs; "
            "restore it from a copy, or train anew in another `--out`"
        )


def _members_are_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError):
        return False
