"""Does a detector keep its promises? `check_detector` is for the tests of whoever writes one (docs/extend.md)."""

import copy
from typing import Any

import torch

from monoskd.errors import Complaints
from monoskd.structures import Batch, Detector
from monoskd.testing.promises import PROMISES, inputs_stay_as_they_are, settings
from monoskd.testing.streets import focal_px, streets

__all__ = ["check_detector"]


def check_detector(detector: Detector) -> None:
    """Try what training, validation, prediction and distillation ask of a detector, on two rendered streets.

    Raises InputError that names every broken promise. The detector stays as it is. Let it be small, a few hundred
    pixels wide: it makes 15 steps of training. Cars go by its first class where it has no class `Car`.
    """
    complaints = Complaints()
    complaints.lines += _broken(settings, detector, None)
    complaints.raise_any()  # without these there is nothing to try
    trained = copy.deepcopy(detector)
    trained.adapt_to(**focal_px(streets(trained)))
    batch = streets(trained)  # targets may depend on the focal lengths
    complaints.lines += _broken(inputs_stay_as_they_are, copy.deepcopy(trained), copy.deepcopy(batch))
    complaints.raise_any()  # what changes its input breaks the others, too, with misleading words
    for promise in PROMISES:
        complaints.lines += _broken(promise, copy.deepcopy(trained), batch)
    complaints.raise_any()


def _broken(promise: Any, detector: Detector, batch: Batch | None) -> list[str]:
    """What breaks a promise, each a line that says whose and which promise it is."""
    lines: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            lines.extend(promise(detector, batch))
        except Exception as error:
            lines.append(f"expected no error, got {type(error).__name__}: {error}")
    name = promise.__name__.replace("_", " ")
    return [f"{type(detector).__name__}: {name}: {line}" for line in lines]
