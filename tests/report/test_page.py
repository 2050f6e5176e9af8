from html.parser import HTMLParser
from pathlib import Path

from monoskd.report.page import Tile, bullets, facts, fold, grid, page, paragraph, picture, section, tiles, write_page

ODD = '<b>5 & "more"</b>'


class Balance(HTMLParser):
    """Complains about a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_part_shows_words_as_words_and_closes_its_tags() -> None:
    text = page(
        ODD,
        tiles([Tile(ODD, ODD, ODD, "bad")]),
        section(ODD, paragraph(ODD, kind="note"), fold(ODD, bullets([ODD]), is_open=True), facts([(ODD, ODD)])),
        grid([picture(b"\xff\xd8", ODD)]),
    )
    checker = Balance()
    checker.feed(text)
    assert checker.open == []
    assert "<b>5" not in text
    assert text.count("&lt;b&gt;5 &amp; &quot;more&quot;") == 13
    assert '<details class="plain" open>' in text


def test_a_page_fetches_and_runs_nothing() -> None:
    text = page("title", picture(b"\xff\xd8", "a picture"))
    assert "<script" not in text
    assert "href=" not in text
    assert text.count("src=") == text.count('src="data:image/jpeg;base64,')


def test_a_name_that_is_not_unicode_can_be_written(tmp_path: Path) -> None:
    write_page(tmp_path / "made" / "page.html", page("caf\udce9", paragraph("é")))
    text = (tmp_path / "made" / "page.html").read_text(encoding="utf-8")
    assert "caf&#56553;" in text
    assert '<p class="plain">é</p>' in text
