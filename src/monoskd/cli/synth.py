"""`monoskd synth`: rendered street scenes in KITTI layout."""

import argparse
from pathlib import Path

from monoskd.cli.parser import Commands, add_command, count, focals, share, size
from monoskd.cli.terminal import progress_of, say


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "synth",
        run=run,
        help_="rendered street scenes in KITTI layout",
        example="scenes --frames 100",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write")
    add("--frames", type=count, required=True, help="number of frames with labels")
    add("--val", type=share, default=0.25, help="share of these frames in the val split")
    add("--unlabelled", type=count, default=0, metavar="N", help="number of further frames, without labels")
    add("--seed", type=int, default=0, help="the same seed renders the same scenes")
    add("--size", type=size, default="1242x375", metavar="WxH", help="size of the pictures")
    focal = "focal lengths [px], drawn for each frame; without it KITTI's field of view"
    add("--focal", type=focals, metavar="LOW,HIGH", help=focal)
    add("--workers", type=count, help="number of processes; without it one per core")


def run(options: argparse.Namespace) -> None:
    """Render the frames."""
    from monoskd.synthetic import synthesize

    with progress_of("rendering") as progress:
        synthesize(
            options.out,
            frames=options.frames,
            val=options.val,
            seed=options.seed,
            size=options.size,
            unlabelled=options.unlabelled,
            focal_px=options.focal,
            workers=options.workers,
            progress=progress,
        )
    say(f"{options.frames + options.unlabelled} frames in {options.out}; next: monoskd prepare {options.out}")
