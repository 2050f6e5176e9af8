"""A model small enough to predict in every test."""

from pathlib import Path

import pytest
import torch

from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.weights import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of an untrained student."""
    torch.manual_seed(0)
    config = DidM3DConfig(
        backbone_arguments={"channels": [4, 4, 8, 8, 8, 8]}, pretrained=False, head_width=8, input_size=(128, 64)
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(DidM3D(config), path, provenance={})
    return path
