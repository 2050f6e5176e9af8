"""The pure parts of the study; the rest is hours of training."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from gain import pairs_table
from scipy import stats
from scipy.stats import ttest_rel
from study import CELLS, NECK, OBJECT, configured, distillation
from study_report import Difference, comparison_table, cost_table, gains, marks, merged, replaced

from monoskd.engine.load import load_config


def of(*names: str) -> dict[str, Any]:
    return {name: {**vars(CELLS[name]), "control": CELLS[name].control} for name in names}


def test_differences_are_paired_and_their_interval_is_students() -> None:
    values, others = [12.0, 14.5, 9.0, 13.0, 11.5], [10.0, 13.0, 8.5, 12.5, 8.0]
    difference = Difference.of(values, others)
    expected = ttest_rel(values, others).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert str(difference) == "**+1.60 [+0.05, +3.15]**"
    assert str(Difference.of([1.0], [2.0])) == "-1.00"


def test_each_recipe_stands_below_the_control_of_its_length() -> None:
    cells = of("control", "head", "control_long", "objects_long")
    rows = [
        {"seed": seed, "cell": name, "Car 3d 0.5": ap + seed, "depth median": 1.5}
        for seed in (0, 1)
        for name, ap in (("control", 10.0), ("head", 11.0), ("control_long", 20.0), ("objects_long", 19.0))
    ]
    differences = {"head": Difference(1, 1, 1, 2), "objects_long": Difference(-1, -1, -1, 2)}
    lines = comparison_table(rows, differences, cells).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["control", "head (2)", "control_long", "objects_long (2)"]
    assert "**+1.00 [+1.00, +1.00]**" in lines[1]


def test_the_page_keeps_what_was_written_by_hand() -> None:
    page = "before\n<!-- study:1 -->\nold\n<!-- /study -->\nafter\n<!-- study:2 -->\n<!-- /study -->\n"
    once = replaced(page, "1", "new")
    assert once == "before\n<!-- study:1 -->\n\nnew\n\n<!-- /study -->\nafter\n<!-- study:2 -->\n<!-- /study -->\n"
    assert replaced(once, "1", "new") == once
    with pytest.raises(SystemExit, match="with a part `<!-- study:3 -->`"):
        replaced(page, "3", "new")


def test_another_session_adds_its_seeds_and_replaces_only_its_own() -> None:
    before: dict[str, Any] = {"sessions": [], "rows": [], "timed": []}
    for seed, ap in ((0, 1.0), (1, 2.0), (0, 3.0)):
        row = {"seed": seed, "cell": "control", "ap": ap}
        before = merged(before, [row], [row], {"cores": 2})
    assert [row["ap"] for row in before["rows"]] == [row["ap"] for row in before["timed"]] == [2.0, 3.0]
    assert [session["seeds"] for session in before["sessions"]] == [[1], [0]]
    assert before["sessions"][0]["command"] == "python benchmarks/study.py --seeds 1 --cells control"


def test_a_recipe_is_paired_with_the_control_of_its_own_code() -> None:
    def run(cell: str, seed: int, commit: str, ap: float) -> dict[str, object]:
        points = {"Car 3d 0.5": ap, "Car bev 0.5": ap + 1, "Car 3d 0.7": 1.0, "depth median": 0.5}
        return {"cell": cell, "seed": seed, "commit": commit, **points}

    rows = [
        *(run("teacher@200", seed, "new", 40.0) for seed in (1, 2, 3)),
        *(run("control@480", seed, "new", 20.0 + seed) for seed in (1, 2, 3)),
        *(run("mixed@240", seed, "new", 22.0 + 2 * seed) for seed in (1, 2, 3)),
        run("control@480", 1, "old", 5.0),
    ]
    _, _, first, *_, last = pairs_table(rows, "mixed@240").splitlines()
    assert first == "| 1 | 40.0 | 21.0, 22.0, 1.0, 0.50 | 24.0, 25.0, 1.0, 0.50 | +3.0 | +3.0 |"
    half = stats.t.ppf(0.975, 2) / 3**0.5  # differences of 3, 4 and 5
    gained = f"**+4.0 [{4 - half:+.1f}, {4 + half:+.1f}]**"
    assert last.endswith(f"26.0, 27.0, 1.0, 0.50 | {gained} | {gained} |")


def test_a_run_ends_with_what_each_cell_gained() -> None:
    cells = of("control", "head")
    rows = [{"seed": 17, "cell": name, "Car 3d 0.5": ap} for name, ap in (("control", 10.0), ("head", 11.5))]
    assert gains(rows, cells) == "head               AP3D@0.5 11.5, to the control +1.50"


def test_cost_is_a_multiple_of_the_control_of_the_same_seed() -> None:
    cells = of("control", "head")
    rows = [
        {"seed": seed, "cell": name, "train_seconds": seconds, "steps": 100, "peak_memory_mb": 500.0}
        for seed, name, seconds in ((0, "control", 10), (0, "head", 15), (1, "control", 20), (1, "head", 30))
    ]
    assert cost_table(rows, cells).splitlines()[-1] == "| head | 225 | 1.50 | 500 | 1.00 |"


def test_a_mark_is_coloured_where_its_interval_does_not_hold_zero() -> None:
    differences = {
        "better": Difference(1, 0.5, 1.5, 5),
        "worse": Difference(-2, -3, -1, 5),
        "unsure": Difference(1, -1, 3, 5),
        "one seed": Difference.of([1.0], [0.0]),
    }
    assert [mark.tone for mark in marks(differences).values()] == ["good", "bad", "plain", "plain"]


@pytest.mark.parametrize("name", ["teacher", "baseline", *CELLS])
def test_every_cell_is_a_configuration_that_can_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "cell.yaml").write_text(yaml.safe_dump(configured(tmp_path, 0, name)))
    load_config(tmp_path / "cell.yaml")


def test_taps_are_those_that_the_terms_look_at() -> None:
    taps = [one["student"] for one in distillation(CELLS["both_7"], Path("teacher"))["taps"]]
    assert taps == [*NECK, OBJECT]
