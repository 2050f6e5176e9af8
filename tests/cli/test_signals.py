"""Signals in a process of its own, with and without something that drops the exception."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, time
from monoskd.cli import signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
{before}
signals.interrupt_on_stop()
class Dropping:
    def __del__(self):
        wait()
def wait():
    print("ready", flush=True)
    time.sleep(20)
try:
    {work}
    time.sleep(20)
except KeyboardInterrupt:
    try:
        time.sleep(0.2)
    except KeyboardInterrupt:
        print("again")
    print("interrupted")
"""


def stopped(number: signal.Signals, *, work: str = "wait()", before: str = "", times: int = 1) -> tuple[str, str]:
    """stdout after the first line, and stderr, of a process that gets the signal so many times."""
    program = PROGRAM.format(work=work, before=before)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(times):
        process.send_signal(number)
    return process.communicate(timeout=15)


SCHEDULERS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, *SCHEDULERS])
def test_each_signal_interrupts(number: signal.Signals) -> None:
    assert stopped(number) == ("interrupted\n", "")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1])
def test_a_second_one_does_not_interrupt_saving(number: signal.Signals) -> None:
    assert stopped(number, times=2) == ("interrupted\n", "")


def test_an_interruption_that_python_drops_comes_again() -> None:
    assert stopped(signal.SIGTERM, work="Dropping()") == ("interrupted\n", "")


def test_what_was_ignored_stays_ignored() -> None:
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    work = "wait = lambda: print('ready', flush=True) or time.sleep(0.5) or sys.exit(print('whole')); wait()"
    assert stopped(signal.SIGHUP, before=before, work=work) == ("whole\n", "")


def test_a_forked_process_is_not_reached_by_signals_to_the_group() -> None:
    work = "os.fork() or (print('ready', flush=True), time.sleep(0.5), print('child ends by itself'), os._exit(0))"
    program = PROGRAM.format(work=work.replace("os._exit", "sys.stdout.flush(), os._exit"), before="")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)
    out, error = process.communicate(timeout=15)
    assert sorted(out.splitlines()) == ["child ends by itself", "interrupted"]
    assert error == ""


def test_ctrl_c_while_the_command_line_is_imported_is_one_line() -> None:
    program = """
import runpy, sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "monoskd.cli":
            print("ready", flush=True)
            exec("time.sleep(20)")
sys.meta_path.insert(0, Slow())
runpy.run_module("monoskd", run_name="__main__")
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=15) == ("", "interrupted\n")
    assert process.returncode == 130
