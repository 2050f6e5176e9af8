"""`monoskd submit`: the archive for KITTI's server."""

import argparse
from pathlib import Path

from monoskd.cli.model_options import add_model_options, open_model
from monoskd.cli.parser import Commands, add_command, share
from monoskd.cli.terminal import progress_of, say


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "submit",
        run=run,
        help_="results on KITTI's testing part, as its server takes them",
        example="--model model.safetensors --data data/kitti --out results.zip",
    )
    add = parser.add_argument
    add_model_options(parser)
    add("--data", type=Path, required=True, metavar="ROOT", help="folder that holds `testing`, in KITTI layout")
    add("--out", type=Path, required=True, metavar="OUT.zip", help="archive to write")
    add("--score", type=share, default=0.0, help="least score")


def run(options: argparse.Namespace) -> None:
    """Predict, write, and say what is in the archive."""
    from monoskd.inference.submit import KITTI_FRAMES, write_submission

    predictor = open_model(options)
    with progress_of("predicting") as progress:
        submission = write_submission(
            predictor,
            options.data,
            options.out,
            score=options.score,
            batch_size=options.batch_size,
            progress=progress,
        )
    if submission.dropped:
        say(f"left out {submission.dropped} detections outside KITTI's ranges")
    counts = f"{len(submission.frames)} files ({submission.empty} empty), {submission.detections} detections"
    say(f"{counts}: {options.out}")
    if not submission.is_complete:
        last = f"{KITTI_FRAMES - 1:06d}"
        say(f"this is not for KITTI's server: it asks for {KITTI_FRAMES} files, 000000.txt to {last}.txt")
