"""MonoDETR as published, the recordings of the original, and the recorded frames as our data pipeline gives them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from monoskd.models.monodetr import MonoDETR
from monoskd.models.monodetr.published import from_published
from monoskd.structures import Batch, Detector, Sample

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def recorded(read_recording: Callable[[str, str], Arrays]) -> Callable[[str], Arrays]:
    """`recorded("inference")`: the arrays of one recording."""
    return lambda name: read_recording("monodetr", name)


@pytest.fixture(scope="session")
def new_detector(published_state: Callable[[str], dict[str, Tensor]]) -> Callable[[], MonoDETR]:
    """The published network with its weights, anew at each call; without dropout, as in the recordings."""
    state = published_state("monodetr")

    def build() -> MonoDETR:
        detector = from_published(state)[0]
        for module in detector.modules():
            for name in ("p", "dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        return detector

    return build


@pytest.fixture(scope="session")
def detector(new_detector: Callable[[], MonoDETR]) -> MonoDETR:
    """The same, in evaluation mode."""
    return new_detector()


@pytest.fixture(scope="session")
def samples(
    read_samples: Callable[[str, Detector], dict[str, tuple[Sample, Arrays]]], detector: MonoDETR
) -> dict[str, tuple[Sample, Arrays]]:
    """Our sample and the recorded arrays of each `<frame>_<kind>` that lies there."""
    return read_samples("monodetr", detector)


@pytest.fixture(scope="session")
def batch_of(exact_batches: Callable[[str, Any], Callable[[Any], Batch]], samples: Any) -> Callable[[Any], Batch]:
    """`batch_of(frames)`: our samples as a batch, with exactly the pictures that the original saw."""
    return exact_batches("monodetr", samples)
