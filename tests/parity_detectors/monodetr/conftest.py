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
def batch_of(
    exact_sample: Callable[[str, str, tuple[Sample, Arrays]], Sample], samples: dict[str, tuple[Sample, Arrays]]
) -> Callable[[Any], Batch]:
    """`batch_of(frames)`: our samples as a batch, with exactly the pictures that the original saw."""

    def batch(frames: Any) -> Batch:
        names = [str(name) if "_" in str(name) else f"{name}_plain" for name in frames]
        if missing := [name for name in names if name not in samples]:
            pytest.fail(f"no recorded targets of {', '.join(missing)}, which other recordings there are of")
        return Batch.collate([exact_sample("monodetr", name, samples[name]) for name in names])

    return batch
