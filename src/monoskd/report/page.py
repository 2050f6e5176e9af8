"""One page: a single HTML file in the looks of the house, without scripts, that opens without a network."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from monoskd.files import write_atomically
from monoskd.report.markup import Html, Tone, element, escaped, joined
from monoskd.report.style import CHART, COLOURS, PAGE


@dataclass(frozen=True)
class Tile:
    """One of the figures that a reader looks for first: large, with its name above and a remark below."""

    name: str
    value: str
    remark: str = ""
    tone: Tone = "plain"


def page(title: str, *body: Html) -> str:
    """The whole page; the title is its heading too."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{COLOURS}{CHART}{PAGE}</style></head>\n"
        f"<body><h1>{escaped(title)}</h1>{joined(body)}</body></html>\n"
    )


def write_page(path: str | Path, text: str) -> None:
    """Write a page; makes its folder. File names that are not UTF-8 do not stop it."""
    write_atomically(path, text.encode(errors="xmlcharrefreplace"))


def section(heading: str, *parts: Html) -> Html:
    """Parts under a heading."""
    return element("section", element("h2", escaped(heading)), *parts)


def paragraph(words: str, *, kind: Literal["", "note", "verdict"] = "", tone: Tone = "plain") -> Html:
    """One paragraph. kind: "note" for small print, "verdict" for the sentence that matters most."""
    return element("p", escaped(words), kind=f"{kind} {tone}".strip())


def tiles(figures: Iterable[Tile]) -> Html:
    """A row of figures, as many beside each other as fit."""
    return element("div", *map(_tile, figures), kind="tiles")


def _tile(tile: Tile) -> Html:
    name, value, remark = escaped(tile.name), escaped(tile.value), escaped(tile.remark)
    return element("div", element("span", name), element("b", value), element("span", remark), kind=f"tile {tile.tone}")


def fold(summary: str, *parts: Html, is_open: bool = False, tone: Tone = "plain") -> Html:
    """Parts that a click on the summary shows or hides."""
    content = joined([element("summary", escaped(summary)), *parts])
    return Html(f'<details class="{tone}"{" open" if is_open else ""}>{content}</details>')


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names, each with what is known about it."""
    terms = (joined([element("dt", escaped(name)), element("dd", escaped(value))]) for name, value in pairs)
    return element("dl", *terms)


def bullets(items: Iterable[str]) -> Html:
    """A list."""
    return element("ul", *(element("li", escaped(item)) for item in items))


def grid(figures: Iterable[Html]) -> Html:
    """Figures beside each other, as many as fit."""
    return element("div", *figures, kind="grid")


def picture(jpeg: bytes, caption: str) -> Html:
    """A picture inside the page."""
    source, words = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}", escaped(caption)
    return element("figure", Html(f'<img src="{source}" alt="{words}">'), element("figcaption", words))
