"""The learning rate of the shipped config of the published training against the recorded one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from monoskd.engine.schedule import LearningRateSchedule

CONFIG = Path(__file__).parents[3] / "src/monoskd/configs/kitti/monodle/baseline_published.yaml"


def test_the_rate_of_every_epoch_repeats_the_recording(recorded: Callable[[str], dict[str, np.ndarray]]) -> None:
    settings = yaml.safe_load(CONFIG.read_text())
    schedule = LearningRateSchedule(**settings["optimizer"]["schedule"])
    arrays = recorded("learning_rate")
    rates = next(array for array in arrays.values() if array.ndim == 1 and len(array) == settings["epochs"])
    np.testing.assert_allclose([schedule.rate(epoch) for epoch in range(settings["epochs"])], rates, rtol=1e-6)
