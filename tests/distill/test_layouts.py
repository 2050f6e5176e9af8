"""Which tensors of a network `distil` takes for features, and how it reads their axes."""

import pytest
import torch
from torch import Tensor, nn

from monoskd.distill import Outlet, Proposal, TokensAsMap, as_tokens, batch_first, distil
from monoskd.distill.layouts import batch_size
from monoskd.distill.teachers import as_inputs


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64)


def taps(proposal: Proposal) -> list[tuple[object, object]]:
    return [(tap.student, tap.teacher) for tap in proposal.distiller.taps.values()]


def pyramid(width: int) -> nn.Sequential:
    """Maps of 16 x 16 and 4 x 4 places of an image of 64 x 64."""
    return nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.Conv2d(width, width, 4, 4))


class Patches(nn.Module):
    """16 patches of an image, as tokens B x 16 x C."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


def test_attention_weights_are_no_map(images: Tensor) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.drop = nn.Linear(8, 8), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:  # 16 tokens: weights of 16 x 16, the size of a map of stride 4
            weights = self.drop((x @ x.mT)[:, None].expand(-1, 2, -1, -1).softmax(-1))
            return self.mix(weights.mean(1) @ x)

    teacher = nn.Sequential(Patches(8), Attention())
    assert taps(distil(pyramid(4), teacher, images)) == [("1", Outlet("1", view=TokensAsMap()))]


def test_a_batch_that_is_folded_into_windows_is_no_tap(images: Tensor) -> None:
    class Windows(nn.Module):
        """Tokens 4 B x 16 x C, more often than anything else."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner, self.last = nn.ModuleList(nn.Linear(width, width) for _ in range(5)), nn.Conv2d(width, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            folded = x.unflatten(2, (2, 8)).unflatten(4, (2, 8)).permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)
            for layer in self.inner:
                folded = layer(folded)
            return self.last(x + folded.mean())

    student = nn.Sequential(nn.Conv2d(3, 4, 4, 4), Windows(4))
    proposal = distil(student, pyramid(6), images)
    assert taps(proposal) == [("1", "0")]
    proposal.distiller(images).total.backward()


def test_a_stage_in_a_container_comes_before_the_stem(images: Tensor) -> None:
    class Staged(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, width, 16, 16)
            self.stages = nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU()) for _ in range(2)))
            self.heads = nn.ModuleList([nn.Conv2d(width, 5, 1)])

        def forward(self, x: Tensor) -> Tensor:
            for stage in self.stages:
                x = self.stem(x) if x.shape[1] == 3 else x
                x = stage(x)
            return self.heads[0](x).mean((2, 3))

    assert taps(distil(Staged(4), Staged(6), images)) == [("stages.1", "stages.1")]


@pytest.mark.parametrize("length", [5, 3])
def test_torch_s_recurrent_layers_keep_steps_first(length: int) -> None:
    class Recurrent(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.head = nn.GRU(2, width), nn.Linear(width, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)[0][-1])

    x = torch.randn(length, 3, 2)
    student, teacher = Recurrent(4), Recurrent(6)
    proposal = distil(student, teacher, x)
    outlet = Outlet("body:0", view=batch_first)
    assert taps(proposal) == [(outlet, outlet)]
    scope = {"student": student, "teacher": teacher, "batch": x}
    exec(proposal.code.replace("# in each step: ", ""), scope)
    tapped = scope["out"].maps["body:0"]
    torch.testing.assert_close(tapped.teacher, teacher.body(x)[0].permute(1, 2, 0)[..., None])


def test_a_signal_stays_one_behind_a_norm_between_two_transpositions() -> None:
    class Normed(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv1d(2, width, 3, 2, 1), nn.LayerNorm(width), nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.norm(self.conv(x).transpose(1, 2)).transpose(1, 2))

    class Body(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = Normed(width)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).mean(2)

    proposal = distil(Body(4), Body(6), torch.randn(3, 2, 32))
    outlet = Outlet("body", view=as_tokens)
    assert taps(proposal) == [(outlet, outlet)]
    assert '"body" (tokens, 4 x 16)' in str(proposal)


