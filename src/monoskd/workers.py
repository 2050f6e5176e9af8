"""Work on many frames: in several processes that can be interrupted at any time, read ahead by a thread, in groups."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import cv2

from monoskd.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(task: Callable[[Item], Result], items: Sequence[Item], *, workers: int | None) -> Iterator[Result]:
    """The results of `task` for all items, in the order in which they are done.

    After an interruption, items that were begun are finished and the others dropped. workers: processes, one per core
    if None. Raises InputError where the system kills a process.
    """
    workers = min(workers or cores(), len(items))
    if workers < 2:
        yield from map(task, items)
        return
    # Spawned, not forked: a fork of a process with threads (torch, OpenCV) can hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread)
    try:
        with _uninterrupted():  # inherited: signals reach all processes of a terminal, and the parent stops the others
            futures = [pool.submit(task, item) for item in items]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "expected the worker processes to live, got one that ended, probably killed by the system for memory: "
            "call it again with fewer `--workers`, what was done is kept; a script that calls this needs "
            "`if __name__ == '__main__':` around its calls"
        ) from error
    finally:
        with _uninterrupted():
            pool.shutdown(cancel_futures=True)


def read_ahead(items: Iterable[Item], *, most: int) -> Iterator[Item]:
    """The same items, up to `most` of them read by a thread before they are asked for, and none after an error."""
    iterator, end = iter(items), object()
    thread = ThreadPoolExecutor(1)
    try:
        pending = deque(thread.submit(next, iterator, end) for _ in range(most))
        while (item := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, iterator, end))
            yield item  # type: ignore[misc]  # not the end
    finally:
        thread.shutdown(cancel_futures=True)


def groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, `size` at a time; the last group may have fewer."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    cv2.setNumThreads(0)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C and a closed terminal for a moment. Only the main thread ever receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(stop, signal.SIG_IGN) for stop in stops]
    try:
        yield
    finally:
        for stop, handler in zip(stops, before, strict=True):
            signal.signal(stop, handler)
