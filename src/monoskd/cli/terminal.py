"""What a command says: results on stdout, progress on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


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
            sys.stderr.write(f"{work}: {done}/{total}\n")

    yield line
