"""A detector small enough to predict in every test."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.weights import save_model


def tiny_detector(**settings: object) -> DidM3D:
    """An untrained detector for pictures of any size."""
    torch.manual_seed(0)
    config = DidM3DConfig(
        pretrained=False,
        backbone_arguments={"channels": [4, 4, 8, 8, 8, 8]},
        head_width=8,
        input_size=(128, 64),
        **settings,  # type: ignore[arg-type]
    )
    return DidM3D(config).eval()


@pytest.fixture(scope="session")
def make_detector() -> Callable[..., DidM3D]:
    """`tiny_detector`."""
    return tiny_detector


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a student."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(tiny_detector(), path, provenance={})
    return path


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a teacher."""
    path = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    save_model(tiny_detector(modality="depth"), path, provenance={})
    return path
