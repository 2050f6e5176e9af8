import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import monoskd
from monoskd import __version__
from monoskd.errors import InputError
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.weights import describe_model, load_model, save_model

Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


@pytest.fixture
def model_file(tmp_path: Path, detector: DidM3D) -> Path:
    save_model(detector, tmp_path / "model.safetensors", provenance={"seed": 3})
    return tmp_path / "model.safetensors"


def rewrite(path: Path, edit: Edit) -> None:
    """The same file with its description and tensors edited."""
    description, state = describe_model(path), load_file(path)
    description.pop("checksum", None)  # as in files of earlier versions
    edit(description, state)
    save_file(state, path, metadata={"monoskd": json.dumps(description)})


def test_a_model_file_gives_back_the_detector(model_file: Path, detector: DidM3D) -> None:
    loaded = load_model(model_file)
    assert isinstance(loaded, DidM3D)
    assert loaded.config == detector.config
    assert not loaded.training
    for name, tensor in detector.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_every_setting_survives_the_file(tmp_path: Path, small_config: DidM3DConfig) -> None:
    config = replace(
        small_config,
        modality="depth",
        classes=("Car",),
        mean_sizes={"Car": (1.5, 1.6, 3.9)},
        geometry="published",
        initial_size_cells=(3.0, 2.0),
    )
    save_model(DidM3D(config), tmp_path / "model.safetensors", provenance={})
    assert load_model(tmp_path / "model.safetensors").config == config


def test_the_description_says_what_made_it(model_file: Path) -> None:
    description = describe_model(model_file)
    assert description["schema"] == "monoskd/model/1"
    assert description["version"] == __version__
    assert description["detector"] == "monoskd.models.did_m3d.DidM3D"
    assert description["provenance"] == {"seed": 3}


def test_loading_asks_for_no_pretrained_weights(tmp_path: Path, small_config: DidM3DConfig) -> None:
    weights = tmp_path / "imagenet.pth"
    torch.save(DidM3D(small_config).backbone.net.state_dict(), weights)
    save_model(DidM3D(replace(small_config, pretrained=weights)), tmp_path / "model.safetensors", provenance={})
    weights.unlink()
    assert load_model(tmp_path / "model.safetensors").config.pretrained is False


def test_others_may_read_the_file_as_any_other(model_file: Path) -> None:
    (model_file.parent / "any.txt").touch()
    assert model_file.stat().st_mode == (model_file.parent / "any.txt").stat().st_mode


def test_nothing_half_written_is_left(tmp_path: Path, detector: DidM3D) -> None:
    with pytest.raises(InputError, match="expected a description of at most 1000000 characters"):
        save_model(detector, tmp_path / "model.safetensors", provenance={"log": "x" * 1_000_001})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_place_for_a_model(tmp_path: Path, detector: DidM3D) -> None:
    with pytest.raises(InputError, match="expected a file to write the model to, got a folder"):
        save_model(detector, tmp_path, provenance={})


def drop(name: str) -> Edit:
    return lambda _said, state: state.pop(name)


def put(name: str, tensor: torch.Tensor) -> Edit:
    return lambda _said, state: state.update({name: tensor})


def say(**entries: object) -> Edit:
    return lambda description, _state: description.update(entries)


