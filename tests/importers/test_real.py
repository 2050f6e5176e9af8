"""The pure parts of the benchmark on real drives; the rest is an hour of training."""

from pathlib import Path

import pytest
import yaml
from real import EPOCHS, STAGES, STARTS, configured, table

from monoskd.engine.load import load_config


@pytest.mark.parametrize("name", ["rendered", "transfer", "monoskd"])
def test_every_run_is_a_configuration_that_can_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(configured(tmp_path, 0, name, epochs=EPOCHS[name])))
    config = load_config(tmp_path / "run.yaml").namespace
    assert (config.data.train, config.data.val) == ("train", "val")
    assert config.data.augmentation is not None
    assert (config.start is None) == (name not in STARTS)


def test_whatever_a_run_starts_from_is_trained_before_it() -> None:
    first, then = STAGES
    assert set(first) | set(then) == set(EPOCHS)
    assert {*STARTS.values(), "teacher"} <= set(first)


def test_the_table_has_mean_and_deviation_over_seeds() -> None:
    rows = [
        {"seed": seed, "run": name, "minutes": 5.0, "Car 3d 0.5": ap, "Car bev 0.5": ap, "Car 3d 0.7": None}
        | {"depth median": 1.5}
        for name in EPOCHS
        for seed, ap in ((0, 10.0), (1, 12.0))
    ]
    assert table(rows).splitlines()[2] == "| teacher | 11.00 ± 1.41 | 11.00 ± 1.41 | none | 1.50 ± 0.00 | 5.00 ± 0.00 |"
