"""Signals that ask to stop: SIGTERM (from a scheduler) and SIGHUP (from a closed terminal) act as Ctrl-C does."""

import os
import signal
from types import FrameType

_STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def interrupt_on_stop() -> None:
    """Raise KeyboardInterrupt in the main thread at any of the three signals.

    SIGTERM and SIGHUP act once, as a terminal that closes sends SIGHUP twice, and the second would interrupt saving. A
    signal that was ignored from the start stays ignored, as SIGHUP is under `nohup`. Processes forked from this one
    ignore all three: this one stops them.
    """
    owner, stopping = os.getpid(), False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if os.getpid() != owner or (stopping and number != signal.SIGINT):
            return
        stopping = True
        raise KeyboardInterrupt

    for stop in _STOPS:
        if signal.getsignal(stop) != signal.SIG_IGN:
            signal.signal(stop, interrupt)


def ignore_stops() -> None:
    """Ignore the signals from now on: the command is ending, and a second one would only interrupt the end."""
    for stop in _STOPS:
        signal.signal(stop, signal.SIG_IGN)
