"""`monoskd demo`: the main job on rendered data, end to end."""

import argparse
import shlex
from pathlib import Path

from monoskd.cli.parser import Commands, add_command, count, size
from monoskd.cli.terminal import say


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "demo",
        run=run,
        help_="the main job on rendered data, end to end",
        example="--out demo --seed 1",
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo"), help="folder for data, runs and report")
    add("--detector", metavar="NAME", help="whose networks, by its folder under models/ (default: did_m3d)")
    add("--frames", type=count, default=360, help="rendered frames; 200 of 360 are held out")
    add("--seed", type=int, default=0, help="of the scenes and of every training")
    add("--size", type=size, default="320x96", metavar="WxH", help="size of the pictures")


def run(options: argparse.Namespace) -> None:
    """Render, train and evaluate; say where the report is."""
    from monoskd.demo.report import DRAWN
    from monoskd.demo.story import demo
    from monoskd.engine.run_folder import MODEL

    chosen = {name: getattr(options, name) for name in ("detector", "frames", "seed", "size")}
    report = demo(options.out, **chosen, say=say)
    say(f"report: {report}")
    student = options.out / "runs" / DRAWN / MODEL
    say(f"its student on a page: monoskd serve --model {shlex.quote(str(student))}")
