"""The options of every command that predicts with a model file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monoskd.cli.parser import Parser, count
from monoskd.errors import InputError

if TYPE_CHECKING:
    from monoskd.frames import AnyPredictor

_DEFAULTS = {"fit": "focal", "device": "cpu", "half": False, "batch_size": 1}


def add_model_options(parser: Parser, *, required: bool = True, batches: bool = True) -> None:
    """Which model predicts, where and how. required: whether there has to be one; batches: whether it may take them."""
    add = parser.add_argument
    parser.set_defaults(**_DEFAULTS)
    add("--model", type=Path, required=required, help="model file, or .onnx file of `monoskd export`")
    add(
        "--fit",
        choices=("focal", "size"),
        help="bring pictures to the focal length of training, or only to its size",
    )
    add("--device", help="torch device; for an .onnx file cpu or cuda")
    add("--half", action="store_true", help="layers in 16 bits: faster on a GPU or a CPU with bfloat16")
    if batches:
        add("--batch-size", type=count, metavar="N", help="pictures that go through the network together")


def check_no_model_options(options: argparse.Namespace) -> None:
    """Raise InputError where an option says how a model predicts and there is none to predict."""
    for name, default in _DEFAULTS.items():
        if getattr(options, name) != default:
            raise InputError(f"--{name.replace('_', '-')}: expected a --model that predicts, got none: leave it out")


def open_model(options: argparse.Namespace) -> "AnyPredictor":
    """The model that the options name."""
    from monoskd.inference.open_model import open_predictor

    return open_predictor(options.model, device=options.device, fit=options.fit, half=options.half)
