"""A server on a detector whose boxes are known, in this process and in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DETECTORS = Path(__file__).parent / "detectors"
SOURCE = Path(__file__).parents[2] / "src"


def _jpeg(width: int = 640, height: int = 200, *, grey: int | None = None, **options: object) -> bytes:
    """The bytes of a picture: noise, or one grey."""
    shape = (height, width, 3)
    noise = np.random.default_rng(0).integers(60, 200, shape, np.uint8)
    file = BytesIO()
    Image.fromarray(noise if grey is None else np.full(shape, grey, np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """Makes the bytes of a picture."""
    return _jpeg


@pytest.fixture(scope="session")
def known_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model file of `KnownStreet`. Its module can be imported here and in processes that this one starts."""
    from monoskd.models.weights import save_model

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DETECTORS))
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(DETECTORS), str(SOURCE)])
        )  # detectors are only taken from there
        from known_street import KnownStreet

        path = tmp_path_factory.mktemp("known") / "known.safetensors"
        save_model(KnownStreet(), path, provenance={})
        yield path


@pytest.fixture(scope="session")
def start_server(known_model: Path) -> Iterator[Callable[..., str]]:
    """Starts `monoskd serve` with further words in a process of its own; returns the address."""
    pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'monoskd[serve]'")
    processes = []

    def start(*words: str, model: Path = known_model) -> str:
        command = [sys.executable, "-m", "monoskd", "serve", "--model", str(model), "--port", "0", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split(" at ")[1].split()[0]

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="session")
def address(start_server: Callable[..., str]) -> str:
    """The address of a server that knows the example."""
    return start_server()
