"""The learning rate of the shipped configs against the recorded one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from monoskd.engine.schedule import LearningRateSchedule

CONFIGS = Path(__file__).parents[3] / "src/monoskd/configs/kitti/monodetr"


@pytest.mark.parametrize("name", ["baseline", "baseline_published", "teacher"])
def test_the_rate_of_every_epoch_repeats_the_recording(
    name: str, recorded: Callable[[str], dict[str, np.ndarray]]
) -> None:
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    schedule = LearningRateSchedule(**settings["optimizer"]["schedule"])
    rates = recorded("learning_rate")["learning_rate_f64"]
    np.testing.assert_allclose([schedule.rate(epoch) for epoch in range(settings["epochs"])], rates, rtol=1e-12)
