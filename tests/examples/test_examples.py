"""The examples of the documentation, as a reader would run them, only shorter."""

import math
import re
import runpy
from pathlib import Path
from textwrap import indent

import pytest
from PIL import Image
from torch import nn

from monoskd.distill import Distiller

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDED = {
    "distil_huggingface": ["transformers"],
    "distil_trainer": ["transformers", "accelerate"],
    "distil_accelerate": ["accelerate"],
}
LIGHTNING = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # about loaders; torch's pytrees
HUGGING_FACE = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("distil_classifiers", 4),
        ("distil_timm", 4),
        ("distil_fpn", 3),
        ("distil_detector", 3),
        ("distil_segmentation", 3),
        pytest.param("distil_lightning", 4, marks=LIGHTNING),
        pytest.param("distil_huggingface", 4, marks=HUGGING_FACE),
        pytest.param("distil_trainer", 4, marks=HUGGING_FACE),
        pytest.param("distil_accelerate", 4, marks=HUGGING_FACE),
    ],
)
def test_an_example_learns_and_leaves_no_hook(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Distiller] = []
    build = Distiller.__init__

    def remember(self: Distiller, *args: object, **options: object) -> None:
        build(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Distiller, "__init__", remember)
    for package in NEEDED.get(name, ()):
        pytest.importorskip(package)
    losses = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](steps)
    assert len(losses) == steps
    assert losses[-1] < losses[0]
    (distiller,) = made
    assert not any(hooks(network) for network in (distiller, *distiller.teachers.values()))


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_the_page_shows_what_the_examples_do() -> None:
    page = (EXAMPLES.parent / "docs" / "distiller.md").read_text()
    shown = re.findall(r"```python\n# examples/(\w+\.py)\n(.*?)```", page, flags=re.DOTALL)
    assert {"distil_classifiers.py", "distil_timm.py", "distil_fpn.py"} <= {name for name, _ in shown}
    for name, code in shown:
        assert indent(code, "    ") in (EXAMPLES / name).read_text(), name


def test_a_folder_without_labels_is_enough(tmp_path: Path) -> None:
    for index in range(4):
        Image.effect_noise((50, 40), 20 * index).convert("RGB").save(tmp_path / f"{index}.png")
    losses = runpy.run_path(str(EXAMPLES / "distil_unlabelled.py"))["main"](str(tmp_path), 4)
    assert losses[-1] < losses[0]


def test_the_kitti_recipe_runs_on_rendered_frames(scenes: Path) -> None:
    losses = runpy.run_path(str(EXAMPLES / "distil_kitti.py"))["main"](str(scenes), steps=1)
    assert len(losses) == 1
    assert all(math.isfinite(loss) for loss in losses)
