"""`monoskd doctor`: what is wrong with a data set."""

import argparse
from pathlib import Path

from monoskd.cli.parser import Commands, add_command
from monoskd.cli.reports import add_reports, check_reports, write_reports
from monoskd.cli.terminal import progress_of
from monoskd.errors import InputError


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "doctor",
        run=run,
        help_="what is wrong with a data set",
        example="data/kitti --html findings.html",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder with training/ and ImageSets/ in KITTI layout")
    add_reports(parser, json="write the findings as JSON", html="write the findings as a page")


def run(options: argparse.Namespace) -> None:
    """Examine the data set; write the files, then print; raise InputError where there are errors."""
    from monoskd.kitti.doctor import examine

    check_reports(options)
    with progress_of("examining") as progress:
        report = examine(options.root, progress=progress)
    write_reports(options, json=report.write_json, html=report.write_html, text=report.to_text())
    if not report.ok:
        raise InputError(f"{options.root}: {report.verdict}; the findings are listed above")
