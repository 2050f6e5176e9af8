"""Several processes train one network: they agree before they begin, speak with one voice and end together.

Lightning starts the processes of one machine, torchrun or Slurm those of several. Process 0 writes the run folder and
prints. Any other one that fails leaves a note in the run folder, which process 0 reads.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from monoskd.engine.callbacks import say
from monoskd.engine.check import on_cuda, process_number
from monoskd.engine.config import RunConfig
from monoskd.engine.resume import how_to_go_on
from monoskd.errors import Complaints, InputError
from monoskd.files import read_text, write_text

T = TypeVar("T")

_POLL_S = 0.5  # between two looks at the processes
_GRACE_S = 3.0  # for this process to notice that another has ended, and to end in order
_USAGE_ERROR, _INTERRUPTED = 2, 130
_TELL_OF_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_LOST = re.compile("[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|[Ss]ocket (closed|Timeout)|NCCL|gloo")


def join(config: RunConfig) -> None:
    """Meet the other processes that torchrun or Slurm has started, before any of them writes a file."""
    environment: ClusterEnvironment
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
        _end_with_parent()
    elif SLURMEnvironment.detect() and config.processes > 1:
        environment = SLURMEnvironment(auto_requeue=False)
    else:
        if config.processes == 1:
            LightningEnvironment().set_global_rank(0)  # Slurm may number runs of one device each
        return
    if (started := environment.world_size()) != config.processes:
        if process_number():
            raise SystemExit(_USAGE_ERROR)
        raise InputError(
            f"devices: expected one for each of the {started} processes that were started, got {config.devices} on "
            f"{config.nodes} machines: set `--devices` to the processes of a machine and `--nodes` to the machines"
        )
    if config.processes > 1 and not torch.distributed.is_initialized():
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        if on_cuda(config):
            torch.cuda.set_device(environment.local_rank())
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda(config) else "gloo",
            rank=environment.global_rank(),
            world_size=environment.world_size(),
        )


def _end_with_parent() -> None:
    """Be told to stop (SIGTERM) when torchrun is killed, which leaves its processes behind. Only Linux can do so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_TELL_OF_PARENT, signal.SIGTERM)


def agreed(task: Callable[[], T]) -> T:
    """What the task returns. Where it raises an InputError in one of the processes, all raise the first one."""
    if not torch.distributed.is_initialized():
        return task()
    complaints = Complaints()
    result = complaints.attempt(task)
    lines: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(lines, complaints.lines)
    for line in (line for some in lines for line in some):
        raise SystemExit(_USAGE_ERROR) if process_number() else InputError(line)
    return result  # type: ignore[return-value]  # an InputError gives None, and was raised


def lost_connection(error: BaseException) -> bool:
    """Whether the error says that another process has gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


@contextmanager
def secondary(out: Path) -> Iterator[None]:
    """What this process does beside process 0, which it leaves to speak: it ends without a line of its own.

    Only where process 0 was killed nobody else is left to say so.
    """
    parent = os.getppid()
    try:
        yield
    except KeyboardInterrupt as stop:
        raise SystemExit(_INTERRUPTED) from stop
    except Exception as error:
        if lost_connection(error):
            if os.getppid() != parent:
                raise InputError(ended(out, 0)) from error
            raise SystemExit(_USAGE_ERROR) from error
        leave_note(out, error)
        if isinstance(error, InputError):
            raise SystemExit(_USAGE_ERROR) from error
        raise


def leave_note(out: Path, error: BaseException) -> None:
    """Say in the run folder why this process, which is not process 0, ends."""
    line = " ".join(str(error).split()) or type(error).__name__
    write_text(
        _note(out, process_number()), line if isinstance(error, InputError) else f"{type(error).__name__}: {line}"
    )


def take_notes(out: Path) -> str | None:
    """Why another process has ended, if it left a note."""
    lines = []
    for path in sorted(out.glob(_note(out, "*").name)):
        lines.append(f"process {path.suffixes[-2][1:]}: {read_text(path)}")
        path.unlink(missing_ok=True)
    return lines[0] if lines else None


def ended(out: Path, process: int | None) -> str:
    """The line about a process that has ended, and how the run goes on. process: None where it is unknown."""
    if line := take_notes(out):
        return line
    which = "one that ended" if process is None else f"process {process}, which ended"
    return (
        f"devices: expected processes that live, got {which}, as the system does when memory is short: "
        f"{how_to_go_on(out)}"
    )


class Children:
    """The processes that Lightning starts beside this one, as a context: at its end they have ended, too.

    Where one ends with an error, a thread ends this process within seconds, even while it waits for an answer.
    Lightning does so with a signal that leaves no time for a line.

    launcher: Lightning's, of the strategy; None where there are no children.
    """

    def __init__(self, launcher: Any, out: Path) -> None:
        self.launcher, self.out = launcher, out
        self.processes: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self.launcher is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._over.set()
        lost = None if error is None or not lost_connection(error) else self.lost(within_s=_GRACE_S)
        self._adopt()
        if error is not None:
            self.end()
        for process in self.processes:
            process.wait()
        if lost is not None:
            raise InputError(ended(self.out, lost)) from error

    def lost(self, *, within_s: float = 0.0) -> int | None:
        """The number of a process that has ended with an error."""
        self._adopt()
        latest = time.monotonic() + within_s
        while True:
            for child, process in enumerate(self.processes, start=1):
                if process.poll():
                    return child
            if time.monotonic() >= latest:
                return None
            time.sleep(_POLL_S / 10)

    def end(self) -> None:
        """End all of them; none of them holds a file."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            if (process := self.lost()) is not None and not self._over.wait(_GRACE_S):
                say(f"monoskd: {ended(self.out, process)}")
                self.end()
                os._exit(_USAGE_ERROR)

    def _adopt(self) -> None:
        """Take the processes over from Lightning, whose own thread then has nothing to watch."""
        started = getattr(self.launcher, "procs", [])
        while started:
            self.processes.append(started.pop(0))


def _note(out: Path, process: int | str) -> Path:
    return out / f".process.{process}.note"
