"""Reading and writing files: errors that name the file, and writes that are whole or do not happen."""

import errno
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from monoskd.errors import InputError

MOST_TEXT_BYTES = 64 * 2**20  # of a text file; all 7481 KITTI labels together have 4 MiB
MOST_BYTES = 2**30  # of any other file that is read into memory

LARGEST_NUMBER = 1e9  # in a text file, whatever its unit; a larger one is damage. Scores may be any finite number

_PARTIAL = ".partial"
_MOST_DIGITS = 18  # of a number that fits into 64 bits
_BYTE_ORDER_MARKS = {  # the longer first: one begins as another
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Errors of a full disk: no room, the largest file that is allowed, a quota."""


def read_bytes(path: str | Path, *, at_most: int = MOST_BYTES) -> bytes:
    """The file's bytes. Raises InputError where it is missing, cannot be read or is larger than `at_most` bytes."""
    check_regular(path)
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(at_most + 1) if size <= at_most else b""
    except OSError as error:
        raise cannot_read(path, error) from error
    if max(size, len(data)) > at_most:
        raise InputError(
            f"{path}: expected a file of at most {at_most / 2**20:g} MiB, got {max(size, len(data)) / 2**20:.0f} MiB: "
            "check that it is the right file"
        )
    return data


def cannot_read(path: str | Path, error: OSError) -> InputError:
    """The one line about an error while reading."""
    got, advice = f"'{error.strerror or error}'", "check the path"
    if error.errno == errno.ENOENT and Path(path).is_symlink():
        got, advice = f"a broken symlink to {Path(path).readlink()}", "put the file there, or link it again"
    return InputError(f"{path}: expected a readable file, got {got}: {advice}")


def check_regular(path: str | Path) -> None:
    """Raise InputError for a pipe or device among files, which may never end; who names one in /dev means it."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError:  # reading it says what is wrong
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.is_relative_to("/dev")):
        raise InputError(f"{path}: expected a file, got a device or pipe: remove it or check the path")


def read_text(path: str | Path, *, at_most: int = MOST_TEXT_BYTES) -> str:
    r"""The file's text: UTF-8, with or without a byte order mark, whatever the locale; all line ends become "\n".

    Raises InputError where it is missing, cannot be read, is too large or is not UTF-8.
    """
    data = read_bytes(path, at_most=at_most)
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise InputError(f"{path}: expected UTF-8 text, got {encoding}: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, got other bytes at offset {error.start}: save it as UTF-8 or replace it"
        ) from error
    if "\0" in text:
        raise InputError(f"{path}: expected UTF-8 text, got zero bytes: save it as UTF-8, or copy a damaged file again")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_json(path: str | Path, *, at_most: int = MOST_TEXT_BYTES) -> Any:
    """The document in a JSON file. Raises InputError as `read_text`, and for what is not JSON."""
    try:
        return json.loads(read_text(path, at_most=at_most))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: expected JSON, got something else ({error}): replace the file") from error


class _EachKeyOnce(yaml.SafeLoader):
    """YAML as `safe_load` reads it, except that a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a second key of the same name."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} more than once, again"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The document in YAML that people write: each key once, nothing but plain data. Raises yaml.YAMLError."""
    return yaml.load(text, _EachKeyOnce)


def as_number(word: str) -> float:
    """The number that a word is; NaN for one that is none. Python alone takes `1_0` for 10, and any script's digits."""
    try:
        return float(word) if word.isascii() and "_" not in word else math.nan
    except ValueError:
        return math.nan


def finite_number(word: str, *, where: str, largest: float = LARGEST_NUMBER) -> float:
    """As `as_number`. Raises InputError, which calls the place `where`, for a word that is none or is larger."""
    value = as_number(word)
    if not abs(value) <= largest:
        raise InputError(f"{where}: expected a finite number, got '{word[:40]}': correct or remove the line")
    return value


def is_whole_number(word: str) -> bool:
    """Whether a word consists of the digits 0 to 9, at most 18 of them."""
    return word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS


def visible(paths: Iterable[Path]) -> list[Path]:
    """The paths, sorted, without hidden files: macOS leaves a `._name` beside each file on a foreign disk."""
    return sorted(path for path in paths if not path.name.startswith("."))


def is_there(path: Path) -> bool:
    """Whether the path exists. True also for a broken symlink: reading it then says what is wrong."""
    return os.path.lexists(path)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all; see `atomic_path`."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8 with the line ends that it has, whole or not at all; see `atomic_path`."""
    write_atomically(path, text.encode())


def write_json(path: str | Path, document: Any) -> None:
    """Write a JSON document, whole or not at all; see `atomic_path`."""
    write_text(path, json.dumps(document, indent=1) + "\n")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; on success it takes the place of `path`, on an error it is removed.

    So no reader and no interruption ever sees half of a file. Makes the folder if there is none; writes through a
    symlink. Raises InputError where nothing can be written, and where `path` is not a regular file.
    """
    path = Path(os.path.realpath(path))
    # A name of its own, not one made from `path.name`, which may be as long as the file system allows.
    partial = path.with_name(f".{secrets.token_hex(8)}{_PARTIAL}")
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: expected to write here, got a device or pipe: choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def link(path: Path, target: Path) -> None:
    """Make `path` a symlink to `target`; a symlink that points elsewhere is replaced.

    Raises InputError where a file or folder has that name already.
    """
    try:
        if path.is_symlink():
            if path.readlink() == target:
                return
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    except OSError as error:
        raise InputError(f"{path}: expected to link {target} here, got '{error.strerror}': remove it") from error


def cannot_write(path: str | Path, error: OSError) -> InputError:
    """The one line about an error while writing."""
    advice = "choose a writable folder"
    if error.errno in NO_SPACE:
        advice = "free some space; the file that was there before is unchanged"
    elif error.errno == errno.ENAMETOOLONG:
        advice = "choose a shorter name"
    return InputError(f"{path}: expected to write here, got '{error.strerror or error}': {advice}")


def remove_partial_files(folder: str | Path, *, older_than_s: float = 0) -> None:
    """Remove what killed processes left of `atomic_path` in a folder; by default all of it, so only in one's own."""
    latest = time.time() - older_than_s
    for path in Path(folder).glob(f".*{_PARTIAL}"):
        try:
            if path.stat().st_mtime <= latest:
                path.unlink()
        except OSError:  # another process was faster, or may not be disturbed
            continue


def check_writable(folder: str | Path, *, named: str | Path | None = None) -> None:
    """Say before the work, not after it, that nothing can be written into a folder. Changes nothing.

    named: what the error names instead of the folder. Raises InputError where the folder is a file or leads through
    one, and where a permission is missing.
    """
    folder = Path(folder)
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    fault = errno.ENOTDIR if not nearest.is_dir() else 0 if os.access(nearest, os.W_OK) else errno.EACCES
    if fault:
        raise cannot_write(folder if named is None else named, OSError(fault, os.strerror(fault)))


def check_output(path: str | Path, *, suffix: str) -> None:
    """As `check_report`, for a file whose name must have the suffix."""
    path = Path(path)
    check_report(path, suffix=suffix)
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: expected a name that ends in {suffix}, got {path.name}: change it")


def check_report(path: str | Path, *, suffix: str) -> None:
    """As `check_writable`, for a file: it must be new, or have the suffix of reports of its kind."""
    path = Path(path)
    check_writable(path.parent, named=path)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long
        raise cannot_write(path, error) from error
    if is_folder:
        raise InputError(f"{path}: expected to write here, got '{os.strerror(errno.EISDIR)}': choose another name")
    if is_there(path) and path.suffix.lower() != suffix:
        raise InputError(f"{path}: expected a new file or a {suffix} to replace, got another: choose another name")
