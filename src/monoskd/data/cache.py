"""Decoded frames in one file that all processes of a loader share, so that each frame is decoded once."""

import multiprocessing
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monoskd.data.shared import shared_zeros
from monoskd.errors import InputError
from monoskd.frames import Frame


class FrameCache:
    """Frames by name, as they were read first, in a file without a name in the system's folder for such (TMPDIR).

    Processes that are forked share it, and the system keeps it in memory as far as there is room. It is gone when the
    last of them ends, however that is. A copy that is sent to another process by pickle begins empty.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self._file, path = tempfile.mkstemp(prefix="monoskd-")
        Path(path).unlink()
        weakref.finalize(self, os.close, self._file)
        self._places = shared_zeros(len(names), 2)  # start and length; 0: not there
        self._end = shared_zeros()
        self._lock = multiprocessing.Lock()  # of the end

    def get(self, name: str, read: Callable[[str], Frame]) -> Frame:
        """The frame of this name; read where no process has it. Raises InputError where the file has no room for it."""
        number = self._numbers[name]
        start, length = self._places[number].tolist()
        if length:
            frame: Frame = pickle.loads(os.pread(self._file, length, start))  # our own file
            return frame
        frame = read(name)
        record = pickle.dumps(frame, protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            start = int(self._end)
            self._end += len(record)
        self._write(memoryview(record), start)
        self._places[number, 0] = start
        self._places[number, 1] = len(record)  # last: now it is there
        return frame

    def _write(self, record: memoryview, start: int) -> None:
        while record:
            try:
                done = os.pwrite(self._file, record, start)
            except OSError as error:
                raise InputError(
                    f"data.cache: expected room for decoded frames in {tempfile.gettempdir()}, got '{error.strerror}' "
                    f"after {int(self._end) / 2**20:.0f} MiB: set TMPDIR to a folder with room, or leave data.cache out"
                ) from error
            record, start = record[done:], start + done

    def __reduce__(self) -> Any:
        return FrameCache, ([*self._numbers],)
