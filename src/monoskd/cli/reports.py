"""The options `--json` and `--html` of the commands that write their results as files too."""

import argparse
from collections.abc import Callable
from pathlib import Path

from monoskd.cli.parser import Parser
from monoskd.cli.terminal import say
from monoskd.errors import InputError
from monoskd.files import check_report

SUFFIXES = {"json": ".json", "html": ".html"}


def add_reports(parser: Parser, *, json: str, html: str) -> None:
    """Add both options with their help texts."""
    parser.add_argument("--json", type=Path, help=json)
    parser.add_argument("--html", type=Path, help=html)


def check_reports(options: argparse.Namespace) -> None:
    """Raise InputError where one of the files cannot be written. Called before the work starts."""
    for name, suffix in SUFFIXES.items():
        path = getattr(options, name)
        if path is not None:
            check_report(path, suffix=suffix)
    if options.json is not None and options.json == options.html:
        raise InputError(f"{options.command}: expected --json and --html to differ, got {options.json} for both")


def write_reports(
    options: argparse.Namespace, *, json: Callable[[Path], None], html: Callable[[Path], None], text: str
) -> None:
    """Write the files that were asked for, then print the text, which is not lost where a file cannot be written."""
    try:
        if options.json:
            json(options.json)
        if options.html:
            html(options.html)
    finally:
        say(text)
