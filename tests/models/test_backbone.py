from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from monoskd.errors import InputError
from monoskd.models.backbone import Backbone
from monoskd.models.neck import DLAUp


@pytest.mark.parametrize("name", ["dla46_c", "resnet10t", "test_convnext", "mobilenetv4_conv_small"])
def test_any_timm_backbone_feeds_the_neck(name: str) -> None:
    backbone = Backbone(name)
    neck = DLAUp(backbone.channels)
    features = neck(backbone(torch.rand(2, 3, 64, 96)))
    for stride, channels in zip((4, 8, 16, 32), backbone.channels, strict=True):
        assert features[str(stride)].shape == (2, channels, 64 // stride, 96 // stride)


def test_a_hook_on_an_outlet_sees_the_map() -> None:
    backbone = Backbone("dla34", arguments={"channels": (4, 4, 4, 4, 4, 8)})
    seen = {}
    backbone.get_submodule("8").register_forward_hook(lambda _module, _inputs, output: seen.update(map=output))
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert seen["map"] is maps["8"]


def test_early_stride_keeps_strides_and_weights_and_saves_work() -> None:
    plain, early = (
        Backbone("dla34", arguments={"channels": (4, 4, 4, 4, 4, 8)}, early_stride=early) for early in (False, True)
    )
    early.load_state_dict(plain.state_dict())
    stems: list[torch.Size] = []
    for backbone in (plain, early):
        stem = backbone.get_submodule("net.base_layer")
        stem.register_forward_hook(lambda _module, _inputs, output: stems.append(output.shape[-2:]))
    image = torch.rand(1, 3, 64, 64)
    assert [x.shape for x in plain(image).values()] == [x.shape for x in early(image).values()]
    assert stems == [(64, 64), (32, 32)]


def test_a_backbone_that_strides_early_anyway_says_so() -> None:
    with pytest.raises(InputError, match=r"resnet10t: expected a first layer of stride 1 .* got stride 2; leave"):
        Backbone("resnet10t", early_stride=True)


def test_a_misspelt_backbone_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="got 'dla43'; did you mean dla34"):
        Backbone("dla43")


def test_a_backbone_without_the_strides_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected features at strides 4, 8, 16 and 32, got \[16"):
        Backbone("test_vit", arguments={"img_size": 64})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_local_file(suffix: str, tmp_path: Path) -> None:
    source, file = timm.create_model("test_resnet").state_dict(), tmp_path / f"resnet{suffix}"
    if suffix == ".pth":
        torch.save(source, file)
    else:
        save_file(source, file)
    backbone = Backbone("test_resnet", pretrained=file)
    for name, weight in backbone.net.state_dict().items():
        assert torch.equal(weight, source[name]), name


def test_a_fourth_channel_starts_from_the_weights_of_three(tmp_path: Path) -> None:
    source, file = timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth"
    torch.save(source, file)
    first = next(iter(Backbone("test_resnet", pretrained=file, input_channels=4).net.parameters()))
    wanted = next(value for name, value in source.items() if value.dim() == 4)
    assert first.shape[1] == 4
    torch.testing.assert_close(first[:, :3], 0.75 * wanted)  # timm: as large a sum over four channels as over three
    torch.testing.assert_close(first[:, 3], 0.75 * wanted[:, 0])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"other\.pth: expected timm's weights for dla34, with base_layer.* got nothing"
    ):
        Backbone("dla34", pretrained=tmp_path / "other.pth")


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pth: expected a PyTorch checkpoint, got no file"):
        Backbone("dla34", pretrained=tmp_path / "nowhere.pth")


def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_arguments: object, **_options: object) -> None:
        raise OSError("cannot reach huggingface.co\nmore lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        InputError, match=r"cannot reach huggingface\.co; give a local file .* or start from scratch"
    ) as caught:
        Backbone("dla34", pretrained=True)
    assert "\n" not in str(caught.value)
