"""Work in several processes ends well, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from monoskd.errors import InputError
from monoskd.workers import map_in_processes, read_ahead

SLEEPERS = """
import time
from monoskd.workers import map_in_processes
print("begun", flush=True)
list(map_in_processes(time.sleep, [0.2] * 200, workers=2))
"""


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_item_is_done_once(workers: int) -> None:
    assert sorted(map_in_processes(abs, [-3, 1, -2], workers=workers)) == [1, 2, 3]
    assert list(map_in_processes(abs, [], workers=workers)) == []


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(InputError, match="fewer `--workers`, what was done is kept"):
        list(map_in_processes(signal.raise_signal, [signal.SIGKILL, signal.SIGKILL], workers=2))


@pytest.mark.parametrize("after_s", [0.05, 1.5])
def test_two_interruptions_end_it_at_once_and_no_worker_complains(after_s: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPERS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after_s)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    stderr = process.communicate(timeout=20)[1]
    assert stderr.count("Traceback") == 1, stderr
    assert "KeyboardInterrupt" in stderr


def test_reading_ahead_keeps_order_and_errors() -> None:
    assert list(read_ahead(range(7), most=3)) == list(range(7))
    assert list(read_ahead([], most=3)) == []

    def fails() -> object:
        yield 1
        raise OSError("gone")

    items = read_ahead(fails(), most=2)  # type: ignore[arg-type]
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_after_an_error_nothing_is_read_ahead() -> None:
    read: list[int] = []

    def slow(item: int) -> int:
        read.append(item)
        time.sleep(0.05)
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        next(read_ahead(map(slow, range(100)), most=100))
    assert len(read) < 10
    items = read_ahead(map(slow, range(1, 100)), most=99)
    next(items)
    items.close()  # type: ignore[attr-defined]  # a generator, closed as by an interruption
    assert len(read) < 20