def test_what_random_numbers_have_touched_is_not_compared(images: Tensor) -> None:
    class Masked(nn.Module):
        """A masked autoencoder: 4 of 16 patches, drawn anew in each pass."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.patches, self.norm, self.head = Patches(width), nn.LayerNorm(width), nn.Linear(width, 3)

        def forward(self, x: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
            tokens = self.patches(x)
            noise = torch.rand(tokens.shape[:2]) if noise is None else noise
            kept = tokens.gather(1, noise.argsort(1)[:, :4, None].expand(-1, -1, tokens.shape[2]))
            return {"logits": self.head(self.norm(kept))}

    proposal = distil(Masked(4), Masked(6), images)
    assert list(proposal.distiller.taps) == ["patches"]
    assert set(proposal.distiller.terms) == {"rank", "affinity"}
    assert "the teacher draws random numbers in eval mode" in str(proposal)
    held = distil(Masked(4), Masked(6), {"x": images, "noise": torch.rand(3, 16)})
    assert list(held.distiller.taps) == ["patches", "norm", "logits"]
    assert "random" not in str(held)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_transformer_with_nested_tensors_inside() -> None:
    class Encoder(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(width, 2, 8, dropout=0.0, batch_first=True)
            self.embed, self.body = nn.Linear(5, width), nn.TransformerEncoder(layer, 2)

        def forward(self, src: Tensor, src_key_padding_mask: Tensor) -> Tensor:
            return self.body(self.embed(src), src_key_padding_mask=src_key_padding_mask)

    padding = torch.arange(6) >= torch.tensor([[6], [4], [2]])
    batch = {"src": torch.rand(3, 6, 5), "src_key_padding_mask": padding}
    student, teacher = Encoder(4), Encoder(8)
    proposal = distil(student, teacher, batch)
    assert taps(proposal) == [("body", "body")]
    scope = {"student": student, "teacher": teacher, "batch": batch}
    exec(proposal.code.replace("# in each step: ", ""), scope)
    moved = torch.where(padding[..., None], 9.0, batch["src"])
    out = scope["distiller"](**{**batch, "src": moved}, mask=~padding)
    torch.testing.assert_close(out.terms["rank"], scope["out"].terms["rank"])


def test_what_no_parameter_that_learns_has_touched_is_no_tap(images: Tensor) -> None:
    class Views(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.shuffle, self.body = nn.PixelUnshuffle(4), nn.Conv2d(48, width, 4, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            views = self.shuffle(x)
            return {"views": views, "maps": self.body(views)}

    assert taps(distil(Views(4), Views(6), images)) == [("body", "body")]
    student = pyramid(4)
    student[0].requires_grad_(False)
    assert taps(distil(student, pyramid(6).requires_grad_(False), images)) == [("1", "1")]


def test_a_pooled_vector_is_no_map_of_one_channel(images: Tensor) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.pool, self.head = Patches(256), nn.AvgPool1d(16), nn.Linear(256, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(self.patches(x).transpose(1, 2)).flatten(1))  # 256 channels are 16 x 16 places

    assert [own for own, _ in taps(distil(pyramid(4), Pooled(), images))] == ["1"]


def test_the_batch_of_steps_is_found_by_the_answers() -> None:
    ids = torch.zeros(7, 4, dtype=torch.long)
    assert batch_size(as_inputs(ids), [torch.rand(4, 3)], steps_first=True) == 4
    assert batch_size(as_inputs(ids), [torch.rand(7, 3)], steps_first=True) == 7
    assert batch_size(as_inputs(ids), [torch.rand(4, 3)], steps_first=False) == 7
    assert batch_size(as_inputs([torch.rand(3, 8, 8)] * 2), [], steps_first=False) == 2


def test_networks_whose_maps_are_of_other_batches_are_not_compared_at_maps(images: Tensor) -> None:
    class Views(nn.Module):
        """Each image and its mirror image, as a batch of twice the size."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = pyramid(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            both = torch.cat([x, x.flip(3)])
            return self.head(self.body(both).mean((2, 3))).view(2, len(x), 3).mean(0)

    class Plain(Views):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).mean((2, 3)))

    proposal = distil(Views(), Plain(), images)
    assert not proposal.distiller.taps
    proposal.distiller(images).total.backward()


def test_a_weight_that_is_computed_is_no_feature() -> None:
    def network(width: int) -> nn.Sequential:
        conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(width, 1, 7, padding=3))
        return nn.Sequential(nn.Conv1d(2, width, 4, 4), conv, nn.AdaptiveAvgPool1d(1))

    assert taps(distil(network(4), network(6), torch.rand(1, 2, 32))) == [(Outlet("1", view=as_tokens),) * 2]
