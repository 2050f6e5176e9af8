"""Recordings of other published detectors, the weights they were made with and the frames they look at."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor


@pytest.fixture(scope="session")
def golden_detectors(shared: Path) -> Path:
    """The folder of recordings: MONOSKD_GOLDEN_DETECTORS, or the one in the reference material."""
    folder = Path(os.environ.get("MONOSKD_GOLDEN_DETECTORS", shared / "reference" / "detectors"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}: set MONOSKD_GOLDEN_DETECTORS")
    return folder


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of the weights and inputs behind the recordings."""
    return int(os.environ.get("MONOSKD_GOLDEN_SEED", "0"))


@pytest.fixture(scope="session")
def named_weights(shared: Path) -> ModuleType:
    """The reference's maker of weights and inputs: each tensor a function of its name, its shape and a seed."""
    spec = importlib.util.spec_from_file_location("named_weights", shared / "reference" / "named_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def published_state(golden_detectors: Path, seed: int, named_weights: ModuleType) -> Callable[[str], dict[str, Tensor]]:
    """`published_state("monodle")`: a state dict in the published names."""

    def state(network: str) -> dict[str, Tensor]:
        spec = json.loads((golden_detectors / f"{network}_state.json").read_text())
        return dict(named_weights.named_state(spec, seed))

    return state
