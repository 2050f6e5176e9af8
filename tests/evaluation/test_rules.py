"""The rules of docs/evaluation.md, an example each, worked out by hand.

AP|R11 of a single threshold with precision p is p / 11, for only point 0 of the curve is sampled.
"""

import numpy as np
import pytest

from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.kitti.io import parse_objects
from monoskd.objects import Objects

FOUND = 100 / 11


def label(name: str = "Car", *, x_m: float = 0.0, box: str = "100 100 200 200", state: str = "0.00 0") -> str:
    return f"{name} {state} 0.00 {box} 1.50 1.60 4.00 {x_m} 1.60 20.00 0.00"


def frame(*lines: str) -> Objects:
    return parse_objects("\n".join(lines), source="test")


def ap_r11(
    truth: list[str], found: list[str], *, name: str = "Car", metric: str = "3d", difficulty: str = "easy"
) -> float:
    evaluation = evaluate_kitti([frame(*truth)], [frame(*found)])
    result = next(r for r in evaluation.results if (r.class_name, r.metric) == (name, metric))
    return result.average_precision("R11")[difficulty]


@pytest.mark.parametrize(
    ("bottom_px", "state", "expected"),
    [
        ("140.00", "0.00 0", (0, FOUND, FOUND)),
        ("140.01", "0.00 0", (FOUND, FOUND, FOUND)),
        ("125.00", "0.00 0", (0, 0, 0)),
        ("200.00", "0.15 0", (FOUND, FOUND, FOUND)),
        ("200.00", "0.16 0", (0, FOUND, FOUND)),
        ("200.00", "0.30 0", (0, FOUND, FOUND)),
        ("200.00", "0.31 0", (0, 0, FOUND)),
        ("200.00", "0.51 0", (0, 0, 0)),
        ("200.00", "0.00 1", (0, FOUND, FOUND)),
        ("200.00", "0.00 2", (0, 0, FOUND)),
        ("200.00", "0.00 3", (0, 0, 0)),
    ],
)
def test_which_objects_must_be_found(bottom_px: str, state: str, expected: tuple[float, float, float]) -> None:
    truth = [label(state=state, box=f"100 100 200 {bottom_px}")]
    for difficulty, value in zip(("easy", "moderate", "hard"), expected, strict=True):
        assert ap_r11(truth, [f"{label()} 0.5"], difficulty=difficulty) == pytest.approx(value)


@pytest.mark.parametrize(
    ("there", "found", "other", "expected"),
    [("Van", "Car", "Car", 1), ("Truck", "Car", "Car", 1 / 2), ("Person_sitting", "Pedestrian", "Pedestrian", 1)],
)
def test_a_neighbour_absorbs_and_others_do_not(there: str, found: str, other: str, expected: float) -> None:
    truth = [label(other), label(there, x_m=10)]
    detections = [f"{label(other)} 0.5", f"{label(found, x_m=10)} 0.9"]
    assert ap_r11(truth, detections, name=other) == pytest.approx(FOUND * expected)


def test_a_small_detection_absorbs_whatever_its_class() -> None:
    truth = [label(), label(x_m=10)]
    small = f"{label('Cyclist', box='100 100 200 139')} 0.9"
    assert ap_r11(truth, [small, f"{label(x_m=10)} 0.5"]) == pytest.approx(FOUND)
    assert ap_r11(truth, [small, f"{label()} 0.5"]) == 0  # the better-scored absorbs the object in step 1


def test_a_small_detection_is_no_false_alarm() -> None:
    nowhere = label(x_m=50, box="100 100 200 139")
    assert ap_r11([label()], [f"{nowhere} 0.9", f"{label()} 0.5"]) == pytest.approx(FOUND)


def test_the_overlap_must_exceed_the_least() -> None:
    truth = [label("Pedestrian")]
    half, more = (f"{label('Pedestrian', box=f'100 100 {right} 200')} 0.5" for right in ("150", "150.5"))
    assert ap_r11(truth, [half], name="Pedestrian", metric="bbox") == 0
    assert ap_r11(truth, [more], name="Pedestrian", metric="bbox") == pytest.approx(FOUND)


def test_objects_choose_greedily_in_file_order() -> None:
    near, far = label(x_m=0.0), label(x_m=0.6)  # 4 m long cars, so that 0.6 m off is an overlap of 0.74
    found = frame(f"{label(x_m=0.2)} 0.9", f"{label(x_m=-0.4)} 0.5")  # the second is no match for the far car
    hits = {}
    for name, truth in {"near first": frame(near, far), "far first": frame(far, near)}.items():
        results = evaluate_kitti([truth], [found]).results
        strict = next(r for r in results if (r.class_name, r.metric) == ("Car", "3d"))
        hits[name] = np.count_nonzero(strict.curves[0])
    assert hits == {"near first": 1, "far first": 2}


def test_dont_care_forgives_in_two_dimensions_only() -> None:
    region = "DontCare -1 -1 -10 300 100 380 200 -1 -1 -1 -1000 -1000 -1000 -10"
    inside, outside = (f"{label(x_m=50, box=f'{left} 100 {left + 100} 200')} 0.9" for left in (300, 315))
    for metric, detection, precision in (("bbox", inside, 1), ("bbox", outside, 1 / 2), ("3d", inside, 1 / 2)):
        assert ap_r11([label(), region], [detection, f"{label()} 0.5"], metric=metric) == pytest.approx(
            FOUND * precision
        )


def test_a_false_alarm_below_every_threshold_costs_nothing() -> None:
    assert ap_r11([label()], [f"{label()} 0.5", f"{label(x_m=30)} 0.4"]) == pytest.approx(FOUND)
    assert ap_r11([label()], [f"{label()} 0.5", f"{label(x_m=30)} 0.5"]) == pytest.approx(FOUND / 2)


@pytest.mark.parametrize(("alpha", "share"), [("0.00", 1), ("1.5707963267948966", 1 / 2), ("3.141592653589793", 0)])
def test_orientation_weighs_hits(alpha: str, share: float) -> None:
    turned = label().replace(" 0.00 100 ", f" {alpha} 100 ")
    assert ap_r11([label()], [f"{turned} 0.5"], metric="aos") == pytest.approx(FOUND * share)
    assert ap_r11([label()], [f"{turned} 0.5"], metric="bbox") == pytest.approx(FOUND)
