"""The benchmark for GPUs runs on the CPU in a small form, so that it needs no hand once there is a GPU."""

import json
import time
from pathlib import Path

import gpu
import pytest
import torch


@pytest.fixture
def setup() -> gpu.Setup:
    return gpu.Setup(torch.device("cpu"), small=True, until=time.monotonic() + 300)


def test_results_are_written_after_each_section(
    setup: gpu.Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(setup: gpu.Setup) -> dict[str, object]:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(gpu.SECTIONS, "broken", broken)
    gpu.run_sections(["broken", "ranks", "inference"], setup, tmp_path / "gpu.json")
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["schema"] == "monoskd/gpu/1"
    assert {"torch", "python"} <= document["versions"].keys()
    assert document["sections"]["broken"]["error"] == "RuntimeError: no such kernel"
    assert all(value > 0 for value in document["sections"]["ranks"]["result"]["480"].values())
    assert document["sections"]["inference"]["result"]["batch 1, fp32"]["ms_a_picture"] > 0


@pytest.mark.parametrize("recipe", gpu.RECIPES)
def test_every_recipe_takes_a_step_that_learns(recipe: str) -> None:
    workload = gpu.Workload.make(recipe, device=torch.device("cpu"), small=True)
    before = {name: value.clone() for name, value in workload.student.named_parameters()}
    assert workload.step().isfinite()
    assert any(not torch.equal(value, before[name]) for name, value in workload.student.named_parameters())
    assert ("distillation" in workload.losses()) == (recipe != "student")


def test_goals_are_ratios_of_what_was_measured() -> None:
    rows = {"monoskd, bf16": {"ms": 30.0, "peak_mib": None}, "student, bf16": {"ms": 25.0, "peak_mib": None}}
    rows["monoskd_published, fp32"] = {"ms": 60.0, "peak_mib": None}
    assert gpu.goals(rows) == {"monoskd / student, ms": 1.2, "monoskd / published form, ms": 0.5}


@pytest.mark.slow
def test_all_sections_run_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--small", "--out", str(tmp_path / "gpu.json")])
    assert gpu.main() == 0
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [*sections] == [*gpu.SECTIONS]
    assert sections["right"]["result"]["failed"] == {}
    assert sections["right"]["result"]["tests"] > 20
    assert sections["learning"]["result"]["monoskd"]["steps"] > 0
