"""The output of a command: results on stdout, progress and errors on stderr."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from monoskd.errors import InputError

USAGE_ERROR, BROKEN_PIPE = 2, 141
"""Exit codes; the second is what a shell reports for a command that SIGPIPE ends."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed


def use_utf8_names() -> None:
    """Start this process anew in Python's UTF-8 mode where the locale encodes the names of files otherwise.

    Configs and splits are UTF-8, and so are the names in them. The output keeps the locale's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1" or not sys.executable:
        return
    encoding = {"PYTHONIOENCODING": sys.stdout.encoding} if sys.stdout else {}
    environment = {**encoding, **os.environ, "PYTHONUTF8": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def open_streams() -> None:
    """Make stdout and stderr usable: a closed one goes nowhere, and no character is one too many for an encoding."""
    for number in range(3):  # else the next file that is opened takes the place of a closed stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 stays open as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123 the same
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def harmless(text: str) -> str:
    """Text without control characters, by which names and files of others could command a terminal."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str) -> None:
    """Print a result. Raises InputError where stdout takes nothing more, BrokenPipeError where nobody reads it."""
    try:
        sys.stdout.write(harmless(text).rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(_unwritable(error)) from error


def warn(line: str) -> None:
    """Print a line on stderr; work goes on where stderr takes nothing more."""
    with suppress(OSError):
        sys.stderr.write(harmless(line) + "\n")


def close_stdout() -> int:
    """Write what is left in stdout's buffer, or drop it, so that Python does not complain at exit; the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        warn(f"monoskd: {_unwritable(error)}")
        return USAGE_ERROR
    return 0


def _unwritable(error: OSError) -> str:
    return f"stdout: expected to write the result, got '{error.strerror}': redirect it to where there is room"


@contextmanager
def progress_of(work: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with (done, total): a progress bar on a terminal, about ten plain lines elsewhere.

    total: 0 where it is unknown, as of a camera; then each picture is a line.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(work, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
        return

    tenth = 0

    def line(done: int, total: int) -> None:
        nonlocal tenth
        before, tenth = tenth, done // max(total // 10, 1)
        if done == total or tenth != before:  # work may be done in groups
            warn(f"{work}: {done}/{total}" if total else f"{work}: {done}")

    yield line
