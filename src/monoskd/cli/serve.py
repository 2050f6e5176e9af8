"""`monoskd serve`: a page and an address that find objects in pictures."""

import argparse
from importlib.util import find_spec

from monoskd.cli.model_options import add_model_options
from monoskd.cli.parser import Commands, add_command, count
from monoskd.cli.terminal import say
from monoskd.errors import InputError
from monoskd.files import is_whole_number
from monoskd.serve.limits import Limits


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "serve",
        run=run,
        help_="a web page that shows the boxes in a picture, and `POST /predict`",
        example="--model model.safetensors --port 8000",
    )
    add = parser.add_argument
    add_model_options(parser, batches=False)
    add("--host", default="127.0.0.1", help="address to listen to; the default is this machine only")
    add("--port", type=_port, default=8000, help="port, 0 for one that is free")
    add("--workers", type=count, default=1, metavar="N", help="processes that predict, each with the model loaded")
    add(
        "--waiting",
        type=count,
        default=Limits.requests,
        metavar="N",
        help="requests at a time, others are told to come back",
    )


def _port(text: str) -> int:
    if not (is_whole_number(text) and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"serve: expected the extra `serve`, missing {', '.join(missing)}: pip install 'monoskd[serve]'"
        )
    from monoskd.serve.question import Model
    from monoskd.serve.run import serve

    serve(
        Model(options.model, device=options.device, fit=options.fit, half=options.half),
        host=options.host,
        port=options.port,
        workers=options.workers,
        limits=Limits(requests=options.waiting),
        ready=lambda address: say(f"{options.model} at {address} (Ctrl-C ends it)"),
    )
