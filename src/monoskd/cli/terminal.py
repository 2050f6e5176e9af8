"""What a command says: results on stdout, progress and complaints on stderr, whatever these are connected to."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from monoskd.errors import InputError


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


def say(text: str) -> None:
    """Print a result. Raises InputError where stdout takes nothing more, BrokenPipeError where nobody reads it."""
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            f"stdout: expected to write the result, got '{error.strerror}': redirect it elsewhere"
        ) from error


def warn(line: str) -> None:
    """Print a line on stderr; work goes on where stderr takes nothing more."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")


def close_stdout() -> None:
    """Write what is left in stdout's buffer. Where that fails drop it, so that Python does not complain at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress_of(work: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with (done, total): a progress bar on a terminal, about ten plain lines elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(work, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
        return

    def line(done: int, total: int) -> None:
        if done == total or done % max(total // 10, 1) == 0:
            warn(f"{work}: {done}/{total}")

    yield line
