"""How many processes load frames, and what a run says that waits for them."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monoskd.engine import callbacks, machine
from monoskd.engine.callbacks import Waiting
from monoskd.engine.load import load_config
from monoskd.engine.machine import loader_processes


@pytest.mark.parametrize(
    ("given", "devices", "cores", "cuda", "expected"),
    [
        (None, 1, 16, False, 2),
        (None, 1, 12, True, 12),
        (None, 4, 32, True, 8),
        (None, 1, 64, True, 16),
        (None, 8, 4, True, 1),
        (5, 1, 64, True, 5),
        (0, 1, 64, True, 0),
    ],
)
def test_gpus_share_the_cores_unless_the_config_says_otherwise(
    given: int | None, devices: int, cores: int, cuda: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    config = load_config(Path("kitti/baseline.yaml"), ["--detector.init_args.config.pretrained", "false"]).settings()
    config = replace(config, devices=devices, data=replace(config.data, workers=given))
    assert loader_processes(config) == expected


def epoch(callback: Waiting, clock: SimpleNamespace, *, first: float, wait: float, step: float) -> None:
    """An epoch of eleven steps."""
    trainer: Any = SimpleNamespace(is_global_zero=True)
    for index in range(11):
        clock.now += wait if index else first
        callback.on_train_batch_start(trainer, None, None, index)  # type: ignore[arg-type]
        clock.now += step
        callback.on_train_batch_end(trainer, None, None, None, index)  # type: ignore[arg-type]
    callback.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(callbacks, "cores", lambda: 16)
    return clock


def test_a_run_that_waits_for_frames_says_so_once(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    callback = Waiting(workers=2, cached=False)
    epoch(callback, clock, first=30.0, wait=1.0, step=1.0)
    epoch(callback, clock, first=30.0, wait=1.0, step=1.0)
    assert capsys.readouterr().err == (
        "loader: 10 of the epoch's 21 s were spent waiting for frames: raise `--data.workers` (2 a device now, of 16 "
        "cores), or set `--data.cache true`\n"
    )


@pytest.mark.parametrize(("wait", "step"), [(0.4, 1.0), (0.4, 0.1)])  # a small part of it; a few seconds
def test_a_run_that_hardly_waits_says_nothing(
    wait: float, step: float, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch(Waiting(workers=2, cached=False), clock, first=30.0, wait=wait, step=step)
    assert capsys.readouterr().err == ""


def test_where_frames_are_kept_the_second_epoch_counts(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = Waiting(workers=2, cached=True)
    epoch(callback, clock, first=0.0, wait=9.0, step=1.0)
    assert capsys.readouterr().err == ""
    epoch(callback, clock, first=0.0, wait=2.0, step=1.0)
    assert capsys.readouterr().err.endswith("raise `--data.workers` (2 a device now, of 16 cores)\n")
