from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from monoskd.engine.config import RunConfig, StartConfig
from monoskd.engine.faults import unknown_keys
from monoskd.engine.load import load_config
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


def test_a_part_of_the_start_is_set_over_a_path(small: Path) -> None:
    small.write_text(SMALL + "start: baseline.safetensors\n")
    start = load_config(small, ["--start.inherit", "teacher.safetensors"]).run().start
    assert start == StartConfig(model=Path("baseline.safetensors"), inherit=Path("teacher.safetensors"))
    start = load_config(small, ["--start.model=other.safetensors"]).run().start
    assert start == StartConfig(model=Path("other.safetensors"))
    for words in (["--start", "other.safetensors"], ["--start=other.safetensors"]):
        start = load_config(small, [*words, "--start.inherit", "teacher.safetensors"]).run().start
        assert start == StartConfig(model=Path("other.safetensors"), inherit=Path("teacher.safetensors"))
    with pytest.raises(InputError, match=r"unknown key 'start.inherits'; did you mean 'inherit'\?"):
        load_config(small, ["--start.inherits", "teacher.safetensors"])


def test_saved_text_gives_the_same_configuration(small: Path, tmp_path: Path) -> None:
    first = load_config(small, ["--seed", "5"])
    again = tmp_path / "config.yaml"
    again.write_text(first.text)
    assert load_config(again).text == first.text
    assert first.seed == 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("epochs: null\nseed: null", r"epochs: expected a value, got null; .* \| seed: expected a value, got null"),
        ("validation: null", "validation: expected a value, got null; leave it out"),
        ("data: {root: x, batch_size: null}", r"data\.batch_size: expected a value, got null"),
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
        (
            "distillation: {teacher: t, taps: [{student: {path: neck, vjew: x}}], terms: {}}",
            "unknown key 'distillation.taps.0..student.vjew'; did you mean 'view'",
        ),
        ("epochs: many", "epochs: expected int, got many"),
        ("precision: half", "precision: expected one of 32-true, 64-true, 16-mixed, bf16-mixed, got half"),
        ("optimizer: {ema: x}", r"optimizer.*ema: expected float, got x"),
        (
            "data: {root: x, augmentation: {flip_probability: 7}}",
            "flip_probability: expected a number from 0 to 1, got 7",
        ),
        ("[1, 2]", "expected a YAML mapping"),
        ("a: [", "expected YAML"),
        ("a: &a [*a]", "expected at most 10000 values, got more: do aliases hold each other"),
        (
            "a: &a [1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 6)}]\n" for m, n in zip("abcdef", "bcdefg", strict=True)),
            "expected at most 10000 values",
        ),
        ("a: " + 5000 * "[", "expected a config, got values nested too deeply"),
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
    with pytest.raises(InputError, match=r"small\.yaml: expected YAML, got the key 'epochs' more than once, .* line 9"):
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
        (
            ["--detector", "monoskd.models.DidM"],
            r"detector: expected an importable class, got 'monoskd.models.DidM' \(module 'monoskd.models' has no",
        ),
        (["--detector.init_args.config.head_width", "x"], "head_width: expected int, got x"),
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
        config = load_config(path).settings()
        assert config.optimizer.schedule.unreached(config.epochs) is None, path


def test_every_field_has_its_line_of_documentation() -> None:
    for field in fields(RunConfig):
        assert f"{field.name}:" in (RunConfig.__doc__ or "")


# --- what a config may name -------------------------------------------------------------------------------------------

LOSSES = """
import torch
def fits(*, student, teacher) -> torch.Tensor:
    return (student - teacher).abs().mean()
def deletes(path):
    raise AssertionError("called")
"""
TERM = "--distillation.terms.rank.loss"


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "torch.load", "builtins.exec", "losses_of_mine.deletes"]
)
@pytest.mark.parametrize("place", ["loss", "adapter", "view", "fusion", "schedule", "evaluator", "detector"])
def test_what_is_no_part_of_a_training_is_not_called(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, place: str
) -> None:
    (tmp_path / "losses_of_mine.py").write_text(LOSSES)
    monkeypatch.syspath_prepend(tmp_path)
    given = {"class_path": path, "init_args": {"command": f"touch {tmp_path / 'ran'}"}}
    fine = {"class_path": "monoskd.distill.SpearmanLoss"}
    recipe: dict[str, object] = {"teacher": "t", "taps": [{"student": "neck"}], "terms": {"rank": {"loss": fine}}}
    document = {**yaml.safe_load(SMALL), "distillation": recipe}
    if place in ("loss", "schedule"):
        recipe["terms"] = {"rank": {"loss": fine, place: given}}
    elif place == "adapter":
        recipe["taps"] = [{"student": "neck", "adapter": given}]
    elif place == "view":
        recipe["taps"] = [{"student": {"path": "neck", "view": given}}]
    elif place == "fusion":
        recipe["fusion"] = given
    elif place == "evaluator":
        document["validation"] = {"evaluator": given}
    else:
        document["detector"] = given
    small.write_text(yaml.dump(document))
    with pytest.raises(InputError, match=rf"{place}: expected .*, got '{path}'"):
        load_config(small)
    assert not (tmp_path / "ran").exists()


def test_a_function_with_the_names_of_a_loss_is_one(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "losses_of_mine.py").write_text(LOSSES)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = {"teacher": "t", "taps": [{"student": "neck"}], "terms": {"rank": {"loss": "losses_of_mine.fits"}}}
    small.write_text(yaml.dump({**yaml.safe_load(SMALL), "distillation": recipe}))
    assert load_config(small).run().distillation.terms["rank"].loss.__name__ == "fits"
    with pytest.raises(InputError, match=r"rank\.loss: expected an nn\.Module class or a function called with"):
        load_config(small, [TERM, "losses_of_mine.deletes"])


def test_a_module_without_a_loss_is_not_imported(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worm.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Loss: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    inside = ["--detector.init_args.config.backbone_arguments", "{x: {class_path: worm.Loss}}"]
    for words in ([TERM, "worm.Loss"], ["--detector=worm.Loss"], ["--distillation", "worm.Loss"], inside):
        with pytest.raises(InputError, match="worm does not use monoskd or torch, so it was not imported"):
            load_config(small, words)
    assert not (tmp_path / "ran").exists()


def test_all_complaints_come_at_once(small: Path) -> None:
    with pytest.raises(InputError, match=r"'data.batchsize'; did you mean 'batch_size'\? \| .*'epocs'; did"):
        load_config(small, ["--epocs", "3", "--data.batchsize=3"])
    with pytest.raises(InputError, match=r"epochs: .*got many \| .*batch_size: .*got few"):
        load_config(small, ["--epochs", "many", "--data.batch_size", "few"])
    loaded = load_config(
        small, ["--epochs", "0", "--data.batch_size=0", "--optimizer.weight_decay", "-1", "--threads=-1"]
    )
    with pytest.raises(InputError) as caught:
        loaded.settings()
    assert all(key in str(caught.value) for key in ("epochs: ", "data.batch_size: ", "optimizer.weight_decay: "))
