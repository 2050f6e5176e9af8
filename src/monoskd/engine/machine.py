"""What the machine does to a run: Slurm, missing precision, full disks, killed processes, two runs in one folder."""

import errno
import fcntl
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.plugins.precision.double import DoublePrecision

from monoskd.data.lost import LostLoaderError, is_lost_loader
from monoskd.engine.check import on_cpu, on_cuda
from monoskd.engine.config import RunConfig
from monoskd.engine.processes import ended, lost_connection, take_notes
from monoskd.engine.resume import how_to_go_on
from monoskd.errors import InputError
from monoskd.files import NO_SPACE
from monoskd.precision import has_bfloat16
from monoskd.workers import cores

_LOCK = ".lock"
_MOST_LOADERS = 16  # of one device
_CLEAN_UP = "_teardown"  # Lightning's function


@contextmanager
def one_line(out: Path) -> Iterator[None]:
    """What the machine or another process does to a run becomes one line, also where it is first met elsewhere.

    TensorBoard's thread meets a full disk, and the next step raises the same error. The hooks of a fork meet the end of
    a loader process, and a loader that still needs it notices.
    """
    report, report_dropped = threading.excepthook, sys.unraisablehook

    def report_others(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is None or outside_fault(failed.exc_value, out) is None:
            report(failed)

    def report_others_dropped(dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_value is None or not is_lost_loader(dropped.exc_value):
            report_dropped(dropped)

    threading.excepthook, sys.unraisablehook = report_others, report_others_dropped
    try:
        yield
    except KeyboardInterrupt as stop:  # torchrun ends the other processes, too, when one ends
        if (line := take_notes(out)) is None:
            raise
        raise InputError(line) from stop
    except (OSError, InputError, RuntimeError) as error:
        if (line := outside_fault(error, out)) is None:
            raise
        raise InputError(line) from error
    finally:
        threading.excepthook, sys.unraisablehook = report, report_dropped


@contextmanager
def first_error() -> Iterator[None]:
    """Raise what ended a training where Lightning's clean-up raises another error over it.

    It does so where the loaders were just being started: an interruption became a RuntimeError.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.walk_tb(error.__traceback__)
        if error.__context__ is None or not any(frame.f_code.co_name == _CLEAN_UP for frame, _ in frames):
            raise
        raise error.__context__ from None


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the run folder. Raises InputError where another process trains in it.

    The system drops the lock of a process that is killed.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise InputError(
                    f"{out}: expected a folder of this run alone, got one in which another process trains; wait for it "
                    "or choose another `--out`"
                ) from error  # any other error: a file system without locks
        try:
            yield
        finally:
            (out / _LOCK).unlink(missing_ok=True)


def precision_of(config: RunConfig) -> str:
    """Lightning's precision; CPUs have no half precision but bfloat16."""
    return "bf16-mixed" if config.precision == "16-mixed" and on_cpu(config) else config.precision


def channels_last_of(config: RunConfig) -> bool:
    """The layout as configured, or the one that suits the device."""
    if config.channels_last is not None:
        return config.channels_last
    return (on_cuda(config) or on_cpu(config)) and config.precision in ("16-mixed", "bf16-mixed")


def loader_processes(config: RunConfig) -> int:
    """How many processes load frames for each device: as configured, or on GPUs all cores, shared among them."""
    if config.data.workers is not None:
        return config.data.workers
    return max(min(cores() // config.devices, _MOST_LOADERS), 1) if on_cuda(config) else 2


def runs_in_bfloat16(config: RunConfig) -> bool:
    """Whether the run's device has instructions for bfloat16; without them it is slower than float32."""
    return has_bfloat16("cuda" if on_cuda(config) else "cpu" if on_cpu(config) else "another")


def teacher_in_bfloat16(config: RunConfig) -> bool:
    """Whether the teacher runs in bfloat16 as configured; autocast leaves float64 as it is."""
    recipe = config.distillation
    wanted = recipe is not None and recipe.teacher_precision is not None and config.precision != "64-true"
    return wanted and runs_in_bfloat16(config)


class Doubles(DoublePrecision):
    """Lightning's float64, for batches that cannot be changed in place."""

    def convert_input(self, data: Any) -> Any:
        """The batch in float64."""
        return data.double()


def cluster_of(config: RunConfig) -> list[ClusterEnvironment]:
    """Under Slurm, an environment that does not requeue: Lightning would do so with files outside the run folder."""
    if not SLURMEnvironment.detect() or TorchElasticEnvironment.detect():
        return []
    return [LightningEnvironment() if config.processes == 1 else SLURMEnvironment(auto_requeue=False)]


def outside_fault(error: BaseException, out: Path) -> str | None:
    """One line for what the machine does to a run: a full disk, a loader process or another device's that is killed."""
    go_on = how_to_go_on(out)
    if isinstance(error, LostLoaderError):
        frame = f" at frame {', '.join(error.frames)}" if error.frames else ""
        return (
            f"data.workers: expected loader processes that live, got one ended by {error.cause}{frame}, as when "
            f"memory is short: lower `--data.workers` or `--data.batch_size`, then {go_on}"
        )
    if lost_connection(error):
        return ended(out, None)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return f"{out}: expected room for the run's files, got '{cause.strerror}': free some space, then {go_on}"
        cause = cause.__cause__ or cause.__context__
    return None
