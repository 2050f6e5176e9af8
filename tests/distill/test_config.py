"""A distiller from plain values."""

import pytest
import torch
import yaml
from torch import nn

from monoskd.distill import Distiller, LogitLoss, Outlet, Ramp, SpearmanLoss, TokensAsMap, channels_first
from monoskd.distill.config import parts_from_config
from monoskd.errors import InputError

WHOLE = """
taps:
  - "0"
  - {student: {path: "0", side: input}, teacher: "1", adapter: conv, name: wide}
terms:
  rank:
    loss: {class_path: monoskd.distill.SpearmanLoss, init_args: {group: channel}}
    taps: ["0"]
    weight: 2
    schedule: {end: 0.5}
  affinity: {class_path: monoskd.distill.AffinityLoss}
  logits: {loss: monoskd.distill.LogitLoss, between: output, masked: false}
teacher_dtype: bfloat16
teacher_batch_statistics: false
"""


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1))


def test_yaml_makes_a_distiller_for_any_two_networks() -> None:
    distil = Distiller.from_config(yaml.safe_load(WHOLE), student=network(), teacher=network())
    assert list(distil.taps) == ["0", "wide"]
    assert distil.taps["wide"].student_outlet == Outlet("0", side="input")
    rank = distil.terms["rank"]
    assert isinstance(rank.loss, SpearmanLoss)
    assert (rank.loss.group, rank.weight, rank.schedule) == ("channel", 2, Ramp(end=0.5))
    assert isinstance(distil.terms["logits"].loss, LogitLoss)
    out = distil(torch.randn(2, 3, 6, 6))
    assert set(out.terms) == {"rank", "affinity", "logits"}
    assert out.teacher.dtype == torch.bfloat16


def test_several_teachers_come_by_name() -> None:
    config = {"terms": {"a": {"loss": "monoskd.distill.LogitLoss", "between": "output", "of": ["x", "y"]}}}
    distil = Distiller.from_config(config, student=network(), teacher={"x": network(), "y": network()})
    assert list(distil.teachers) == ["x", "y"]


def test_views_are_ours() -> None:
    def view(value: object) -> object:
        tap = {"student": {"path": "a", "view": value}}
        terms = {"a": "monoskd.distill.AffinityLoss"}
        return parts_from_config({"taps": [tap], "terms": terms})["taps"][0].student.view

    tokens = {"class_path": "monoskd.distill.TokensAsMap", "init_args": {"prefix": 1}}
    assert view(tokens) == TokensAsMap(prefix=1)
    assert view("monoskd.distill.channels_first") is channels_first
    assert isinstance(view("torch.nn.Identity"), nn.Identity)


LOSS = {"class_path": "monoskd.distill.SpearmanLoss"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "config: expected a mapping with taps and terms, got list"),
        ({"terms": {}}, "terms: expected a mapping from names to terms"),
        ({"terms": {"a": LOSS}, "tap": []}, "tap: unknown key; nearest: taps"),
        ({"terms": {"a": {"loss": LOSS, "wieght": 1}}}, "terms.a.wieght: unknown key; nearest: weight"),
        ({"terms": {"a": {"loss": LOSS, "weight": "1"}}}, "terms.a.weight: expected a number, got '1'"),
        ({"terms": {"a": {"loss": LOSS, "each": 1}}}, "terms.a.each: expected true or false, got 1"),
        ({"terms": {"a": {"loss": LOSS, "taps": "x"}}}, "terms.a.taps: expected a list of names, got 'x'"),
        ({"terms": {"a": {"weight": 1}}}, "terms.a: loss: expected a class_path, got none"),
        ({"terms": {"a": 3}}, "terms.a: expected a mapping with loss, got 3"),
        ({"terms": {"a": "monoskd.distill.SpearmnLoss"}}, "got 'monoskd.distill.SpearmnLoss'; nearest: .*SpearmanLoss"),
        (
            {"terms": {"a": LOSS | {"init_args": {"grup": "channel"}}}},
            "terms.a.loss.init_args.grup: unknown key; nearest: group",
        ),
        ({"terms": {"a": LOSS | {"init_args": {"group": "x"}}}}, "terms.a.loss: SpearmanLoss: group: expected one of"),
        ({"terms": {"a": {"loss": LOSS, "schedule": {"end": 0}}}}, "terms.a.schedule: Ramp: expected 0 <= start"),
        ({"terms": {"a": LOSS}, "taps": {"student": "x"}}, "taps: expected a list"),
        ({"terms": {"a": LOSS}, "taps": [3]}, r"taps\[0\]: expected a path, or a mapping with student, got 3"),
        ({"terms": {"a": LOSS}, "taps": [{"teacher": "x"}]}, r"taps\[0\]: student: expected a path, got none"),
        (
            {"terms": {"a": LOSS}, "taps": [{"student": "x", "adapter": "cnv"}]},
            r"taps\[0\].adapter: expected one of auto",
        ),
        ({"terms": {"a": LOSS}, "taps": [{"student": {"path": "x", "call": "1"}}]}, 'expected a whole number or "all"'),
        ({"terms": {"a": LOSS}, "taps": [{"student": {"call": 1}}]}, r"taps\[0\].student: path: expected a string"),
        ({"terms": {"a": LOSS}, "teacher_dtype": "float13"}, "teacher_dtype: expected a type such as bfloat16"),
        ({"terms": {"a": LOSS}, "teacher_device": "tpu9"}, "teacher_device: "),
    ],
)
def test_what_is_wrong_is_said_with_its_place(config, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parts_from_config(config)


def test_all_faults_are_said_at_once() -> None:
    config = {"taps": [{"studnt": "x"}], "terms": {"a": {"loss": LOSS, "weight": None, "eech": True}}, "fusio": 1}
    with pytest.raises(InputError) as error:
        parts_from_config(config)
    for fault in ("fusio: unknown key", "taps[0].studnt: unknown key", "terms.a.eech: unknown key; nearest: each"):
        assert fault in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "torch.load"])
@pytest.mark.parametrize("place", ["loss", "view", "schedule", "fusion", "adapter"])
def test_a_config_calls_nothing_but_modules(path: str, place: str, tmp_path) -> None:
    evil = {"class_path": path, "init_args": {"command": f"touch {tmp_path}/x", "args": ["touch", f"{tmp_path}/x"]}}
    config = {
        "loss": {"terms": {"a": {"loss": evil}}},
        "view": {"taps": [{"student": {"path": "x", "view": evil}}], "terms": {"a": LOSS}},
        "schedule": {"terms": {"a": {"loss": LOSS, "schedule": evil}}},
        "fusion": {"fusion": evil, "terms": {"a": LOSS}},
        "adapter": {"taps": [{"student": "x", "adapter": evil}], "terms": {"a": LOSS}},
    }[place]
    with pytest.raises(InputError, match=f"expected an nn.Module class.*got {path}"):
        parts_from_config(config)
    assert not list(tmp_path.iterdir())
