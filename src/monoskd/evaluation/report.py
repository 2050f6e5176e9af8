"""An evaluation as tables to read in a terminal, as JSON and as a page."""

import json
from io import StringIO
from pathlib import Path

from monoskd.evaluation.page import page
from monoskd.evaluation.results import Evaluation
from monoskd.evaluation.wording import LABEL_COLUMNS, Sheet, sheets

WIDEST = 240  # characters; no table needs as many


def table(evaluation: Evaluation) -> str:
    """Everything as text, as wide as it needs to be."""
    blocks = [*(_drawn(sheet) for sheet in sheets(evaluation)), *(f"note: {note}" for note in evaluation.notes)]
    return "\n\n".join(blocks)


def write_json(evaluation: Evaluation, path: Path) -> None:
    """Write the schema `monoskd/evaluation/1`; makes the folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(evaluation.to_json(), indent=1) + "\n", encoding="utf-8")


def write_html(evaluation: Evaluation, path: Path) -> None:
    """Write one file with all tables and the precision-recall curves; makes the folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(evaluation), encoding="utf-8")


def _drawn(sheet: Sheet) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for index, column in enumerate(sheet.columns):
        drawn.add_column(column, justify="left" if index < LABEL_COLUMNS else "right", no_wrap=True)
    for row, following in zip(sheet.rows, [*sheet.rows[1:], None], strict=True):
        drawn.add_row(*row, end_section=following is not None and following[0] != row[0])
    text = StringIO()
    Console(file=text, width=WIDEST).print(drawn)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
