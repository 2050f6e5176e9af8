"""`monoskd convert`: import a checkpoint of a published implementation."""

import argparse
from pathlib import Path

from monoskd.cli.parser import Commands, add_command
from monoskd.cli.terminal import say


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "convert",
        run=run,
        help_="import a published checkpoint",
        example="monoskd.pth student.safetensors",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="PUBLISHED.pth", help="checkpoint of the published implementation")
    add("out", type=Path, metavar="OUT.safetensors", help="model file to write")
    add("--part", choices=("student", "teacher"), default="student", help="which network of a distillation checkpoint")


def run(options: argparse.Namespace) -> None:
    """Convert, and say what was written."""
    from monoskd.models.published import convert

    say(str(convert(options.source, options.out, part=options.part)))
