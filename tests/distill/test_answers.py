"""What `distil` takes for class logits, what for other values, and which taps a mask in the batch is for."""

from collections import namedtuple
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from monoskd.distill import BoxLoss, LogitLoss, RelationalLoss, distil


def losses(proposal) -> dict[str, type[nn.Module]]:
    return {name: type(term.loss) for name, term in proposal.distiller.terms.items()}


def vectors(width: int, values: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, values))


def test_what_a_network_of_vectors_returns_may_be_any_values() -> None:
    x = torch.rand(4, 5)
    proposal = distil(vectors(4), vectors(6), x)
    assert losses(proposal) == {"outputs": BoxLoss, "relations": RelationalLoss}
    assert "which may be any values; if they are class logits: distil(..., logits=True)" in str(proposal)
    assert losses(distil(vectors(4), vectors(6), x, logits=True)) == {"logits": LogitLoss, "relations": RelationalLoss}


def test_networks_of_vectors_can_tell_that_they_return_logits() -> None:
    x = torch.rand(4, 5)
    student, teacher = vectors(4), vectors(6)
    student.num_classes = teacher.num_classes = 3
    assert "logits" in losses(distil(student, teacher, x))
    teacher.num_classes = 4
    assert "logits" not in losses(distil(student, teacher, x))
    named = [nn.Sequential() for _ in range(2)]
    for network in named:
        network.add_module("classifier", nn.Linear(5, 3))
    assert "logits" in losses(distil(*named, x))


def test_one_value_a_row_without_an_axis() -> None:
    class Scalar(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 0]

    x, student, teacher = torch.rand(4, 5), Scalar(5, 1), Scalar(5, 1)
    proposal = distil(student, teacher, x)
    assert losses(proposal) == {"outputs": BoxLoss}
    torch.testing.assert_close(proposal.distiller(x).total, (student(x) - teacher(x)).abs().mean())


@pytest.mark.parametrize("last", [[], [nn.Sigmoid(), nn.UpsamplingNearest2d(scale_factor=4)]])
def test_a_map_of_depth_is_compared_by_value(last: list[nn.Module]) -> None:
    def network(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.ReLU(), nn.Conv2d(width, 1, 1), *deepcopy(last))

    images, student, teacher = torch.rand(2, 3, 16, 16), network(4), network(6)
    proposal = distil(student, teacher, images)
    assert "outputs" in losses(proposal)
    assert list(proposal.distiller.taps) == ["1"]
    out = proposal.distiller(images)
    torch.testing.assert_close(out.terms["outputs"], (student(images) - teacher(images)).abs().mean())


@pytest.mark.parametrize("wrap", [lambda x: {"prediction": {"logits": x}}, lambda x: [namedtuple("Out", "logits")(x)]])
def test_logits_inside_what_is_returned(wrap) -> None:
    class Wrapped(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = vectors(width)

        def forward(self, x: Tensor) -> object:
            return wrap(self.body(x))

    x, student, teacher = torch.rand(4, 5), Wrapped(4), Wrapped(6)
    proposal = distil(student, teacher, x)
    assert "logits" in losses(proposal)
    expected = LogitLoss(4.0)(student=student.body(x), teacher=teacher.body(x))
    torch.testing.assert_close(proposal.distiller(x).terms["logits"], expected)


def test_features_under_a_key_are_no_values() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 4, 4, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"last_hidden_state": self.body(x)}

    assert set(losses(distil(Hidden(), Hidden(), torch.rand(2, 3, 16, 16)))) == {"rank", "affinity"}


