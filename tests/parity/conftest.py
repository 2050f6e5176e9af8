"""What the parity tests share: recorded outputs of the original implementation and the weights they were made with."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """The folder of recordings: MONOSKD_GOLDEN, or the one in the reference material."""
    folder = Path(os.environ.get("MONOSKD_GOLDEN", shared / "reference" / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}: set MONOSKD_GOLDEN")
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
def named_state(shared: Path, seed: int, named_weights: ModuleType) -> Callable[[str], dict[str, Tensor]]:
    """`named_state("did" | "monoskd" | "monodistill")`: a state dict in the published names."""

    def state(network: str) -> dict[str, Tensor]:
        spec = json.loads((shared / "reference" / f"{network}_state.json").read_text())
        return dict(named_weights.named_state(spec, seed))

    return state


@pytest.fixture(scope="session")
def rgb_and_depth(seed: int, named_weights: ModuleType) -> tuple[Tensor, Tensor]:
    """The inputs of the recorded networks, normalised and of 3 channels: 2 x 3 x 128 x 416 each."""
    rgb = named_weights.named_input("rgb", (2, 3, 128, 416), seed)
    depth = named_weights.named_input("depth", (2, 3, 128, 416), seed).abs() * 0.3
    return rgb, depth


@pytest.fixture(scope="session")
def p2() -> Tensor:
    """The camera of the recorded networks: 3 x 4."""
    return torch.tensor(
        [[721.5377, 0.0, 609.5593, 44.85728], [0.0, 721.5377, 172.854, 0.2163791], [0.0, 0.0, 1.0, 0.002745884]]
    )
