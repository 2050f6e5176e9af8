"""A run small enough to repeat in every test."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monoskd.engine.load import load_config
from monoskd.engine.run import train

DETECTOR = {
    "class_path": "monoskd.models.DidM3D",
    "init_args": {
        "config": {
            "pretrained": False,
            "backbone_arguments": {"channels": [4, 4, 8, 8, 8, 8]},
            "head_width": 8,
            "input_size": [128, 64],
        }
    },
}


@pytest.fixture
def write_config(scenes: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the configuration of a tiny run; keywords replace its top-level entries."""

    def write(**entries: object) -> Path:
        document = {
            "data": {"root": str(scenes), "batch_size": 2, "workers": 0},
            "out": str(tmp_path / "run"),
            "detector": DETECTOR,
            "optimizer": {"schedule": {"warmup_epochs": 1}},
            "epochs": 2,
            "task_learning": False,
            "validation": {"every": 0},
            "log_every": 1,
            **entries,
        }
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(document))  # JSON is YAML
        return path

    return write


@pytest.fixture
def run(write_config: Callable[..., Path]) -> Iterator[Callable[..., Path]]:
    """Trains the tiny run, keywords as those of `write_config`; `resume` is `train`'s. Returns the run folder."""

    def start(*overrides: str, resume: Path | None = None, **entries: object) -> Path:
        return train(load_config(write_config(**entries), overrides), resume=resume)

    handler = signal.getsignal(signal.SIGINT)  # Lightning ignores Ctrl-C once it has seen one
    yield start
    signal.signal(signal.SIGINT, handler)