def test_logits_of_words_beside_other_logits() -> None:
    class Pretraining(nn.Module):
        """As BERT's two heads."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.words, self.head, self.next = nn.Embedding(20, width), nn.Linear(width, 20), nn.Linear(width, 2)
            self.config = SimpleNamespace(vocab_size=20)

        def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
            x = self.words(input_ids)
            return {"next_logits": self.next(x[:, 0]), "prediction_logits": self.head(x)}

    batch, student, teacher = {"input_ids": torch.randint(20, (3, 6))}, Pretraining(4), Pretraining(6)
    proposal = distil(student, teacher, batch)
    logits = [network(**batch)["prediction_logits"].mT for network in (student, teacher)]
    expected = LogitLoss(4.0)(student=logits[0], teacher=logits[1])
    torch.testing.assert_close(proposal.distiller(**batch).terms["logits"], expected)


def test_pixels_under_the_key_of_logits_are_no_classes() -> None:
    class Patches(nn.Module):
        """As the decoder of a masked autoencoder: a row of pixel values for each patch."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, width, 4, 4), nn.Linear(width, 48)
            self.config = SimpleNamespace(num_labels=2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(self.body(x).flatten(2).mT)}

    images = torch.rand(2, 3, 16, 16)
    assert losses(distil(Patches(4), Patches(6), images))["outputs"] is BoxLoss
    student, teacher = Patches(4), Patches(6)
    student.config.num_labels = teacher.config.num_labels = 48
    assert losses(distil(student, teacher, images))["logits"] is LogitLoss


class Translator(nn.Module):
    """An encoder and a decoder of texts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, width), nn.Linear(width, 20)
        self.encoder, self.decoder = (nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(2))

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor, **masks: Tensor) -> dict[str, Tensor]:
        seen = self.encoder(self.words(input_ids).detach()).mean(1, keepdim=True)
        return {"logits": self.head(self.decoder(self.words(decoder_input_ids) + 0 * seen))}


def padding(count: int) -> Tensor:
    return (torch.arange(count) < torch.tensor([[count], [2], [3]])).long()


def run(proposal, student: nn.Module, teacher: nn.Module, batch: dict[str, Tensor]):
    scope = {"student": student, "teacher": teacher, "batch": batch}
    torch.manual_seed(1)
    exec(proposal.code.replace("# in each step: ", ""), scope)
    return scope["out"], scope["distiller"]


def test_the_mask_of_an_encoder_is_not_the_decoder_s() -> None:
    batch = {"input_ids": torch.randint(20, (3, 6)), "decoder_input_ids": torch.randint(20, (3, 4))}
    student, teacher = Translator(4), Translator(6)
    masked = batch | {"attention_mask": padding(6)}
    proposal = distil(student, teacher, masked)
    out, distiller = run(proposal, student, teacher, masked)
    assert set(out.terms) == {"rank", "rank_without_mask", "logits"}
    assert 'it is not for "decoder", "logits"' in str(proposal)
    changed = masked | {"input_ids": torch.where(padding(6) > 0, batch["input_ids"], 7)}
    again = distiller(**changed, mask=masked["attention_mask"])
    torch.testing.assert_close(again.terms["rank"], out.terms["rank"])
    logits = [network(**batch)["logits"].mT for network in (student, teacher)]
    torch.testing.assert_close(out.terms["logits"], LogitLoss(4.0)(student=logits[0], teacher=logits[1]))


def test_as_many_tokens_do_not_make_the_encoder_s_mask_the_decoder_s() -> None:
    batch = {"input_ids": torch.randint(20, (3, 6)), "decoder_input_ids": torch.randint(20, (3, 6))}
    student, teacher = Translator(4), Translator(6)
    proposal = distil(student, teacher, batch | {"attention_mask": padding(6)})
    assert list(proposal.distiller.taps) == ["decoder", "logits"]
    assert proposal.code.endswith("distiller(**batch)")
    assert 'mask: the batch\'s "attention_mask" fits none of the taps: padding is compared, too' in str(proposal)
    masked = batch | {"attention_mask": padding(6), "decoder_attention_mask": padding(6)}
    proposal = distil(student, teacher, masked)
    out, _ = run(proposal, student, teacher, masked)
    logits = [network(**batch)["logits"].mT for network in (student, teacher)]
    expected = LogitLoss(4.0)(student=logits[0], teacher=logits[1], mask=padding(6))
    torch.testing.assert_close(out.terms["logits"], expected)


def test_masks_of_pixels_and_masks_that_are_true_at_padding() -> None:
    class Images(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, width, 4, 4)

        def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> dict[str, Tensor]:
            return {"maps": self.body(pixel_values)}

    pixel_mask = torch.ones(2, 16, 16, dtype=torch.long)
    pixel_mask[1, 8:] = 0
    images = torch.rand(2, 3, 16, 16)
    batch = {"pixel_values": images, "pixel_mask": pixel_mask}
    student, teacher = Images(4), Images(4)
    out, distiller = run(distil(student, teacher, batch), student, teacher, batch)
    moved = distiller(images * pixel_mask[:, None], pixel_mask, mask=pixel_mask)
    torch.testing.assert_close(moved.terms["rank"], out.terms["rank"])

    class Sequence(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, width), nn.ReLU())

        def forward(self, src: Tensor, src_key_padding_mask: Tensor) -> Tensor:
            return self.body(src)

    batch = {"src": torch.rand(3, 6, 5), "src_key_padding_mask": padding(6) == 0}
    student, teacher = Sequence(4), Sequence(4)
    proposal = distil(student, teacher, batch)
    assert 'mask=~batch["src_key_padding_mask"]' in proposal.code
    out, distiller = run(proposal, student, teacher, batch)
    moved = distiller(batch["src"] * padding(6)[..., None], padding(6) == 0, mask=padding(6))
    torch.testing.assert_close(moved.terms["rank"], out.terms["rank"])


class TwoHeads(nn.Sequential):
    """The mean of two linear heads, as LeViT's."""

    def __init__(self, width: int, last: nn.Module) -> None:
        super().__init__(nn.Conv2d(3, width, 8, 8))
        self.first, self.second, self.last = nn.Linear(width, 4), nn.Linear(width, 4), last

    def forward(self, x: Tensor) -> Tensor:
        pooled = 9 * self[0](x).mean((2, 3))
        return self.last((self.first(pooled) + self.second(pooled)) / 2)


