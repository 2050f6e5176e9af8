import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from monoskd.engine.evaluation_report import text, write_html, write_json
from monoskd.evaluation.kitti_ap import Evaluation, evaluate_kitti
from monoskd.objects import Objects

Street = tuple[list[Objects], list[Objects]]


@pytest.fixture(scope="module")
def full(street: Street) -> Evaluation:
    return evaluate_kitti(*street, bootstrap=5, distances=True, anatomy=True)


def test_the_table_says_every_number(street: Street) -> None:
    evaluation = evaluate_kitti(*street)
    words = text(evaluation)
    assert "60 frames" in words
    for row in evaluation.rows():
        assert f"{row['moderate']:.2f}" in words
    assert max(map(len, words.splitlines())) <= 80


def test_the_table_shows_what_was_asked_for(full: Evaluation) -> None:
    words = text(full)
    for part in ("by distance", "20-40 m", "true depth", "ranked by true overlap", " ("):
        assert part in words
    plain = text(Evaluation(frames=full.frames, results=full.results, notes=("3 frames were left out",)))
    assert "by distance" not in plain
    assert plain.endswith("note: 3 frames were left out")


def test_what_has_no_value_is_a_dash() -> None:
    far = evaluate_kitti([Objects.empty()], [Objects.empty(scored=True)], distances=True)
    lines = text(far).splitlines()
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
    document = (tmp_path / "evaluation.json").read_text()
    assert "NaN" not in document
    assert {row["hard"] for row in json.loads(document)["by_distance"]["40+ m"]} == {None}


def test_the_page_has_the_main_results_on_top_then_all_tables_and_curves(full: Evaluation, tmp_path: Path) -> None:
    write_html(full, tmp_path / "made" / "page.html")
    html = (tmp_path / "made" / "page.html").read_text()
    top = html[: html.index("<table>")]
    for row in full.rows():
        if (row["metric"], row["recall"]) == ("3d", "R40") and row["iou"] == (0.7 if row["class"] == "Car" else 0.5):
            assert f"<b>{row['moderate']:.2f}</b>" in top
    assert html.count("<table>") == 3
    drawings = [ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>") for part in html.split("<svg")[1:]]
    assert len(drawings) == len(full.results)
    svg = "{http://www.w3.org/2000/svg}"
    for drawing, result in zip(drawings, full.results, strict=True):
        rules = [path.attrib["d"] for path in drawing.findall(f"{svg}path")]
        zero, one = (float(rule.split("H")[0].split(" ")[1]) for rule in (rules[0], rules[-1]))
        curves = drawing.findall(f"{svg}polyline")
        assert len(curves) == 3
        first_y = float(curves[0].attrib["points"].split()[0].split(",")[1])
        assert first_y == pytest.approx(zero + result.curves[0, 0] * (one - zero), abs=0.06)


def test_a_note_is_text_on_the_page(full: Evaluation, tmp_path: Path) -> None:
    noted = Evaluation(frames=1, results=full.results, notes=("<b>5 & more</b>",))
    write_html(noted, tmp_path / "page.html")
    assert "&lt;b&gt;5 &amp; more&lt;/b&gt;" in (tmp_path / "page.html").read_text()
