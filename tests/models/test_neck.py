import torch
from torch.nn.functional import interpolate

from monoskd.models.neck import DLAUp

CHANNELS = (4, 6, 8, 10)


def maps(height: int = 64, width: int = 96) -> dict[str, torch.Tensor]:
    return {
        str(stride): torch.rand(2, channels, height // stride, width // stride)
        for stride, channels in zip((4, 8, 16, 32), CHANNELS, strict=True)
    }


def test_each_feature_has_the_width_and_stride_of_its_backbone_map() -> None:
    inputs = maps()
    features = DLAUp(CHANNELS)(inputs)
    assert {name: x.shape for name, x in features.items()} == {name: x.shape for name, x in inputs.items()}


def test_the_coarsest_feature_is_the_backbone_map_itself() -> None:
    inputs = maps()
    assert DLAUp(CHANNELS)(inputs)["32"] is inputs["32"]


def test_every_backbone_map_reaches_the_finest_feature() -> None:
    neck = DLAUp(CHANNELS).eval()
    inputs = {name: x.requires_grad_() for name, x in maps().items()}
    neck(inputs)["4"].sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in inputs.values())


def test_upsampling_starts_as_bilinear_interpolation() -> None:
    up = DLAUp(CHANNELS).get_submodule("rounds.0.up.0")
    coarse = torch.rand(1, CHANNELS[2], 5, 7)
    bilinear = interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up(coarse)[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])


def test_a_hook_on_an_outlet_sees_the_feature() -> None:
    neck = DLAUp(CHANNELS)
    seen = {}
    neck.get_submodule("16").register_forward_hook(lambda _module, _inputs, output: seen.update(map=output))
    assert neck(maps())["16"] is seen["map"]