@pytest.mark.parametrize("last", [nn.Identity(), nn.Sigmoid(), nn.Softmax(1)])
def test_what_follows_on_linear_layers_is_logits_where_the_networks_know_so_many_classes(last: nn.Module) -> None:
    images, student, teacher = torch.rand(4, 3, 16, 16), TwoHeads(4, last), TwoHeads(6, deepcopy(last))
    assert "logits" not in losses(distil(student, teacher, images))
    student.num_classes = teacher.num_classes = 4
    probabilities = not isinstance(last, nn.Identity)
    assert ("logits" in losses(distil(student, teacher, images))) != probabilities


def test_scores_of_words_before_they_are_capped_are_no_feature() -> None:
    class Capped(nn.Module):
        """As Gemma 2."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.words, self.body, self.head = nn.Embedding(20, width), nn.Linear(width, width), nn.Linear(width, 20)

        def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(self.body(self.words(input_ids))).tanh() * 30}

    proposal = distil(Capped(4), Capped(6), {"input_ids": torch.randint(20, (3, 6))})
    assert list(proposal.distiller.taps) == ["body", "logits"]


def test_a_depth_map_under_a_key_is_compared_by_value() -> None:
    class Depth(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, width, 4, 4), nn.ConvTranspose2d(width, 1, 4, 4)

        def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
            return {"predicted_depth": self.head(self.body(pixel_values).relu()).relu()[:, 0]}

    batch, student, teacher = {"pixel_values": torch.rand(2, 3, 16, 16)}, Depth(4), Depth(6)
    out = distil(student, teacher, batch).distiller(**batch)
    depths = [network(**batch)["predicted_depth"] for network in (student, teacher)]
    torch.testing.assert_close(out.terms["outputs"], (depths[0] - depths[1]).abs().mean())
