"""The proposal for the common case, on networks that were not made for it."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from monoskd.distill import (
    AffinityLoss,
    LogitLoss,
    Outlet,
    RelationalLoss,
    SpearmanLoss,
    TokensAsMap,
    channels_first,
    distil,
)
from monoskd.errors import InputError


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 3, 64, 64)


def taps(proposal) -> list[tuple[str, str]]:
    return [(tap.student_outlet.path, tap.teacher_outlet.path) for tap in proposal.distiller.taps.values()]


def test_two_convolutional_networks_meet_at_equal_strides(images: Tensor) -> None:
    student, teacher = mobilenet_v3_small(num_classes=10), resnet18(num_classes=10)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    proposal = distil(student, teacher, images)
    assert taps(proposal) == [("features.8", "layer3"), ("features", "layer4")]
    assert {name: type(term.loss) for name, term in proposal.distiller.terms.items()} == {
        "rank": SpearmanLoss,
        "logits": LogitLoss,
    }
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert student.training
    assert not any(module._forward_hooks for network in (student, teacher) for module in network.modules())


def test_the_code_makes_the_same_distiller(images: Tensor) -> None:
    student, teacher = timm.create_model("resnet10t"), timm.create_model("vit_tiny_patch16_224", img_size=64)
    proposal = distil(student, teacher, images)
    scope = {"student": student, "teacher": teacher}
    exec(proposal.code, scope)
    torch.manual_seed(1)
    again = scope["distiller"].materialize(images).eval()
    again.load_state_dict(proposal.distiller.state_dict())
    torch.testing.assert_close(again(images).total, proposal.distiller.eval()(images).total)
    assert taps(proposal) == [("layer3", "norm")]
    assert again.taps["layer3"].teacher == Outlet("norm", view=TokensAsMap(prefix=1))
    assert 'tap "layer3" (256 x 4 x 4) beside "norm" (tokens, 192 x 4 x 4)' in str(proposal)


def test_channels_last_and_other_classes(images: Tensor) -> None:
    teacher = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2)
    proposal = distil(resnet18(num_classes=7), teacher, images)
    assert [tap.teacher.view for tap in proposal.distiller.taps.values()] == [channels_first] * 2
    assert isinstance(proposal.distiller.terms["affinity"].loss, AffinityLoss)
    proposal.distiller(images).total.backward()


def test_outputs_in_a_dict(images: Tensor) -> None:
    make = lraspp_mobilenet_v3_large
    student, teacher = (make(weights=None, weights_backbone=None, num_classes=4) for _ in range(2))
    proposal = distil(student, teacher, images)
    assert proposal.distiller.terms["logits"].key == "out"
    proposal.distiller(images).total.backward()


def test_networks_without_maps() -> None:
    proposal = distil(nn.Linear(5, 3), nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 3)), torch.rand(4, 5))
    assert {type(term.loss) for term in proposal.distiller.terms.values()} == {LogitLoss, RelationalLoss}
    proposal.distiller(torch.rand(4, 5)).total.backward()


def test_maps_of_no_common_size(images: Tensor) -> None:
    proposal = distil(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(3, 6, 5)), images)
    assert taps(proposal) == [("0", "0")]
    assert "no size is common" in str(proposal)


def test_where_nothing_can_be_compared_it_is_said() -> None:
    with pytest.raises(InputError, match="distil: expected maps B x C x H x W"):
        distil(nn.Linear(5, 3), nn.Linear(5, 4), torch.rand(4, 5))


def test_a_batch_of_keywords(images: Tensor) -> None:
    class Named(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, width, 3, stride=2, padding=1)

        def forward(self, *, pixel_values: Tensor) -> dict[str, Tensor]:
            return {"logits": self.body(pixel_values).mean((2, 3))[:, :4]}

    proposal = distil(Named(4), Named(6), {"pixel_values": images})
    assert taps(proposal) == [("body", "body")]
    assert proposal.distiller.terms["logits"].key == "logits"
