"""Tests on a GPU. MONOSKD_CUDA_TESTS_ON=cpu runs them on the CPU, so that they are known to run."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    name = os.environ.get("MONOSKD_CUDA_TESTS_ON", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    return torch.device(name)