def configure(**entries: object) -> Edit:
    return lambda description, _state: description["config"].update(entries)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("dense.heatmap.0.bias"), r"got tensors 1 missing \(first dense\.heatmap\.0\.bias\)"),
        (put("dense.spare", torch.zeros(1)), r"got tensors 1 unknown \(first dense\.spare\)"),
        (put("dense.heatmap.0.bias", torch.zeros(7)), r"dense\.heatmap\.0\.bias: expected shape \(16,\), got \(7,\)"),
        (say(schema="monoskd/model/9"), "expected schema monoskd/model/1, got monoskd/model/9"),
        (say(detector="monoskd.models.did_m3d.Nothing"), "expected an installed detector"),
        (say(detector="no_such_package.Detector"), "expected an installed detector"),
        (say(detector=".foo.Bar"), "expected an installed detector, got .foo.Bar"),
        (say(detector=3), "expected an installed detector, got 3"),
        (say(detector="torch.nn.ModuleDict"), "expected an installed detector, got torch.nn.ModuleDict"),
        (say(detector="os.system"), "expected an installed detector, got os.system"),
        (say(detector="subprocess.Popen"), "expected an installed detector, got subprocess.Popen"),
        (say(detector="torch.nn.Linear"), "expected an installed detector, got torch.nn.Linear"),
        (
            say(config=None),
            "expected a config that DidM3D can be built from, got one where there are no settings but None",
        ),
        (configure(colour="red"), r"got one where the settings \['colour'\] are unknown"),
        (configure(backbone="dla43"), r"model\.safetensors: .* got one where backbone: .* did you mean dla34"),
        (configure(backbone="no_such"), r"got one where backbone: expected the name of a timm model, got 'no_such'"),
        (configure(backbone="dla34.none"), r"model\.safetensors: expected a config"),
        (configure(backbone_arguments={"channels": []}), r"model\.safetensors: expected a config"),
        (configure(head_width="wide"), r"model\.safetensors: .* got one where head_width: expected .* got 'wide'"),
    ],
)
def test_a_file_that_does_not_fit_gives_one_line(edit: Edit, message: str, model_file: Path) -> None:
    rewrite(model_file, edit)
    with pytest.raises(InputError, match=message) as caught:
        load_model(model_file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"PK\x03\x04 a zip",
        lambda content: content[:1000],
        lambda content: content[:-4],
        lambda content: (2**60).to_bytes(8, "little") + content[8:],
        lambda content: content[:8] + b"x" + content[9:],
    ],
)
def test_a_damaged_file_gives_one_line(damage: Callable[[bytes], bytes], model_file: Path) -> None:
    model_file.write_bytes(damage(model_file.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors: expected a model file") as caught:
        load_model(model_file)
    assert "\n" not in str(caught.value)


def test_no_file_a_folder_and_a_stranger_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no file"):
        load_model(tmp_path / "nowhere.safetensors")
    with pytest.raises(InputError, match="got a folder"):
        load_model(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "stranger.safetensors")
    with pytest.raises(InputError, match=r"got a folder: give a file in it, such as .*stranger\.safetensors"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="without its description"):
        load_model(tmp_path / "stranger.safetensors")


# --- damage -----------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_refused(model_file: Path) -> None:
    content = model_file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    checksum = content.index(describe_model(model_file)["checksum"].encode())
    draw = random.Random(0)
    places = [*draw.sample(range(header), 40), checksum, checksum + 63, checksum - 6, header, len(content) - 1]
    for place in [*places, *draw.sample(range(header, len(content)), 20)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        model_file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.safetensors: ") as caught:
            load_model(model_file)
        assert "\n" not in str(caught.value)


def test_a_file_without_a_checksum_still_loads(model_file: Path) -> None:
    rewrite(model_file, lambda _said, _state: None)
    assert isinstance(load_model(model_file), DidM3D)


class Tied(DidM3D):
    def __init__(self, config: DidM3DConfig) -> None:
        super().__init__(config)
        self.spare = self.dense.get_submodule("heatmap.0")


def test_tied_weights_go_through_the_file(tmp_path: Path, small_config: DidM3DConfig) -> None:
    save_model(Tied(small_config), tmp_path / "model.safetensors", provenance={})
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.get_parameter("spare.weight") is loaded.get_parameter("dense.heatmap.0.weight")


# --- files of strangers -----------------------------------------------------------------------------------------------

DETECTOR = """
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
class Mine(DidM3D):
    def __init__(self, config: DidM3DConfig) -> None:
        super().__init__(config)
"""


def open_elsewhere(model: Path, folder: Path, *, path: str = "") -> str:
    """What a fresh Python in this folder says of the file; its import path begins with the folder."""
    code = f"from monoskd import load_model; print(type(load_model({str(model)!r})).__name__)"
    source = str(Path(monoskd.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (source, path)))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_a_detector_comes_from_python_path_and_not_from_the_working_directory(model_file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (tmp_path, elsewhere):
        (folder / "stranger.py").write_text(DETECTOR)
    rewrite(model_file, lambda description, _state: description.update(detector="stranger.Mine"))
    answer = open_elsewhere(model_file, tmp_path)
    assert "stranger lies in" in answer
    assert "neither installed nor named in PYTHONPATH" in answer
    assert "lies in" in open_elsewhere(model_file, tmp_path, path=str(elsewhere)), "the working directory comes first"
    assert not list(tmp_path.rglob("*.ran"))
    assert open_elsewhere(model_file, elsewhere.parent / "elsewhere", path=str(elsewhere)) == "Mine"


def test_a_module_is_judged_by_its_source_before_it_is_imported(model_file: Path) -> None:
    before = set(sys.modules)
    for name in ("antigravity.geohash", "this.s", "monoskd.__main__.main", "monoskd.cli.train.run"):
        rewrite(model_file, lambda description, _state, name=name: description.update(detector=name))
        with pytest.raises(InputError, match=rf"expected an installed detector, got {name}: "):
            load_model(model_file)
    assert {"antigravity", "this", "monoskd.__main__", "monoskd.cli.train"}.isdisjoint({*sys.modules} - before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"input_size": [10**6, 10**6]},
            r"input_size: expected .width, height., at most 4096 .*, got \(1000000, 1000000\)",
        ),
        ({"backbone": "convnextv2_huge", "backbone_arguments": {}}, "missing|larger than the file"),
        ({"backbone": "resnet200d", "backbone_arguments": {"layers": [10**5] * 4}}, "larger than the file"),
        ({"head_width": 10**9}, "expected shape|larger than the file"),
        ({"pretrained": True}, "pretrained is True although the file holds all weights"),
        ({"backbone_arguments": {"checkpoint_path": "/etc/passwd"}}, "checkpoint_path is '/etc/passwd' although"),
        ({"backbone_arguments": {"pretrained_cfg": {"url": "http://x"}}}, "backbone_arguments: expected arguments of"),
        ({"classes": ["Car"] * 10**4}, "^.{,700}$"),
    ],
)
def test_what_a_header_asks_for_is_bounded(settings: dict[str, Any], message: str, model_file: Path) -> None:
    rewrite(model_file, lambda description, _state: description["config"].update(settings))
    began = time.process_time()
    with pytest.raises(InputError, match=message) as caught:
        load_model(model_file)
    assert time.process_time() - began < 10  # half a second in a young process; unbounded, it would be minutes
    assert "\n" not in str(caught.value)
