"""Import of MonoDLE's published checkpoint, and everything that can be wrong with one."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.models.monodle.published import Account, convert, fits, from_published
from monoskd.models.weights import describe_model, load_model

State = dict[str, Tensor]
PROJECTIONS = 12
CLASSIFIER = 2


@pytest.fixture(scope="module")
def state(published_state: Callable[[str], State]) -> State:
    return published_state("monodle")


def test_the_model_file_carries_the_network_and_where_it_is_from(tmp_path: Path, state: State) -> None:
    torch.save({"epoch": 140, "model_state": state, "optimizer_state": None}, tmp_path / "published.pth")
    account = convert(tmp_path / "published.pth", tmp_path / "student.safetensors")
    assert account == Account(
        used=len(state) - CLASSIFIER - PROJECTIONS,
        unused={"ImageNet classifier": CLASSIFIER, "projection that the backbone never calls": PROJECTIONS},
    )
    described = describe_model(tmp_path / "student.safetensors")
    assert described["detector"] == "monoskd.models.monodle.MonoDLE"
    assert described["config"]["geometry"] == "published"
    assert described["config"]["classes"] == ["Pedestrian", "Car", "Cyclist"]
    assert described["provenance"]["epoch"] == 140
    loaded, direct = load_model(tmp_path / "student.safetensors"), from_published(state)[0]
    pairs = zip(loaded.state_dict().items(), direct.state_dict().items(), strict=True)
    assert all(ours[0] == theirs[0] and torch.equal(ours[1], theirs[1]) for ours, theirs in pairs)


def test_data_parallel_names_and_missing_counters_are_understood(state: State) -> None:
    old = {f"module.{name}": value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    plain, from_old = from_published(state)[0], from_published(old)[0]
    pairs = zip(plain.state_dict().values(), from_old.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert fits(old)


@pytest.mark.parametrize("name", ["neck.ida_1.node_2.bn.weight", "depth.2.weight", "heatmap.2.bias"])
def test_a_missing_tensor_is_named(name: str, state: State) -> None:
    less = {other: value for other, value in state.items() if other != name}
    assert fits(less)
    with pytest.raises(InputError, match=rf"missing {name}; is this a whole"):
        from_published(less)


@pytest.mark.parametrize("name", ["heatmap.3.bias", "mean_size", "backbone.level3.project.2.weight"])
def test_an_unknown_tensor_is_named(name: str, state: State) -> None:
    with pytest.raises(InputError, match=rf"unknown {name}; expected a checkpoint of MonoDLE"):
        from_published(state | {name: torch.zeros(1)})


def test_a_misshapen_tensor_is_named_with_both_shapes(state: State) -> None:
    with pytest.raises(InputError, match=r"depth\.2\.weight: expected shape \(2, 256, 1, 1\), got \(1, 256, 1, 1\)"):
        from_published(state | {"depth.2.weight": torch.zeros(1, 256, 1, 1)})


def test_a_value_that_is_no_tensor_is_named(state: State) -> None:
    with pytest.raises(InputError, match=r"unknown heatmap\.2\.bias"):
        from_published(state | {"heatmap.2.bias": "none"})


def test_there_is_no_teacher_in_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part: expected student, got teacher"):
        convert(tmp_path / "any.pth", tmp_path / "out.safetensors", part="teacher")


def test_the_command_finds_the_detector_by_the_tensors(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"epoch": 140, "model_state": state}, tmp_path / "published.pth")
    assert main(["convert", str(tmp_path / "published.pth"), str(tmp_path / "out.safetensors")]) == 0
    assert describe_model(tmp_path / "out.safetensors")["detector"] == "monoskd.models.monodle.MonoDLE"
    torch.save({"model_state": {"other": torch.zeros(1)}}, tmp_path / "other.pth")
    assert main(["convert", str(tmp_path / "other.pth"), str(tmp_path / "no.safetensors")]) == 2
    assert "or of MonoDLE, got tensors of other names" in capsys.readouterr().err
    assert not (tmp_path / "no.safetensors").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    state: State,
    largest_file: Callable[[int], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    published, out = tmp_path / "published.pth", tmp_path / "student.safetensors"
    torch.save({"epoch": 140, "model_state": state, "optimizer_state": None}, published)
    out.write_bytes(b"the model that was there before")
    with largest_file(1_000_000):
        assert main(["convert", str(published), str(out)]) == 2
    said = capsys.readouterr().err.strip()
    assert "student.safetensors" in said
    assert "\n" not in said
    assert {*tmp_path.iterdir()} == {published, out}
    assert out.read_bytes() == b"the model that was there before"
