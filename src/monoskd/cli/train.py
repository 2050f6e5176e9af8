"""`monoskd train`: train a teacher, a student, or a student with a teacher."""

import argparse
import os
import threading
from pathlib import Path

from monoskd.cli.parser import Commands, add_command
from monoskd.cli.terminal import say, warn

_SILENCE_S = 3.0  # a start that takes longer says so; the import of torch alone may


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "train",
        run=run,
        help_="train a teacher, a student, or a student with a teacher",
        example="kitti/teacher.yaml --data.root data/kitti",
        takes_overrides=True,
    )
    parser.add_argument(
        "config",
        type=Path,
        metavar="CONFIG.yaml",
        help="a file, or a shipped one such as kitti/monoskd.yaml; then --a.b VALUE to override",
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="run folder to continue")


def run(options: argparse.Namespace) -> None:
    """Train, and say where the run folder is."""
    timer = threading.Timer(_SILENCE_S, warn, [f"train: preparing the run of {options.config}"])
    timer.daemon = True
    if all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        timer.start()
    try:
        from monoskd.engine.check import process_number
        from monoskd.engine.load import load_config
        from monoskd.engine.run import train
        from monoskd.engine.run_folder import CONFIG

        overrides = options.overrides
        if options.resume is not None and options.config.resolve() == (options.resume / CONFIG).resolve():
            overrides = ["--out", str(options.resume), *overrides]  # the run goes on where it is, also once moved
        loaded = load_config(options.config, overrides)
        folder = train(loaded, resume=options.resume, on_start=timer.cancel)
    finally:
        timer.cancel()
    if not process_number():
        say(f"run folder: {folder}")
