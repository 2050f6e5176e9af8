"""Reading files of tensors that others wrote, without running what they say."""

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
