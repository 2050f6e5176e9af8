import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

Run = Callable[..., Path]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def losses(folder: Path) -> list[str]:
    return [row["train/loss"] for row in rows(folder) if row["train/loss"]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_run_folder_holds_all_that_is_promised(run: Run) -> None:
    folder = run(validation={"every": 1})
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "model.safetensors", "manifest.json", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert len(losses(folder)) == 4
    terms = ("heatmap", "offset_2d", "size_2d", "offset_3d", "size_3d", "heading", "depth")
    assert all(any(float(row[f"train/{term}"] or 0) for row in rows(folder)) for term in terms)
    assert sum(row["val/Car_3d"] != "" for row in rows(folder)) == 2
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["schema"] == "monoskd/run/1"
    assert (manifest["seed"], manifest["steps"], manifest["epochs"]) == (0, 4, 2)
    assert manifest["frames"] == {"train": 4, "val": 2}


def test_the_same_seed_gives_the_same_run_whatever_the_workers(run: Run, tmp_path: Path) -> None:
    first = run(out=str(tmp_path / "first"))
    again = run("--data.workers", "1", out=str(tmp_path / "again"))
    other = run(out=str(tmp_path / "other"), seed=1)
    assert losses(first) == losses(again)
    assert_same_weights(first, again)
    assert losses(first) != losses(other)


def test_a_resumed_run_is_the_run_that_was_never_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monoskd.engine.schedule.TaskWeights.history", 2)
    straight = run(out=str(tmp_path / "straight"), task_learning=True, epochs=4)
    stopped = run(out=str(tmp_path / "stopped"), task_learning=True, epochs=2)
    resumed = run(out=str(stopped), task_learning=True, epochs=4, resume=stopped)
    assert resumed == stopped
    assert (resumed / "metrics.csv").read_text() == (straight / "metrics.csv").read_text()
    assert_same_weights(straight, resumed)
