"""What the machine does to a run: Slurm, missing precision, full disks, killed processes, two runs in one folder."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only

from monoskd.data.lost import LostLoaderError
from monoskd.engine.check import on_cpu
from monoskd.engine.config import RunConfig
from monoskd.engine.resume import CHECKPOINT
from monoskd.errors import InputError
from monoskd.files import NO_SPACE

_LOCK = ".lock"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the run folder. Raises InputError where another process trains in it.

    The system drops the lock of a process that is killed.
    """
    if getattr(rank_zero_only, "rank", 0):  # another device of the same run
        yield
        return
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


def cluster_of(config: RunConfig) -> list[ClusterEnvironment]:
    """Under Slurm, an environment that does not requeue: Lightning would do so with files outside the run folder."""
    if not SLURMEnvironment.detect():
        return []
    return [LightningEnvironment() if config.devices == 1 else SLURMEnvironment(auto_requeue=False)]


def outside_fault(error: BaseException, out: Path) -> str | None:
    """One line for what the machine does to a run: a full disk, or a loader process that is killed."""
    go_on = (
        f"go on with `--resume {out}`: its last whole epoch is safe"
        if (out / CHECKPOINT).exists()
        else "repeat the command: no epoch was complete yet"
    )
    if isinstance(error, LostLoaderError):
        frame = f" at frame {', '.join(error.frames)}" if error.frames else ""
        return (
            f"data.workers: expected loader processes that live, got one ended by {error.cause}{frame}, as when "
            f"memory is short: lower `--data.workers` or `--data.batch_size`, then {go_on}"
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return f"{out}: expected room for the run's files, got '{cause.strerror}': free some space, then {go_on}"
        cause = cause.__cause__ or cause.__context__
    return None
