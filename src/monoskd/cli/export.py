"""`monoskd export`: a detector as one ONNX file."""

import argparse
from pathlib import Path

from monoskd.cli.parser import Commands, add_command
from monoskd.cli.terminal import say


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "export",
        run=run,
        help_="a detector as one ONNX file, from pixels and a camera to boxes",
        example="--model model.safetensors --out model.onnx",
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model file")
    add("--out", type=Path, required=True, metavar="OUT.onnx", help="file to write")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--half", action="store_true", help="convolutions in float16")
    precision.add_argument("--int8", action="store_true", help="convolutions in int8; needs --data")
    add("--data", type=Path, metavar="ROOT", help="data set whose training frames calibrate int8")


def run(options: argparse.Namespace) -> None:
    """Export, and say what was written."""
    from monoskd.inference.export import Precision, export

    precision: Precision = "float16" if options.half else "int8" if options.int8 else "float32"
    description = export(options.model, options.out, precision=precision, data=options.data)
    kind = f"{description.detector.rpartition('.')[2]}, {description.precision}, {', '.join(description.classes)}"
    say(f"{kind}, {options.out.stat().st_size / 2**20:.1f} MiB: {options.out}")
