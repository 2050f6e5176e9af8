"""The proposal for the common case, on networks that were not made for it."""

from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from monoskd.distill import (
    AffinityLoss,
    BoxLoss,
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
    student, teacher = nn.Linear(5, 3), nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 3))
    proposal = distil(student, teacher, torch.rand(4, 5), logits=True)
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


class Text(nn.Module):
    """A language model with padding, as transformers has them: tokens, logits under a key, no images."""

    def __init__(self, width: int, *, classes: int = 3) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, width), nn.Linear(width, classes)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *, per_token: bool = False) -> dict[str, Tensor]:
        hidden = self.layers(self.words(input_ids))
        return {"logits": self.head(hidden if per_token else hidden[:, 0])}


@pytest.fixture
def sentences() -> dict[str, Tensor]:
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return {"input_ids": torch.randint(0, 20, (3, 7)), "attention_mask": mask}


@pytest.mark.parametrize("per_token", [False, True])
def test_two_language_models_are_compared_without_the_padding(sentences, per_token: bool) -> None:
    student, teacher = Text(4), Text(6)
    batch = {**sentences, "per_token": per_token}
    proposal = distil(student, teacher, batch)
    assert taps(proposal)[0] == ("layers", "layers")
    scope = {"student": student, "teacher": teacher, "batch": batch}
    exec(proposal.code.replace("# in each step: ", ""), scope)
    before = scope["out"].total.detach()
    scope["out"].total.backward()
    assert student.words.weight.grad.abs().sum() > 0
    padding = torch.where(sentences["attention_mask"] > 0, sentences["input_ids"], 0)
    out = scope["distiller"](**{**batch, "input_ids": padding}, mask=sentences["attention_mask"])
    torch.testing.assert_close(out.total, before)
    assert 'mask: the batch\'s "attention_mask"' in str(proposal)


