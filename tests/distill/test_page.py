"""The newcomer's page: every block of code runs as it stands, in order."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from monoskd.distill import Distiller

PAGE = (Path(__file__).parents[2] / "docs" / "distiller.md").read_text()


def blocks(language: str) -> list[str]:
    """The page's blocks; those from examples/ are run there."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return [block for block in found if not block.startswith("# examples/")]


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, scope)
    assert scope["readings"]["flight/task/loss_share"] > 0
    assert (tmp_path / "flight.csv").read_text().count("\n") == 2
    (text,) = blocks("yaml")
    distiller = Distiller.from_config(yaml.safe_load(text), student=scope["student"], teacher=scope["teacher"])
    assert set(distiller(scope["images"]).terms) == {"rank", "logits"}
