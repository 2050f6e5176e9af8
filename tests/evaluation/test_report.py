import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from monoskd.evaluation.kitti_ap import Evaluation, evaluate_kitti
from monoskd.evaluation.report import table, write_html, write_json
from monoskd.objects import Objects

Street = tuple[list[Objects], list[Objects]]


@pytest.fixture(scope="module")
def full(street: Street) -> Evaluation:
    return evaluate_kitti(*street, bootstrap=5, distances=True, anatomy=True)


def test_the_table_says_every_number(street: Street) -> None:
    evaluation = evaluate_kitti(*street)
    text = table(evaluation)
    assert "60 frames" in text
    for row in evaluation.rows():
        assert f"{row['moderate']:.2f}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_table_shows_what_was_asked_for(full: Evaluation) -> None:
    text = table(full)
    for words in ("by distance", "20-40 m", "true depth", "ranked by true overlap", " ("):
        assert words in text
    plain = table(Evaluation(frames=full.frames, results=full.results, notes=("3 frames were left out",)))
    assert "by distance" not in plain
    assert plain.endswith("note: 3 frames were left out")


def test_what_has_no_value_is_a_dash() -> None:
    far = evaluate_kitti([Objects.empty()], [Objects.empty(scored=True)], distances=True)
    lines = table(far).splitlines()
    assert next(line for line in lines if "40+ m" in line).split()[-3:] == ["-", "-", "-"]


def test_the_json_keeps_the_schema(full: Evaluation, tmp_path: Path) -> None:
    write_json(full, tmp_path / "made" / "evaluation.json")
    document = json.loads((tmp_path / "made" / "evaluation.json").read_text())
    assert (document["schema"], document["frames"]) == ("monoskd/evaluation/1", 60)
    assert document["results"] == full.rows()
    assert set(document["by_distance"]) == {"0-20 m", "20-40 m", "40+ m"}
    assert set(document["anatomy"]) == {"location", "depth", "dimensions", "yaw", "box_2d", "score"}
    assert document["anatomy"]["depth"] == full.anatomy["depth"].rows()


def test_a_value_that_does_not_exist_is_null_in_json(street: Street, tmp_path: Path) -> None:
    truth, found = street
    near = [one[one.bottom[:, 2] < 40] for one in truth]
    write_json(evaluate_kitti(near, found, distances=True, bootstrap=2), tmp_path / "evaluation.json")
    text = (tmp_path / "evaluation.json").read_text()
    assert "NaN" not in text
    assert {row["hard"] for row in json.loads(text)["by_distance"]["40+ m"]} == {None}


class Balance(HTMLParser):
    """Complains about a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_has_all_tables_and_curves(full: Evaluation, tmp_path: Path) -> None:
    write_html(full, tmp_path / "made" / "page.html")
    text = (tmp_path / "made" / "page.html").read_text()
    checker = Balance()
    checker.feed(text)
    assert checker.open == []
    assert text.count("<table>") == 3
    drawings = [ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>") for part in text.split("<svg")[1:]]
    assert len(drawings) == len(full.results)
    for drawing, result in zip(drawings, full.results, strict=True):
        curves = drawing.findall("polyline")
        assert len(curves) == 3
        first_x, first_y = map(float, curves[0].attrib["points"].split()[0].split(","))
        assert first_x == 0
        assert first_y == pytest.approx((1 - result.curves[0, 0]) * 180, abs=0.06)
    assert "src=" not in text
    assert "href=" not in text


def test_a_note_is_text_on_the_page(full: Evaluation, tmp_path: Path) -> None:
    noted = Evaluation(frames=1, results=full.results, notes=("<b>5 & more</b>",))
    write_html(noted, tmp_path / "page.html")
    assert "&lt;b&gt;5 &amp; more&lt;/b&gt;" in (tmp_path / "page.html").read_text()