class Reader(Text):
    """Says at which token of a text an answer begins and ends, as transformers' models for questions do."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        begin, end = self.head(self.layers(self.words(input_ids))).unbind(2)
        return {"start_logits": begin.contiguous(), "end_logits": end.contiguous()}


def test_both_ends_of_an_answer_in_a_text_are_compared(sentences) -> None:
    student, teacher = Reader(4, classes=2), Reader(6, classes=2)
    proposal = distil(student, teacher, sentences)
    assert taps(proposal) == [("layers", "layers")], "not the answers before they are split"
    assert list(proposal.distiller.terms) == ["rank", "start_logits", "end_logits"]
    out = proposal.distiller(**sentences, mask=sentences["attention_mask"])
    for key in ("start_logits", "end_logits"):
        p, q = ((x[key] / 4).softmax(1) for x in (out.teacher, out.student))
        torch.testing.assert_close(out.terms[key], 16 * (p * (p / q).log()).sum(1).mean())
    scope = {"student": student, "teacher": teacher, "batch": sentences}
    exec(proposal.code.replace("# in each step: ", ""), scope)
    assert scope["out"].terms.keys() == out.terms.keys()


def test_a_recurrent_network_learns_from_tokens() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.body = nn.Embedding(20, 4), nn.GRU(4, 5, batch_first=True)

        def forward(self, ids: Tensor) -> Tensor:
            return self.body(self.words(ids))[0][:, -1]

    ids = torch.randint(0, 20, (3, 7))
    teacher = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    proposal = distil(Recurrent(), teacher, ids)
    assert taps(proposal) == [("body:0", "2")]
    proposal.distiller(ids).total.backward()


@pytest.mark.parametrize(("conv", "shape"), [(nn.Conv1d, (4, 2, 32)), (nn.Conv3d, (2, 2, 8, 8, 8))])
def test_signals_and_volumes_are_tokens(conv, shape: tuple[int, ...]) -> None:
    def network(width: int) -> nn.Sequential:
        return nn.Sequential(conv(2, width, 3, 2, 1), nn.ReLU(), conv(width, width, 3, 2, 1))

    x = torch.randn(shape)
    proposal = distil(network(4), network(6), x)
    assert taps(proposal) == [("1", "1"), ("2", "2")]
    assert "view=as_tokens" in proposal.code
    proposal.distiller(x).total.backward()


def test_register_tokens_are_no_patches(images: Tensor) -> None:
    teacher = timm.create_model("vit_tiny_patch16_224", img_size=64, reg_tokens=4)
    assert taps(distil(resnet18(num_classes=7), teacher, images)) == [("layer3", "norm")]


def test_logits_first_in_a_tuple_and_maps_in_a_dataclass(images: Tensor) -> None:
    @dataclass
    class Features:
        fine: Tensor

    class Body(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3, stride=8)

        def forward(self, x: Tensor) -> Features:
            return Features(self.conv(x).relu())

    class Pair(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.head = Body(width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            fine = self.body(x).fine
            return self.head(fine.mean((2, 3))), fine

    proposal = distil(Pair(4), Pair(6), images)
    assert taps(proposal) == [("body:fine", "body:fine")]
    assert proposal.distiller.terms["logits"].key == "0"
    proposal.distiller(images).total.backward()


def test_a_batch_that_a_network_does_not_take_is_an_error(sentences) -> None:
    batch = {**sentences, "token_type_ids": sentences["attention_mask"]}
    with pytest.raises(InputError, match=r"the student \(Text\) does not take this batch .*token_type_ids.*drop keys"):
        distil(Text(4), Text(6), batch)
    distiller = distil(Text(4), Text(6), sentences).distiller
    with pytest.raises(InputError, match=r"teacher \(Text\) does not take this batch .*missing .*attention_mask"):
        distiller(**sentences, teacher_inputs={"input_ids": sentences["input_ids"]})


def test_an_error_inside_a_network_stays_its_own() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + "1"

    with pytest.raises(TypeError, match="unsupported operand"):
        distil(Broken(5, 3), nn.Linear(5, 3), torch.rand(4, 5))


def head(*layers: nn.Module) -> nn.Sequential:
    """A small network on images with these layers after its pooling."""
    body = [nn.Conv2d(3, 8, 3, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, *layers)


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([], id="pooled features"),
        pytest.param([nn.LayerNorm(8)], id="normed features"),
        pytest.param([nn.Linear(8, 4), nn.Softmax(1)], id="probabilities"),
        pytest.param([nn.Linear(8, 4), nn.Sigmoid()], id="boxes"),
        pytest.param([nn.Linear(8, 4), nn.ReLU(inplace=True)], id="written in place"),
    ],
)
def test_what_no_linear_layer_returns_is_no_logits(layers: list[nn.Module], images: Tensor) -> None:
    student, teacher = head(*layers), head(*deepcopy(layers))
    proposal = distil(student, teacher, images)
    assert set(proposal.distiller.terms) == {"rank", "affinity"}
    assert "do not seem to be class logits" in str(proposal)
    assert "logits" in distil(student, teacher, images, logits=True).distiller.terms


def test_linear_outputs_are_logits_unless_the_user_knows_better(images: Tensor) -> None:
    networks = head(nn.Linear(8, 4), nn.Dropout(), nn.Identity()), head(nn.Linear(8, 4), nn.Unflatten(1, (2, 2)))
    student, teacher = networks[0], nn.Sequential(networks[1], nn.Flatten())
    proposal = distil(student, teacher, images)
    assert "logits" in proposal.distiller.terms
    assert "if they do not: distil(..., logits=False)" in str(proposal)
    assert "logits" not in distil(student, teacher, images, logits=False).distiller.terms


def test_logits_that_are_not_there_are_an_error(images: Tensor) -> None:
    with pytest.raises(InputError, match="distil: logits=True: expected both networks to return tensors of one shape"):
        distil(head(nn.Linear(8, 4)), head(nn.Linear(8, 5)), images, logits=True)


def test_vectors_that_are_no_logits_are_compared_as_values() -> None:
    x = torch.rand(4, 5)
    proposal = distil(nn.Linear(5, 3), nn.Linear(5, 3), x, logits=False)
    assert {type(term.loss) for term in proposal.distiller.terms.values()} == {BoxLoss, RelationalLoss}
    proposal.distiller(x).total.backward()


def test_an_image_is_no_logits(images: Tensor) -> None:
    def network(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.ConvTranspose2d(width, 3, 4, 4))

    assert "logits" not in distil(network(4), network(6), images).distiller.terms


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_a_problem_without_one_label_has_no_logits(sentences, problem: str) -> None:
    student, teacher = Text(4), Text(6)
    student.config = SimpleNamespace(problem_type=problem)
    assert "logits" not in distil(student, teacher, sentences).distiller.terms


def test_the_queries_of_a_set_of_objects_are_not_compared_one_by_one(images: Tensor) -> None:
    class Queries(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.classes = nn.Conv2d(3, width, 3, stride=8), nn.Linear(width, 48)
            self.boxes = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            logits = self.classes(self.body(x).mean((2, 3))).unflatten(1, (16, 3))  # as many as 4 x 4 patches
            return {"logits": logits, "pred_boxes": self.boxes(logits)}

    proposal = distil(Queries(4), Queries(6), images)
    assert set(proposal.distiller.terms) == {"rank", "affinity"}
    assert taps(proposal) == [("body", "body")]


def test_a_student_with_another_output_in_training_is_tapped_at_its_logits(images: Tensor) -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc, self.drop = nn.Conv2d(3, 6, 3, stride=8), nn.Linear(6, 5), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            pooled = self.body(x).mean((2, 3))
            return (self.fc(pooled), pooled) if self.training else self.fc(self.drop(pooled))

    student, teacher = Auxiliary(), head(nn.Linear(8, 5))
    proposal = distil(student, teacher, images)
    assert 'Tapped at "fc"' in str(proposal)
    assert student.training
    scope = {"student": student, "teacher": teacher, "batch": images}
    exec(proposal.code.replace("# in each step: ", ""), scope)
    logits = student.fc(student.body(images).mean((2, 3)))
    torch.testing.assert_close(scope["out"].terms["logits"], LogitLoss(4.0)(student=logits, teacher=teacher(images)))


def test_the_size_of_an_adaptive_pooling_is_not_the_image_s(images: Tensor) -> None:
    def network(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, width, 3, 16), nn.AdaptiveAvgPool2d(16), nn.Flatten(), nn.LazyLinear(3))

    assert taps(distil(network(4), network(6), images)) == [("0", "0")]


def test_logits_before_they_are_resized_are_no_feature(images: Tensor) -> None:
    class Segmenter(nn.Module):
        def __init__(self, width: int, stride: int) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, width, 3, 8, 1), nn.Conv2d(width, 5, 3, stride, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": interpolate(self.head(self.body(x)), size=x.shape[2:])}

    proposal = distil(Segmenter(4, 2), Segmenter(6, 1), images)
    assert taps(proposal) == [("body", "body")]
    assert proposal.distiller.terms["logits"].key == "out"


def test_volumes_with_channels_last_are_not_read_as_channels_first() -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.movedim(1, -1)

    def network(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv3d(2, width, 3, 4, 1), Last(), nn.Linear(width, 40), nn.ReLU())

    batch = torch.rand(2, 2, 8, 16, 16)
    proposal = distil(network(4), network(6), batch)
    assert taps(proposal) == [("3", "3")]
    seen = proposal.distiller(batch).maps["3"]
    torch.testing.assert_close(seen.student[..., 0], proposal.distiller.student(batch).flatten(1, 3).mT)
    assert 'Outlet("3", view=last_as_tokens)' in proposal.code


def test_what_is_no_network_or_no_tensor_is_an_error(images: Tensor) -> None:
    with pytest.raises(InputError, match=r"teacher: expected an nn\.Module, got str"):
        distil(nn.Conv2d(3, 4, 3), "resnet18", images)
    with pytest.raises(InputError, match="batch: expected tensors, got numpy arrays"):
        distil(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), images.numpy())
    with pytest.raises(InputError, match=r"batch: expected what the networks are called with, got a list.*batch\[0\]"):
        distil(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), [images, torch.arange(len(images))])
    with pytest.raises(InputError, match="student: expected parameters that learn, got none"):
        distil(nn.Conv2d(3, 4, 3).requires_grad_(False), nn.Conv2d(3, 4, 3), images)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_student_is_looked_into_without_compiling(in_place: bool, images: Tensor) -> None:
    def never(*_: object) -> None:
        raise AssertionError("compiled")

    student = compiled = head(nn.Linear(8, 4))
    if in_place:
        student.compile(backend=never)
    else:
        compiled = torch.compile(student, backend=never)
    assert taps(distil(compiled, head(nn.Linear(8, 4)), images)) == [("1", "1")]
