"""The command line. One module a command: words in, one call, words out; heavy imports wait for `run`."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from monoskd import __version__
from monoskd.cli import convert, demo, doctor, evaluate, import_, predict, prepare, synth, train
from monoskd.cli.parser import Parser
from monoskd.errors import InputError

COMMANDS = (demo, synth, import_, prepare, doctor, train, evaluate, predict, convert)
"""In the order of the help."""

USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for bad input or usage, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    command = "monoskd"
    try:
        options, rest = build_parser().parse_known_args([word for word in words if word != "--debug"])
        command = options.command
        if rest and not options.takes_overrides:
            raise InputError(f"unknown option {rest[0]!r}; see `monoskd {command} --help`")
        options.overrides = rest
        options.run(options)
    except InputError as error:
        return _complain(str(error), debug)
    except KeyboardInterrupt:
        if argv is None:  # a second one would only interrupt the farewell
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("interrupted; what was done is kept\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _complain(f"{error.filename or command}: {error.strerror or error}", debug)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="monoskd", description="Teach a camera to see in 3D with the help of a LiDAR.")
    parser.add_argument("--version", action="version", version=f"monoskd {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback behind an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser


def _complain(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"monoskd: {' '.join(message.split())}\n")
    return USAGE_ERROR
