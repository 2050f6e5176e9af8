"""Import of MonoDETR's published checkpoint, and everything that can be wrong with one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.models.account import Account
from monoskd.models.monodetr.published import convert, fits, from_published
from monoskd.models.weights import describe_model, load_model

State = dict[str, Tensor]
UNUSED = {"layer that is never called": 15, "second copy": 30, "depth of the bins": 1}


@pytest.fixture(scope="module")
def state(published_state: Callable[[str], State]) -> State:
    return published_state("monodetr")


def test_the_model_file_carries_the_network_and_where_it_is_from(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = {"epoch": 195, "model_state": state, "optimizer_state": None, "best_epoch": 180}
    torch.save(checkpoint | {"best_result": np.float64(20.6)}, tmp_path / "published.pth")  # as released
    out = tmp_path / "student.safetensors"
    assert main(["convert", str(tmp_path / "published.pth"), str(out)]) == 0, capsys.readouterr().err
    assert str(Account(used=len(state) - sum(UNUSED.values()), unused=UNUSED)) in capsys.readouterr().out
    described = describe_model(out)
    assert described["detector"] == "monoskd.models.monodetr.MonoDETR"
    assert described["config"]["geometry"] == "published"
    assert described["provenance"]["epoch"] == 195
    loaded, direct = load_model(out), from_published(state)[0]
    pairs = zip(loaded.state_dict().items(), direct.state_dict().items(), strict=True)
    assert all(ours[0] == theirs[0] and torch.equal(ours[1], theirs[1]) for ours, theirs in pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_embed.weight": None}, r"missing query_embed\.weight; is this a whole"),
        ({"query_embed.bias": torch.zeros(1)}, r"unknown query_embed\.bias; expected a checkpoint of MonoDETR"),
        ({"class_embed.0.bias": "none"}, r"unknown class_embed\.0\.bias"),
        (
            {"query_embed.weight": torch.zeros(50, 512)},
            r"query_embed\.weight: expected shape \(550, 512\), got \(50, 512\)",
        ),
        (
            {"query_embed.weight": torch.full((550, 512), torch.nan)},
            r"query_embed\.weight: expected finite numbers, got NaN or infinity: the checkpoint is not usable",
        ),
        ({"module.query_embed.weight": torch.zeros(550, 512)}, r"unknown module\.query_embed\.weight"),
        (
            {"depthaware_transformer.decoder.bbox_embed.1.layers.2.bias": torch.ones(6)},
            r"second copy of each head to equal the first, got another depthaware_transformer\.decoder\.bbox_embed\.1",
        ),
        ({"depth_predictor.depth_bin_values": None}, r"depth_bin_values: expected 81 depths, got NoneType"),
        (
            {"depth_predictor.depth_bin_values": torch.linspace(0, 60, 81)},
            r"depth_bin_values: expected 80 bins from 0.001 to 60 m .* this depth range is not supported",
        ),
    ],
)
def test_a_wrong_tensor_is_named(change: dict[str, object], message: str, state: State) -> None:
    wrong = {name: value for name, value in {**state, **change}.items() if value is not None}
    assert fits(wrong)
    with pytest.raises(InputError, match=message):
        from_published(wrong)


def test_half_precision_is_understood(state: State) -> None:
    detector, account = from_published({name: value.half() for name, value in state.items()})
    assert account.unused == UNUSED
    assert {value.dtype for value in detector.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_there_is_no_teacher_in_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part: expected student, got teacher"):
        convert(tmp_path / "any.pth", tmp_path / "out.safetensors", part="teacher")
