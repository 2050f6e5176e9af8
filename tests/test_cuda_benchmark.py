"""The benchmark for GPUs runs on the CPU in a small form, so that it needs no hand once there is a GPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cuda_sections
import learning
import pytest
import torch
from workload import RECIPES, Workload

BENCHMARKS = Path(cuda_sections.__file__).parent


@pytest.fixture
def setup() -> cuda_sections.Setup:
    return cuda_sections.Setup(torch.device("cpu"), small=True, until=time.monotonic() + 300)


def test_results_are_written_after_each_section(
    setup: cuda_sections.Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(setup: cuda_sections.Setup) -> dict[str, object]:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(cuda_sections.SECTIONS, "broken", broken)
    cuda_sections.run_sections(["broken", "ranks", "loader"], setup, tmp_path / "cuda.json")
    document = json.loads((tmp_path / "cuda.json").read_text())
    assert document["schema"] == "monoskd/cuda/1"
    assert {"torch", "python"} <= document["versions"].keys()
    assert document["sections"]["broken"]["error"] == "RuntimeError: no such kernel"
    assert all(value > 0 for value in document["sections"]["ranks"]["result"]["480"].values())
    loader = document["sections"]["loader"]["result"]
    assert loader["images_a_second"]["0 workers"] > 0
    assert loader["steps_consume"]["student"] > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_a_step_that_learns(recipe: str) -> None:
    workload = Workload.make(recipe, device=torch.device("cpu"), small=True)
    before = {name: value.clone() for name, value in workload.student.named_parameters()}
    assert workload.step().isfinite()
    assert any(not torch.equal(value, before[name]) for name, value in workload.student.named_parameters())
    assert ("distillation" in workload.losses()) == (recipe != "student")


def test_goals_are_ratios_of_what_was_measured() -> None:
    rows = {"monoskd, bf16": {"ms": 30.0, "peak_mib": None}, "student, bf16": {"ms": 25.0, "peak_mib": None}}
    rows["monoskd_published, fp32"] = {"ms": 60.0, "peak_mib": None}
    assert cuda_sections.goals(rows) == {"monoskd / student, bf16, ms": 1.2, "monoskd / published form, bf16, ms": 0.5}


def test_the_script_hides_no_part_of_nvidias_package(tmp_path: Path) -> None:
    part = tmp_path / "cuda" / "bindings"
    part.mkdir(parents=True)
    (part / "__init__.py").write_text("value = 42\n")
    path = os.pathsep.join(map(str, (BENCHMARKS, tmp_path)))
    code = "import cuda.bindings; print(cuda.__file__, cuda.bindings.value)"
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(BENCHMARKS / "cuda.py"), "42"]


@pytest.mark.slow
def test_all_sections_run_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cuda.py", "--small", "--out", str(tmp_path / "cuda.json")])
    assert cuda_sections.main(None) == 0
    sections = json.loads((tmp_path / "cuda.json").read_text())["sections"]
    assert [*sections] == [*cuda_sections.SECTIONS]
    assert sections["right"]["result"]["failed"] == {}
    assert sections["right"]["result"]["tests"] > 20
    inference = sections["inference"]["result"]
    assert [*inference] == [
        *(f"batch {batch}, {kind}" for batch in (1, 2) for kind in ("fp32", "half")),
        *(f"batch {batch}, exported graph on cpu" for batch in (1, 2)),
    ]
    assert all(row["ms_a_picture"] > 0 for row in inference.values())
    assert all(sections["learning"]["result"][recipe]["steps"] > 0 for recipe in ("teacher", *learning.STUDENTS))
