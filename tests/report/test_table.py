import pytest

from monoskd.report.table import Table

RESULTS = Table(
    ("class", "R40\neasy", "R40\nhard"),
    (("Car", "28.91", "16.99"), ("Car", "100.00", "-"), ("Pedestrian", "1.00", "")),
    title="AP",
    grouped=True,
)


def test_text_aligns_labels_left_and_numbers_right() -> None:
    assert RESULTS.text().splitlines() == [
        "AP",
        "              R40   R40",
        "class        easy  hard",
        "-" * 23,
        "Car         28.91 16.99",
        "Car        100.00     -",
        "",
        "Pedestrian   1.00",
    ]


def test_markdown_is_what_renderers_read() -> None:
    table = Table(("a", "b"), (("1", ""), ("2", "3")), title="not shown")
    assert table.markdown() == "| a | b |\n| --- | --- |\n| 1 | |\n| 2 | 3 |"


def test_html_shows_words_as_words_and_groups_as_bodies() -> None:
    html = Table(("<b>", "n"), (("a & b", "1"), ("c", "2")), grouped=True).html()
    assert '<th class="label">&lt;b&gt;</th><th>n</th>' in html
    assert '<td class="label">a &amp; b</td><td>1</td>' in html
    assert html.count("<tbody>") == 2


def test_a_table_without_rows_has_its_head() -> None:
    table = Table(("a", "b"), ())
    assert table.text() == "a b\n---"
    assert "<th>b</th>" in table.html()


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 2 cells in each row, got 1: \('x',\)"):
        Table(("a", "b"), (("x",),))
