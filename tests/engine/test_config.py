from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from monoskd.engine.config import RunConfig, load_config, unknown_keys
from monoskd.errors import InputError
from monoskd.models.did_m3d import DidM3D

SMALL = """
data: {root: nowhere}
out: run
detector:
  class_path: monoskd.models.DidM3D
  init_args:
    config: {pretrained: false, backbone_arguments: {channels: [4, 4, 8, 8, 8, 8]}, head_width: 8, input_size: [64, 32]}
epochs: 3
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_file_and_overrides(small: Path) -> None:
    run = load_config(small, ["--epochs", "7", "--detector.init_args.config.modality", "depth"]).run()
    assert run.epochs == 7
    assert run.data.root == Path("nowhere")
    assert isinstance(run.detector, DidM3D)
    assert run.detector.modality == "depth"


def test_saved_text_gives_the_same_configuration(small: Path, tmp_path: Path) -> None:
    first = load_config(small, ["--seed", "5"])
    again = tmp_path / "config.yaml"
    again.write_text(first.text)
    assert load_config(again).text == first.text
    assert first.seed == 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("epocs: 3", r"unknown key 'epocs'; did you mean 'epochs'\?"),
        ("data: {root: x, batchsize: 3}", r"unknown key 'data.batchsize'; did you mean 'batch_size'\?"),
        (
            "detector: {class_path: monoskd.models.DidM3D, init_args: {config: {modalty: rgb}}}",
            r"unknown key 'detector.init_args.config.modalty'; did you mean 'modality'\?",
        ),
        (
            "distillation: {terms: {rank: {loss: {class_path: monoskd.distill.SpearmanLoss}, wait: 2}}}",
            r"unknown key 'distillation.terms.rank.wait'; did you mean 'weight'\?",
        ),
        ("detector: {class_path: monoskd.models.DidM4D}", "expected an importable class, got 'monoskd.models.DidM4D'"),
        ("epochs: many", "epochs: Expected a <class 'int'>. Got value: many"),
        (
            "data: {root: x, augmentation: {flip_probability: 7}}",
            "flip_probability: expected a number from 0 to 1, got 7",
        ),
        ("[1, 2]", "expected a YAML mapping"),
        ("a: [", "expected YAML"),
    ],
)
def test_a_wrong_config_is_one_clear_line(tmp_path: Path, wrong: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        f"{wrong}\n"
        if wrong[0] in "[" or wrong.startswith("a:")
        else yaml.dump({**yaml.safe_load(SMALL), **yaml.safe_load(wrong)})
    )
    with pytest.raises(InputError, match=message) as caught:
        load_config(path).run()
    assert "\n" not in str(caught.value)


def test_a_key_that_comes_twice_is_named(small: Path) -> None:
    small.write_text(f"{SMALL}epochs: 4\n")
    with pytest.raises(InputError, match=r"small\.yaml: expected YAML, got the key 'epochs' more than once, .* line 8"):
        load_config(small)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--detector.init_args.config.hed_width", "3"],
            r"unknown key 'detector.init_args.config.hed_width'; did you mean",
        ),
        (["--data.unlabelled.ration=2"], r"unknown key 'data.unlabelled.ration'; did you mean 'ratio'\?"),
        (
            ["--data.augmentation.flipp", "2"],
            r"unknown key 'data.augmentation.flipp'; did you mean 'flip_probability'\?",
        ),
        (["--detector", "monoskd.models.DidM"], "detector: module 'monoskd.models' has no attribute 'DidM'"),
        (["--detector.init_args.config.head_width", "x"], r"head_width: Expected a <class 'int'>\. Got value: x"),
        (["--data", "3"], "data: Unable to load config '3'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(small: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config(small, words)
    assert "\n" not in str(caught.value)


def test_a_missing_config_lists_the_shipped_ones() -> None:
    with pytest.raises(InputError, match=r"no such configuration file; .*kitti/monoskd.yaml"):
        load_config(Path("kitti/monosdk.yaml"))


def test_every_shipped_config_knows_its_keys() -> None:
    folder = Path(__file__).parents[2] / "src/monoskd/configs"
    paths = sorted(folder.rglob("*.yaml"))
    assert len(paths) >= 8
    for path in paths:
        assert not list(unknown_keys(yaml.safe_load(path.read_text()), RunConfig)), path


def test_every_field_has_its_line_of_documentation() -> None:
    for one in fields(RunConfig):
        assert f"{one.name}:" in (RunConfig.__doc__ or "")
