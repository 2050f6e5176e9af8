"""The official evaluation's rules, one case each, and real labels with jittered detections."""

import json
import os
from pathlib import Path

import pytest

from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.kitti.io import read_objects, read_split

CASES = Path(os.environ.get("MONOSKD_SHARED", Path(__file__).parents[3] / "shared")) / "evaluation"
NAMES = sorted(path.parent.name for path in CASES.glob("*/expected.json"))
"""Found when the tests are collected; none where there is no reference material."""


@pytest.mark.kitti
@pytest.mark.parametrize("name", NAMES)
def test_case(name: str) -> None:
    frames = read_split(CASES / name / "ids.txt")
    expected = json.loads((CASES / name / "expected.json").read_text())
    truth = [read_objects(CASES / name / "label_2" / f"{frame}.txt") for frame in frames]
    results = [CASES / name / "det" / f"{frame}.txt" for frame in frames]
    found = [read_objects(path, scored=True) for path in results]
    rows = evaluate_kitti(truth, found).rows()
    ours = {(row["class"], row["metric"], row["iou"], row["recall"]): row for row in rows}
    assert len(frames) == expected["frames"]
    for row in expected["results"]:
        for difficulty in ("easy", "moderate", "hard"):
            value = ours[row["class"], row["metric"], row["iou"], row["recall"]][difficulty]
            if row[difficulty] is None:
                assert value is None or value == 0
            else:
                assert value == pytest.approx(row[difficulty], abs=1e-4), (row, difficulty)
