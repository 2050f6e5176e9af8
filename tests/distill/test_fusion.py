import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from monoskd.distill.fusion import AttentionFusion
from monoskd.errors import InputError


def maps() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 4, 9, 14), torch.randn(2, 6, 5, 7), torch.randn(2, 8, 3, 4)]  # odd sizes, too


def test_every_map_keeps_its_shape() -> None:
    fused = AttentionFusion((4, 6, 8), width=5)(maps())
    assert [x.shape for x in fused] == [x.shape for x in maps()]


def test_a_map_knows_the_coarser_ones_and_not_the_finer() -> None:
    fusion = AttentionFusion((4, 6, 8), width=5).eval()
    inputs = [x.requires_grad_() for x in maps()]
    middle = fusion(inputs)[1]
    gradients = torch.autograd.grad(middle.square().sum(), inputs, allow_unused=True)
    assert gradients[0] is None
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients[1:])


@pytest.mark.parametrize(("bias", "source"), [((50.0, -50.0), "own"), ((-50.0, 50.0), "coarser")])
def test_the_gates_choose_between_the_own_map_and_the_coarser(bias: tuple[float, float], source: str) -> None:
    fusion = AttentionFusion((4, 8), width=4).eval()
    fine, coarse = maps()[0], maps()[2]
    for conv in (fusion.gate[0],):
        assert isinstance(conv, nn.Conv2d)
        nn.init.zeros_(conv.weight)
        with torch.no_grad():
            conv.bias.copy_(torch.tensor(bias))
    own = fusion.project[1](fine)
    above = torch.nn.functional.interpolate(fusion.project[0](coarse), size=fine.shape[2:], mode="nearest")
    expected = fusion.smooth[1](own if source == "own" else above)
    assert_close(fusion([fine, coarse])[0], expected)


def test_one_level_has_no_gate() -> None:
    fusion = AttentionFusion((4,), width=5)
    assert len(fusion.gate) == 0
    assert fusion(maps()[:1])[0].shape == maps()[0].shape


def test_maps_of_other_channels_are_an_error_that_says_what_to_set() -> None:
    with pytest.raises(InputError, match=r"\(128, 256, 512\) channels, got \(4, 6, 8\); set `channels`"):
        AttentionFusion()(maps())


def test_another_number_of_maps_is_an_error() -> None:
    with pytest.raises(InputError, match="expected 3 maps, finest first, got 2"):
        AttentionFusion((4, 6, 8))(maps()[:2])
    with pytest.raises(InputError, match="at least one map"):
        AttentionFusion(())
