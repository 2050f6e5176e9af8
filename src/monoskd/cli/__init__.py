"""The command line. One module a command: words in, one call, words out; heavy imports wait for `run`."""

import argparse
import sys
import traceback
from collections.abc import Sequence

import shtab

from monoskd import __version__
from monoskd.cli import convert, demo, doctor, evaluate, export, import_, predict, prepare, serve, submit, synth, train
from monoskd.cli.parser import Parser
from monoskd.cli.signals import ignore_stops, interrupt_on_stop
from monoskd.cli.terminal import BROKEN_PIPE, USAGE_ERROR, close_stdout, open_streams, use_utf8_names, warn
from monoskd.errors import InputError

COMMANDS = (demo, synth, import_, prepare, doctor, train, evaluate, predict, serve, submit, export, convert)
"""In the order of the help."""

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for bad input or usage, 130 when interrupted.

    argv: the words of the command. Without it they are this process's own, and so are its streams and signals.
    """
    if argv is not None:
        return _run(argv)
    use_utf8_names()
    open_streams()
    interrupt_on_stop()
    try:
        code = _run(sys.argv[1:])
    except SystemExit as stop:  # after --help and the like
        code = int(stop.code or 0)
    finally:
        ignore_stops()
    closed = close_stdout()
    return code or closed


def _run(argv: Sequence[str]) -> int:
    debug = "--debug" in argv
    where = "stdout"  # until a command runs, only help is written
    try:
        options, rest = build_parser().parse_known_args([word for word in argv if word != "--debug"])
        where = options.command
        if rest and not options.takes_overrides:
            raise InputError(f"unknown option {rest[0]!r}; see `monoskd {where} --help`")
        options.overrides = rest
        options.run(options)
    except InputError as error:
        return _complain(str(error), debug)
    except KeyboardInterrupt:
        warn("interrupted; what was done is kept")
        eval("0")  # Python ends by SIGINT, not by our code, where it interrupted an `exec`, until the next one
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        return _complain(f"{error.filename or where}: {error.strerror or error}", debug)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="monoskd", description="Teach a camera to see in 3D with the help of a LiDAR.")
    parser.add_argument("--version", action="version", version=f"monoskd {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback behind an error")
    shtab.add_argument_to(parser, help="print a completion script for this shell, to be sourced")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser


def _complain(message: str, debug: bool) -> int:
    if debug:
        warn(traceback.format_exc().rstrip())
    warn(f"monoskd: {' '.join(message.split())}")
    return USAGE_ERROR
