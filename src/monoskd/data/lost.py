"""A loader process that the system ends, as it does when memory is short: what ended it, and on which frame."""

import os
import re
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Protocol

import torch
from torch.utils.data import get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from monoskd.data.shared import shared_zeros

_MOST_WORKERS = 1024
_SECONDS_TO_END = 2.0  # a process that is killed breaks its connection a moment before it has ended
_MESSAGE = re.compile(
    r"DataLoader worker \(pid\S* (?P<pids>[\d, ]+)\) (?:is killed by signal: (\w+)|exited unexpectedly)"
)


class LostLoaderError(RuntimeError):
    """A loader process has ended. cause: what ended it; frames: the names of the frames that it read last."""

    def __init__(self, cause: str, frames: Sequence[str]) -> None:
        super().__init__(f"a loader process was ended by {cause} at frame {', '.join(frames) or 'unknown'}")
        self.cause = cause
        self.frames = frames


class InWork:
    """The index of the frame that each loader process reads, in memory that all processes share."""

    def __init__(self) -> None:
        self._rows = shared_zeros(_MOST_WORKERS, 2).fill_(-1)  # process, index

    def begin(self, index: int) -> None:
        """Note the frame that this process reads from now on, if it is a loader's."""
        if (worker := get_worker_info()) is not None:
            self._rows[worker.id % _MOST_WORKERS] = torch.tensor([os.getpid(), index])

    def of(self, process: int) -> int | None:
        """The frame that a process has read last."""
        rows = self._rows[self._rows[:, 0] == process]
        return int(rows[0, 1]) if len(rows) else None


class _Reads(Protocol):
    def last_of(self, process: int) -> str | None: ...


@contextmanager
def naming_lost_frames(*samples: _Reads | None) -> Iterator[None]:
    """Raise LostLoaderError in the place of torch's error where a process that loads these samples ends."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if (ended := _ended(error)) is None:
            raise
        cause, processes = ended
        last = (each.last_of(process) for each in samples if each is not None for process in processes)
        raise LostLoaderError(cause, [name for name in last if name is not None]) from error


def is_lost_loader(error: BaseException) -> bool:
    """Whether the error is, in torch's words or in ours, that a loader process has ended."""
    return isinstance(error, LostLoaderError) or _ended(error) is not None


def _ended(error: BaseException) -> tuple[str, list[int]] | None:
    """What ended which loader processes, if this is what the error comes from.

    torch says it in words. Where a process ends in the middle of handing over a batch, all that there is at first is a
    connection that breaks.
    """
    if isinstance(error, RuntimeError) and (match := _MESSAGE.search(str(error))):
        cause = f"signal {match[2]}" if match[2] else "an unexpected exit"
        return cause, [int(number) for number in re.findall(r"\d+", match["pids"])]
    if isinstance(error, ConnectionError | FileNotFoundError | EOFError) and (workers := _workers_behind(error)):
        try:
            closed = wait([worker.sentinel for worker in workers], timeout=_SECONDS_TO_END)
            for worker in workers:
                worker.join(_SECONDS_TO_END if worker.sentinel in closed else 0)
        except RuntimeError as said:  # torch's own signal handler speaks here
            return _ended(said)
        if failed := [worker for worker in workers if worker.exitcode]:
            return _cause(failed[0].exitcode), [worker.pid for worker in failed]
    return None


def _workers_behind(error: BaseException) -> list[Any]:
    """The processes of the loader that the error was raised in."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(loader := frame.f_locals.get("self"), _MultiProcessingDataLoaderIter):
            return list(loader._workers)
    return []


def _cause(exit_code: int) -> str:
    return f"signal {signal.strsignal(-exit_code)}" if exit_code < 0 else "an unexpected exit"
