"""The examples of the documentation, as a reader would run them, only shorter."""

import math
import re
import runpy
from pathlib import Path
from textwrap import indent

import pytest
from torch import nn

from monoskd.distill import Distiller

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("name", "steps"), [("distil_classifiers", 4), ("distil_timm", 4), ("distil_fpn", 3)])
def test_an_example_learns_and_leaves_no_hook(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Distiller] = []
    build = Distiller.__init__

    def remember(self: Distiller, *args: object, **options: object) -> None:
        build(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Distiller, "__init__", remember)
    losses = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](steps)
    assert len(losses) == steps
    assert losses[-1] < losses[0]
    (distiller,) = made
    assert not any(hooks(network) for network in (distiller, distiller.teacher))


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_the_page_shows_what_the_examples_do() -> None:
    page = (EXAMPLES.parent / "docs" / "distiller.md").read_text()
    shown = re.findall(r"```python\n# examples/(\w+\.py)\n(.*?)```", page, flags=re.DOTALL)
    assert {name for name, _ in shown} == {"distil_classifiers.py", "distil_timm.py", "distil_fpn.py"}
    for name, code in shown:
        assert indent(code, "    ") in (EXAMPLES / name).read_text(), name


def test_the_kitti_recipe_runs_on_rendered_frames(scenes: Path) -> None:
    losses = runpy.run_path(str(EXAMPLES / "distil_kitti.py"))["main"](str(scenes), steps=1)
    assert len(losses) == 1
    assert all(math.isfinite(loss) for loss in losses)
