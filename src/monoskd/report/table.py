"""One table: words in rows and columns, as text for a terminal, as HTML and as Markdown."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from monoskd.report.markup import Html, element, escaped


@dataclass(frozen=True)
class Table:
    """Columns and rows of words.

    labels: how many of the first columns name what the row is about; they are aligned left, the numbers after them
    right. A column's name may have several lines. grouped: rows that begin with the same word stand together, apart
    from the others.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    labels: int = 1
    grouped: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"expected {len(self.columns)} cells in each row, got {len(row)}: {row}")

    def text(self) -> str:
        """For a terminal, in ASCII but for the words: no encoding and no font can break it."""
        names = [name.split("\n") for name in self.columns]
        height = max(map(len, names))
        head = list(zip(*([""] * (height - len(name)) + name for name in names), strict=True))
        widths = [max(map(len, column)) for column in zip(*head, *self.rows, strict=True)]

        def line(cells: tuple[str, ...]) -> str:
            aligned = (
                cell.ljust(width) if index < self.labels else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            return " ".join(aligned).rstrip()

        lines = [self.title] if self.title else []
        lines += [*map(line, head), "-" * (sum(widths) + len(widths) - 1)]
        for index, group in enumerate(self._groups()):
            lines += [""] * bool(index) + [line(row) for row in group]
        return "\n".join(lines)

    def html(self) -> Html:
        """A table that scrolls sideways where the screen is narrow, without the title."""
        head = element("thead", self._row("th", self.columns))
        bodies = (element("tbody", *(self._row("td", row) for row in group)) for group in self._groups())
        return element("div", element("table", head, *bodies), kind="wide")

    def markdown(self) -> str:
        """A Markdown table, without the title."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join("".join(["|", *(f" {cell} |" if cell else " |" for cell in line)]) for line in lines)

    def _groups(self) -> Iterator[list[tuple[str, ...]]]:
        if not self.grouped:
            yield list(self.rows)
            return
        for _, group in groupby(self.rows, key=itemgetter(0)):
            yield list(group)

    def _row(self, tag: str, cells: tuple[str, ...]) -> Html:
        kinds = ("label" if index < self.labels else "" for index in range(len(cells)))
        return element("tr", *(element(tag, escaped(cell), kind=kind) for cell, kind in zip(cells, kinds, strict=True)))
