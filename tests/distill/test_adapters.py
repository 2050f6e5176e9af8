import copy
import pickle

import pytest
import torch
from torch import nn

from monoskd.distill.adapters import Adapter, LazyConv
from monoskd.errors import InputError


def fitted(kind: str, *, channels_in: int, channels: int) -> Adapter:
    adapter = Adapter(kind)
    adapter.bring(torch.zeros(2, channels_in, 4, 4), channels=channels, grid=True, where="tap")
    return adapter


@pytest.mark.parametrize(
    ("kind", "channels_in", "channels", "weights"),
    [
        ("auto", 3, 5, 3 * 5 + 5),
        ("auto", 5, 5, 0),
        ("linear", 5, 5, 5 * 5 + 5),
        ("conv", 3, 5, 9 * 3 * 5 + 5 + 5 * 5 + 5),
        ("identity", 5, 5, 0),
        ("none", 3, 5, 0),
    ],
)
def test_each_kind_has_the_weights_it_should(kind: str, channels_in: int, channels: int, weights: int) -> None:
    adapter = fitted(kind, channels_in=channels_in, channels=channels)
    assert sum(p.numel() for p in adapter.parameters()) == weights
    assert adapter(torch.zeros(2, channels_in, 4, 6)).shape == (2, channels if weights else channels_in, 4, 6)


def test_the_published_adapter_is_two_plain_convolutions() -> None:
    adapter = fitted("conv", channels_in=3, channels=5)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 5, 1))
    plain.load_state_dict(adapter.layers.state_dict())
    x = torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(adapter(x), plain(x))


def test_weights_start_as_those_of_a_convolution() -> None:
    torch.manual_seed(0)
    adapter = fitted("linear", channels_in=3, channels=5)
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 1)
    assert torch.equal(adapter.layers.weight, plain.weight)
    assert torch.equal(adapter.layers.bias, plain.bias)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        lambda p: torch.optim.RMSprop(p, lr=0.1, foreach=True),
    ],
)
def test_an_optimiser_made_before_first_use_trains_the_weights(make) -> None:
    adapter = Adapter("auto")
    optimiser = make(adapter.parameters())
    adapter.bring(torch.zeros(1, 3, 2, 2), channels=5, grid=True, where="tap")
    before = adapter.layers.weight.clone()
    adapter(torch.ones(1, 3, 2, 2)).sum().backward()
    optimiser.step()
    assert not torch.equal(adapter.layers.weight, before)


def test_weights_take_the_precision_of_the_map_but_not_that_of_autocast() -> None:
    adapter = Adapter("linear")
    adapter.bring(torch.zeros(1, 3, 2, 2, dtype=torch.float64), channels=5, grid=True, where="tap")
    assert adapter.layers.weight.dtype == torch.float64
    adapter = Adapter("linear")
    with torch.autocast("cpu", torch.bfloat16):
        adapter.bring(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16), channels=5, grid=True, where="tap")
    assert adapter.layers.weight.dtype == torch.float32


def test_state_dicts_go_between_used_and_unused_adapters() -> None:
    used, fresh = fitted("conv", channels_in=3, channels=5), Adapter("conv")
    assert not fresh.state_dict()
    fresh.load_state_dict(used.state_dict())
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(fresh(x), used(x))
    Adapter("auto").load_state_dict(fitted("auto", channels_in=5, channels=5).state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_of_unused_adapters_can_be_used(copied) -> None:
    adapter = copied(Adapter("conv")).double()
    adapter.bring(torch.zeros(1, 3, 2, 2), channels=5, grid=True, where="tap")
    assert adapter(torch.zeros(1, 3, 2, 2)).shape == (1, 5, 2, 2)


def test_a_use_that_makes_no_sense_is_an_error() -> None:
    with pytest.raises(InputError, match="tap: the student has 3 channels and the teacher 5"):
        fitted("identity", channels_in=3, channels=5)
    with pytest.raises(InputError, match='adapter="conv" mixes neighbours and got tokens or vectors'):
        Adapter("conv").bring(torch.zeros(1, 3, 7, 1), channels=3, grid=False, where="tap")
    with pytest.raises(InputError, match="adapter='cnov': expected auto, conv, linear, identity, none or a module"):
        Adapter("cnov")


def test_what_it_will_be_is_shown() -> None:
    assert "built on first use" in repr(LazyConv(1))


def test_weights_that_were_made_in_inference_mode_learn_later() -> None:
    adapter = Adapter("conv")
    with torch.inference_mode():
        adapter.bring(torch.zeros(2, 3, 4, 4), channels=5, grid=True, where="tap")
    adapter(torch.randn(2, 3, 4, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())
