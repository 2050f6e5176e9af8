"""Trainings as processes of their own, one thread each.

On few cores, two trainings side by side with one thread each are faster than one after another with two. A training
that was interrupted is resumed, a finished one is left alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monoskd.engine.run_folder import CHECKPOINT, MANIFEST, OUTPUT
from monoskd.errors import InputError
from monoskd.files import read_json, read_text


@dataclass(frozen=True)
class Launch:
    """A call of `monoskd train`. config: a file or a shipped name; out: the run folder; options: `--key value`."""

    config: str | Path
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def command(self) -> list[str]:
        """The words of the call; they resume the run where its folder holds a checkpoint."""
        options = {**self.options, "out": self.out}
        if (self.out / CHECKPOINT).is_file():
            options["resume"] = self.out
        words = [word for key, value in options.items() for word in (f"--{key}", _word(value))]
        return [sys.executable, "-m", "monoskd", "train", str(self.config), *words]

    def start(self) -> subprocess.Popen[bytes]:
        """Begin; what the process prints goes to `log.txt` in the run folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (self.out / OUTPUT).open("wb") as log:
            return subprocess.Popen(self.command(), stdout=log, stderr=subprocess.STDOUT, env=environment)


def train_side_by_side(
    launches: Sequence[Launch], *, finished: Callable[[Launch, dict[str, Any]], None] = lambda launch, manifest: None
) -> None:
    """Run all at once, but for those that are finished. finished: called with each and its manifest, in order.

    Raises InputError with the last line of the log where one fails; the others are stopped, and resume the next time.
    """
    todo = [launch for launch in launches if not is_finished(launch.out)]
    processes = [launch.start() for launch in todo]
    try:
        for launch, process in zip(todo, processes, strict=True):
            if process.wait() != 0:
                lines = read_text(launch.out / OUTPUT).strip().splitlines() or ["no output"]
                raise InputError(
                    f"training {launch.out} stopped with exit code {process.returncode}, see {launch.out / OUTPUT}: "
                    f"{lines[-1]}; with that mended, this command goes on where it stopped"
                )
            finished(launch, manifest_of(launch.out))
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
                process.wait()


def is_finished(run: Path) -> bool:
    """Whether a run folder holds a training that went to its end."""
    try:
        return bool(manifest_of(run)["finished"])
    except (InputError, KeyError, TypeError):  # missing or damaged
        return False


def manifest_of(run: Path) -> dict[str, Any]:
    """What `manifest.json` of a run folder says."""
    manifest: dict[str, Any] = read_json(run / MANIFEST)
    return manifest


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | tuple | dict | bool) else str(value)
