"""MonoDLE as published, the recordings of the original, and the recorded frames as our data pipeline gives them."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.models.monodle import MonoDLE
from monoskd.models.monodle.published import from_published
from monoskd.structures import Batch, Detector, Sample

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def recorded(read_recording: Callable[[str, str], Arrays]) -> Callable[[str], Arrays]:
    """`recorded("inference")`: the arrays of one recording."""
    return lambda name: read_recording("monodle", name)


@pytest.fixture(scope="session")
def new_detector(published_state: Callable[[str], dict[str, Tensor]]) -> Callable[[], MonoDLE]:
    """The published network with its weights, anew at each call."""
    state = published_state("monodle")
    return lambda: from_published(state)[0]


@pytest.fixture(scope="session")
def detector(new_detector: Callable[[], MonoDLE]) -> MonoDLE:
    """The same, in evaluation mode."""
    return new_detector()


@pytest.fixture(scope="session")
def samples(
    read_samples: Callable[[str, Detector], dict[str, tuple[Sample, Arrays]]], detector: MonoDLE
) -> dict[str, tuple[Sample, Arrays]]:
    """Our sample and the recorded arrays of each `<frame>_<kind>` that lies there."""
    return read_samples("monodle", detector)


@pytest.fixture(scope="session")
def batch_of(exact_batches: Callable[[str, Any], Callable[[Any], Batch]], samples: Any) -> Callable[[Any], Batch]:
    """`batch_of(frames)`: our samples as a batch, with exactly the pictures that the original saw."""
    return exact_batches("monodle", samples)


@pytest.fixture(scope="session")
def named_heads(named_weights: ModuleType, seed: int) -> Callable[[int], dict[str, Tensor]]:
    """`named_heads(b)`: the raw heads that the losses without a network were recorded on: leaves, b x C x 96 x 320."""
    made = {
        "heatmap": (3, 1, -2.19),
        "offset_2d": (2, 0.5, 0.5),
        "size_2d": (2, 3, 12),
        "depth": (2, 0.3, -2),
        "offset_3d": (2, 0.5, 0.5),
        "size_3d": (3, 0.3, 2),
        "heading": (24, 1, 0),
    }

    def heads(images: int) -> dict[str, Tensor]:
        drawn = {
            name: named_weights.named_input(f"head.{name}", (images, count, 96, 320), seed) * factor + offset
            for name, (count, factor, offset) in made.items()
        }
        return {name: torch.as_tensor(head).requires_grad_() for name, head in drawn.items()}

    return heads
