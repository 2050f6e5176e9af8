"""Building blocks of the command line's grammar: the parser, one command of it, and the types of arguments."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import shtab

from monoskd.cli.terminal import say
from monoskd.errors import InputError
from monoskd.files import as_number, is_whole_number


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its complaints as InputError: one line, like every other."""

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As argparse; a shell completes an argument of type Path with file names."""
        action = super().add_argument(*names, **options)
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        return action

    def _print_message(self, message: str, file: object = None) -> None:
        """Print help or version. argparse would drop them without a word where stdout takes nothing."""
        say(message)

    def error(self, message: str) -> NoReturn:
        """Raise the complaint."""
        raise InputError(f"{message}; see `{self.prog} --help`")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something: neither a flag's False nor nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is False or action.default in (None, ())
        return action.help if says_nothing else super()._get_help_string(action)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""Where commands are added."""


def add_command(
    commands: Commands,
    name: str,
    *,
    run: Callable[[argparse.Namespace], None],
    help_: str,
    example: str,
    takes_overrides: bool = False,
) -> Parser:
    """Add the command `name` and return its parser, which still needs its arguments.

    run: does the work. example: the words after `monoskd NAME` in the help. takes_overrides: whether unknown words are
    passed on in `options.overrides`; otherwise they are an error. Defaults of arguments with a type of their own are
    written as a user would type them, so that the help shows them so.
    """
    parser = commands.add_parser(
        name,
        help=help_,
        description=help_,
        epilog=f"example: monoskd {name} {example}",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, takes_overrides=takes_overrides)
    return parser


def count(text: str) -> int:
    """A positive whole number."""
    if not is_whole_number(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def number(text: str) -> float:
    """A finite number."""
    value = as_number(text)
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = as_number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT`."""
    width, _, height = text.partition("x")
    if not all(is_whole_number(side) and int(side) for side in (width, height)):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 416x128, got {text!r}")
    return int(width), int(height)


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names."""
    parts = tuple(name.strip() for name in text.split(",") if name.strip())
    if not parts:
        raise argparse.ArgumentTypeError(f"expected comma-separated names, got {text!r}")
    return parts


def heights(text: str) -> tuple[float, ...]:
    """Three heights above 0."""
    values = tuple(as_number(height) for height in text.split(","))
    if len(values) != 3 or not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"expected three heights above 0 px such as 40,25,25, got {text!r}")
    return values


def focals(text: str) -> tuple[float, float]:
    """`LOW,HIGH`, above 0."""
    low, high = (as_number(focal) for focal in text.split(",")) if text.count(",") == 1 else (-1.0, -1.0)
    if not 0 < low <= high < float("inf"):
        raise argparse.ArgumentTypeError(f"expected two focal lengths [px] such as 300,900, got {text!r}")
    return low, high
