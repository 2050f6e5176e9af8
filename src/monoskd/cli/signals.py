"""Signals that ask to stop: those of schedulers and of a terminal that closes act as Ctrl-C does."""

import os
import signal
import sys
from types import FrameType

_SCHEDULERS = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # the last three some minutes before the end of the time
_NAMES = ("SIGINT", "SIGHUP", *_SCHEDULERS, "SIGALRM")  # the last is our own, for an interruption that was dropped
_RETRY_S = 0.02


def interrupt_on_stop() -> None:
    """Raise KeyboardInterrupt in the main thread at any of the signals. To be called once in a process.

    All but SIGINT act once, as a terminal that closes may send SIGHUP twice and the second would interrupt saving.
    A signal that was ignored from the start stays ignored, as SIGHUP is under `nohup`. Python drops what is raised
    in `__del__` and in the hooks of a fork, both of which loaders with workers spend time in: then it is raised again.
    """
    stopping, report = False, sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping and number not in (signal.SIGINT, getattr(signal, "SIGALRM", None)):
            return
        stopping = True
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # that workers end is no error any more
        raise KeyboardInterrupt

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, _RETRY_S)
        elif not stopping:  # else it is an object that was half made, and complains when it is deleted
            report(unraisable)

    sys.unraisablehook = dropped
    for stop in _stops():
        if signal.getsignal(stop) != signal.SIG_IGN:
            signal.signal(stop, interrupt)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_to_parent)


def ignore_stops() -> None:
    """Ignore the signals from now on: the command is ending, and a second one would only interrupt the end."""
    for stop in _stops():
        signal.signal(stop, signal.SIG_IGN)


def _leave_to_parent() -> None:
    """Let a forked process, such as a loader's worker, end when its parent ends it and not by itself.

    It leaves the process group, which is what a terminal and `kill -- -GROUP` send their signals to.
    """
    os.setpgid(0, 0)
    ignore_stops()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stops() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
