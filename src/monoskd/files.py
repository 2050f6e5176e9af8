"""Bytes in and out: errors that name the file, and writes that are whole or not at all."""

import errno
import os
from pathlib import Path

from monoskd.errors import InputError


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes. Raises InputError where it is missing or cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got '{error.strerror}': check the path") from error


def read_text(path: str | Path) -> str:
    """The file's text, UTF-8. Raises InputError where it is missing, cannot be read or is not text."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected text, got bytes that are none at offset {error.start}: replace it"
        ) from error


def is_there(path: Path) -> bool:
    """Whether something lies there, be it a link that leads nowhere: whoever reads it will be told."""
    return path.is_symlink() or path.exists()


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write beside the file, then move into place, so that no reader and no interruption ever sees half of it.

    Makes the folder if there is none; writes through a link. Raises InputError where nothing can be written, and where
    something lies that is no regular file.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: expected to write here, got a device or pipe: choose another name")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: expected to write here, got '{error.strerror}': choose a writable folder") from error


def check_writable(folder: str | Path, *, named: str | Path | None = None) -> None:
    """Say before the work, and not after it, that nothing can be written into a folder. Changes nothing.

    Raises InputError where it is a file or leads through one, and where a permission is missing. named: what the error
    is to name instead.
    """
    folder = Path(folder)
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.access(place, os.F_OK))
    fault = errno.ENOTDIR if not nearest.is_dir() else 0 if os.access(nearest, os.W_OK) else errno.EACCES
    if fault:
        where = folder if named is None else named
        raise InputError(f"{where}: expected to write here, got '{os.strerror(fault)}': choose a writable folder")


def check_report(path: str | Path, *, suffix: str) -> None:
    """As `check_writable`, for a file that is to be made: it must be new, or end as reports of its kind do."""
    path = Path(path)
    check_writable(path.parent, named=path)
    if path.is_dir():
        raise InputError(f"{path}: expected to write here, got '{os.strerror(errno.EISDIR)}': choose another name")
    if is_there(path) and path.suffix.lower() != suffix:
        raise InputError(f"{path}: expected a new file or a {suffix} to replace, got another: choose another name")
