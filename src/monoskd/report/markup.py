"""Markup as a type of its own: the type checker tells words, which must be escaped, from HTML, which must not."""

import html
from collections.abc import Iterable
from typing import Literal, NewType, TypeAlias

Html = NewType("Html", str)

Tone: TypeAlias = Literal["plain", "good", "warn", "bad"]
"""What a colour says about a number or a finding."""


def escaped(words: str) -> Html:
    """Words as markup that shows them."""
    return Html(html.escape(words))


def joined(parts: Iterable[Html]) -> Html:
    """One piece of markup after another."""
    return Html("".join(parts))


def element(tag: str, *parts: Html, kind: str = "") -> Html:
    """The parts within an element. kind: its class, or classes with a space between them."""
    class_ = f' class="{html.escape(kind)}"' if kind else ""
    return Html(f"<{tag}{class_}>{joined(parts)}</{tag}>")
