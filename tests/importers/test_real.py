"""The pure parts of the benchmark on real drives; the rest is an hour of training."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from real import COLUMNS, RUNS, SMALL, STARTS, WHOLE, car_ap, configured, pairs_table, section, table

from monoskd.engine.load import load_config
from monoskd.engine.measure import Measurement
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.objects import Objects


@pytest.mark.parametrize(
    ("plan", "name"),
    [(WHOLE, "baseline"), (SMALL, "teacher"), (SMALL, "rendered"), (SMALL, "transfer"), (SMALL, "full")],
)
def test_every_run_is_a_configuration_that_can_be_read(plan, name: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(configured(plan, tmp_path, name, 1)))
    config = load_config(tmp_path / "run.yaml").namespace
    assert (config.data.train, config.data.val) == ("train", "val")
    assert config.data.augmentation is not None
    assert (config.start is None) == (name not in STARTS)
    assert (config.distillation is not None) == (name in ("monoskd", "full", "depth_map"))
    assert name in STARTS or tuple(config.detector.init_args.config.input_size) == plan.size


def test_every_run_but_the_teacher_takes_as_many_steps() -> None:
    assert SMALL.steps_of("baseline") == SMALL.steps_of("control") == 8 * 22
    assert SMALL.steps_of("rendered") == pytest.approx(8 * 22, rel=0.05)


def test_whatever_a_run_starts_from_is_trained_before_it() -> None:
    for name, start in STARTS.items():
        assert RUNS.index(start) < RUNS.index(name)


def test_without_drives_the_gpu_section_says_so() -> None:
    assert "name it with --drives" in section(None, minutes=1, small=True)["skipped"]


def test_any_overlap_counts_as_the_evaluation_counts_its_own() -> None:
    rng = np.random.default_rng(0)
    frames = [cars(rng, shift=0.0) for _ in range(30)]
    found = [
        Objects(**{**vars(truth), "bottom": truth.bottom + rng.normal(0, 0.4, (4, 3)), "scores": rng.random(4)})
        for truth in frames
    ]
    measurement = Measurement(truth=frames, detections=found)
    rows = evaluate_kitti(frames, found, classes=["Car"]).rows()
    for metric in ("3d", "bev"):
        for overlap in (0.5, 0.7):
            known = [row for row in rows if (row["metric"], row["iou"], row["recall"]) == (metric, overlap, "R40")]
            assert car_ap(measurement, metric, overlap) == pytest.approx(known[0]["moderate"])
    assert 100 > car_ap(measurement, "3d", 0.3) > car_ap(measurement, "3d", 0.5) > 0


def cars(rng: np.random.Generator, *, shift: float) -> Objects:
    bottom = np.column_stack([rng.uniform(-8, 8, 4), np.full(4, 1.6), rng.uniform(8, 30, 4)]) + shift
    boxes = np.column_stack([bottom[:, 0] * 40 + 600, np.full(4, 100.0), bottom[:, 0] * 40 + 660, np.full(4, 170.0)])
    none, size = np.zeros(4), np.tile([1.5, 1.6, 4.0], (4, 1))
    return Objects(np.array(["Car"] * 4), none, none.astype(int), none, boxes, size, bottom, none)


def test_the_tables_have_deviations_and_paired_intervals_over_seeds() -> None:
    rows = [
        {"seed": seed, "cell": name, "steps": 8, **dict.fromkeys(COLUMNS, ap + (name == "full"))}
        for name in ("teacher", "control", "full")
        for seed, ap in ((0, 10.0), (1, 12.0), (2, 14.0))
    ]
    cells = " | ".join(["12.00 ± 2.00"] * 5)
    assert table(rows).splitlines()[2] == f"| teacher | 3 | {cells} | 8 |"
    assert pairs_table(rows).splitlines()[2:] == [
        "| `full` to its control (3) | " + " | ".join(["**+1.00 [+1.00, +1.00]**"] * 5) + " |"
    ]
