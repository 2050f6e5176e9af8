"""Import of published checkpoints: every form of them, and everything that can be wrong with one."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monoskd.errors import InputError
from monoskd.geometry.camera import Camera, PublishedLetterbox
from monoskd.models.did_m3d import DidM3D
from monoskd.models.did_m3d.published import Account, convert, from_published
from monoskd.models.weights import describe_model, load_model
from monoskd.structures import Views

State = dict[str, Tensor]
PROJECTIONS = 12
CLASSIFIER = 2


@pytest.fixture(scope="session")
def did(named_state: Callable[[str], State]) -> State:
    return named_state("did")


@pytest.fixture(scope="session")
def distilled(named_state: Callable[[str], State]) -> State:
    return named_state("monoskd")


def same_weights(ours: DidM3D, theirs: DidM3D) -> bool:
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_the_model_file_carries_the_network_and_where_it_is_from(tmp_path: Path, did: State) -> None:
    torch.save({"epoch": 140, "model_state": did, "optimizer_state": None}, tmp_path / "published.pth")
    account = convert(tmp_path / "published.pth", tmp_path / "student.safetensors")
    assert account == Account(
        used=len(did) - CLASSIFIER - PROJECTIONS,
        unused={"ImageNet classifier": CLASSIFIER, "projection that the backbone never calls": PROJECTIONS},
    )
    assert str(account).endswith("not used: 12 (projection that the backbone never calls), 2 (ImageNet classifier)")
    said = describe_model(tmp_path / "student.safetensors")
    assert said["config"]["geometry"] == "published"
    assert said["config"]["backbone"] == "dla34"
    assert said["config"]["classes"] == ["Pedestrian", "Car", "Cyclist"]
    assert said["config"]["mean_sizes"]["Car"] == did["mean_size"][1].tolist()
    assert said["config"]["input_size"] == [1280, 384]
    assert said["provenance"]["converted_from"] == "published.pth"
    assert said["provenance"]["epoch"] == 140
    assert len(said["provenance"]["sha256"]) == 64


def test_the_converted_file_gives_the_same_detections(
    tmp_path: Path,
    did: State,
    rgb_and_depth: tuple[Tensor, Tensor],
    published_camera: Camera,
    published_letterbox: PublishedLetterbox,
) -> None:
    torch.save(did, tmp_path / "bare.pth")
    convert(tmp_path / "bare.pth", tmp_path / "student.safetensors")
    loaded, direct = load_model(tmp_path / "student.safetensors"), from_published(did)[0]
    with torch.inference_mode():
        views = Views(rgb_and_depth[0], published_camera, published_letterbox)
        outputs = [net.forward_normalised(rgb_and_depth[0], views) for net in (loaded, direct)]
    for name, head in outputs[0].heads.items():
        assert torch.equal(head, outputs[1].heads[name]), name


def test_data_parallel_names_are_understood(did: State) -> None:
    plain = from_published(did)[0]
    assert same_weights(plain, from_published({f"module.{name}": tensor for name, tensor in did.items()})[0])


@pytest.mark.parametrize(("part", "network", "modality"), [("student", "rgb", "rgb"), ("teacher", "depth", "depth")])
@pytest.mark.parametrize("recipe", ["monoskd", "monodistill"])
def test_either_network_of_a_distillation_checkpoint(
    recipe: str, part: str, network: str, modality: str, named_state: Callable[[str], State]
) -> None:
    state = named_state(recipe)
    detector, account = from_published(state, part=part)
    prefix = f"centernet_{network}."
    alone = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    assert detector.modality == modality
    assert same_weights(detector, from_published(alone)[0])
    assert account.used + sum(account.unused.values()) == len(state)


def test_the_part_says_what_a_lone_network_looks_at(did: State) -> None:
    assert from_published(did, part="teacher")[0].modality == "depth"


def test_old_checkpoints_without_batch_counters_are_taken(did: State) -> None:
    old = {name: tensor for name, tensor in did.items() if not name.endswith("num_batches_tracked")}
    assert same_weights(from_published(did)[0], from_published(old)[0])


def test_a_missing_tensor_is_named(did: State) -> None:
    state = {name: tensor for name, tensor in did.items() if name != "feat_up.ida_1.node_2.bn.weight"}
    with pytest.raises(InputError, match=r"missing feat_up\.ida_1\.node_2\.bn\.weight; is this a whole"):
        from_published(state)


def test_missing_mean_sizes_are_named(distilled: State) -> None:
    state = {name: tensor for name, tensor in distilled.items() if name != "centernet_rgb.mean_size"}
    with pytest.raises(InputError, match=r"missing centernet_rgb\.mean_size"):
        from_published(state)


@pytest.mark.parametrize(
    "name", ["heatmap.3.bias", "backbone.level3.project.2.weight", "adapt_layer4.0.weight", "optimizer"]
)
def test_an_unknown_tensor_is_named(name: str, did: State) -> None:
    with pytest.raises(InputError, match=rf"unknown {name}; expected a checkpoint of MonoSKD"):
        from_published(did | {name: torch.zeros(1)})


@pytest.mark.parametrize("name", ["rgb_fs.4.conv1.0.weight", "adapt_layer64.0.weight", "centernet_depth.spare.weight"])
def test_an_unknown_tensor_beside_the_student_is_named(name: str, distilled: State) -> None:
    with pytest.raises(InputError, match=rf"unknown {name}"):
        from_published(distilled | {name: torch.zeros(1)})


def test_a_misshapen_tensor_is_named_with_both_shapes(did: State) -> None:
    with pytest.raises(
        InputError, match=r"vis_depth\.0\.weight: expected shape \(256, 69, 3, 3\), got \(256, 66, 3, 3\)"
    ):
        from_published(did | {"vis_depth.0.weight": torch.zeros(256, 66, 3, 3)})


def test_a_value_that_is_no_tensor_is_named(did: State) -> None:
    with pytest.raises(InputError, match=r"heatmap\.2\.bias"):
        from_published(did | {"heatmap.2.bias": "none"})


class Malicious:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused(form: str, tmp_path: Path) -> None:
    source, trace = tmp_path / "bad.pth", tmp_path / "trace"
    if form == "bare pickle":
        source.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    else:
        torch.save({"model_state": Malicious(trace)}, source, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match=r"bad\.pth: .*asks for posix\.system; refused, nothing of it was run"):
        convert(source, tmp_path / "out.safetensors")
    assert not trace.exists()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a PyTorch checkpoint, got another format"),
        (b"<html>404</html>", "expected a PyTorch checkpoint, got another format"),
        (b"\x80\x02junk", "expected a PyTorch checkpoint, got a damaged one"),
        (b"\x80\x02]q\x00.", "expected a"),
    ],
)
def test_what_is_no_checkpoint_gives_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        convert(tmp_path / "odd.pth", tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.9999])
def test_a_truncated_checkpoint_gives_one_line(kept: float, tmp_path: Path, did: State) -> None:
    torch.save({"model_state": {"heatmap.0.weight": did["heatmap.0.weight"]}}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=r"cut\.pth: expected a PyTorch checkpoint"):
        convert(tmp_path / "cut.pth", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "value", [[1, 2], {"model_state": 3}, {}, {0: torch.zeros(1)}, {"model_state": {0: torch.zeros(1)}}]
)
def test_a_checkpoint_of_something_else_is_refused(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth: "):
        convert(tmp_path / "odd.pth", tmp_path / "out.safetensors")


def test_no_file_and_a_folder_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no file"):
        convert(tmp_path / "nowhere.pth", tmp_path / "out.safetensors")
    with pytest.raises(InputError, match="got a folder"):
        convert(tmp_path, tmp_path / "out.safetensors")
