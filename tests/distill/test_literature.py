"""Losses from the literature against a second implementation, written from the papers' formulas with loops."""

import math

import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor

from monoskd.distill import (
    AttentionLoss,
    ChannelLoss,
    ClassCorrelationLoss,
    ContrastiveLoss,
    Distiller,
    GenerativeLoss,
    RelationalLoss,
    Tap,
    Term,
)
from monoskd.errors import InputError

LOSSES = [AttentionLoss(), ChannelLoss(), ClassCorrelationLoss(), ContrastiveLoss(), RelationalLoss()]


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(4, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))


def cwd(s: Tensor, t: Tensor, temperature: float) -> float:
    """Equations 3 and 4 of Shu et al."""
    total = 0.0
    for image in range(len(s)):
        for channel in range(s.shape[1]):
            ps, pt = ([math.exp(v / temperature) for v in x[image, channel].flatten().tolist()] for x in (s, t))
            ps, pt = [v / sum(ps) for v in ps], [v / sum(pt) for v in pt]
            total += sum(b * math.log(b / a) for a, b in zip(ps, pt, strict=True))
    return temperature**2 / s.shape[1] * total / len(s)


def attention(s: Tensor, t: Tensor, p: float) -> float:
    """Equation 2 of Zagoruyko & Komodakis, without the task loss and beta."""
    total = 0.0
    for image in range(len(s)):
        qs, qt = (x[image].abs().pow(p).sum(0).flatten() for x in (s, t))
        total += torch.dist(qs / qs.norm(), qt / qt.norm()).item() / 2
    return total / len(s)


def huber(x: float, y: float) -> float:
    return 0.5 * (x - y) ** 2 if abs(x - y) <= 1 else abs(x - y) - 0.5


def rkd(s: Tensor, t: Tensor, *, distance: float, angle: float) -> float:
    """Equations 5 to 10 of Park et al., with means in place of sums."""
    n = len(s)
    s, t = s.flatten(1), t.flatten(1)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    triples = [(i, j, k) for i, j in pairs for k in range(n) if k not in (i, j)]

    def psi_d(x: Tensor) -> list[float]:
        lengths = [(x[i] - x[j]).norm().item() for i, j in pairs]
        return [length * len(lengths) / sum(lengths) for length in lengths]

    def psi_a(x: Tensor) -> list[float]:
        return [torch.cosine_similarity(x[i] - x[j], x[k] - x[j], dim=0).item() for i, j, k in triples]

    parts = [(psi_d(t), psi_d(s), distance), (psi_a(t), psi_a(s), angle)]
    return sum(weight * sum(map(huber, a, b)) / len(a) for a, b, weight in parts)


def dist(s: Tensor, t: Tensor, temperature: float) -> float:
    """Equations 5 to 8 of Huang et al."""
    ys, yt = ((x / temperature).softmax(1) for x in (s, t))
    inter = sum(1 - pearsonr(ys[i], yt[i]).statistic for i in range(len(ys))) / len(ys)
    intra = sum(1 - pearsonr(ys[:, k], yt[:, k]).statistic for k in range(ys.shape[1])) / ys.shape[1]
    return temperature**2 * (inter + intra)


def crd(s: Tensor, t: Tensor, *, temperature: float, images: int) -> float:
    """Equations 18 and 19 of Tian et al., each positive with the N other images of the batch as negatives."""
    s, t = (x.flatten(1) for x in (s, t))
    n, total = len(s), 0.0
    for i in range(n):
        for j in range(n):
            e = math.exp(torch.cosine_similarity(s[i], t[j], dim=0).item() / temperature)
            h = e / (e + (n - 1) / images)
            total += math.log(h if i == j else 1 - h)
    return -total / n


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_loss_is_cwd(temperature: float, pair) -> None:
    s, t = pair
    assert ChannelLoss(temperature)(student=s, teacher=t).item() == pytest.approx(cwd(s, t, temperature))


def test_a_mask_leaves_places_out_of_cwd(pair) -> None:
    s, t = pair
    mask = torch.zeros(4, 4, 5)
    mask[:, :2] = 1
    poisoned = torch.where(mask[:, None] > 0, s, math.nan)
    loss = ChannelLoss()(student=poisoned.requires_grad_(), teacher=t, mask=mask)
    assert loss.item() == pytest.approx(cwd(s[:, :, :2], t[:, :, :2], 4.0))
    mask[1:] = 0
    poisoned = torch.where(mask[:, None] > 0, s, math.nan).requires_grad_()
    loss = ChannelLoss()(student=poisoned, teacher=t, mask=mask)
    loss.backward()
    assert poisoned.grad.isfinite().all(), "an image outside the mask altogether"
    assert loss.item() == pytest.approx(cwd(s[:1, :, :2], t[:1, :, :2], 4) / 4)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_loss_is_at(power: float, pair) -> None:
    s, t = pair
    assert AttentionLoss(power)(student=s, teacher=t[:, :2]).item() == pytest.approx(attention(s, t[:, :2], power))


@pytest.mark.parametrize(("distance", "angle"), [(1.0, 0.0), (0.0, 1.0), (1.0, 2.0)])
def test_relational_loss_is_rkd(distance: float, angle: float, pair) -> None:
    s, t = pair
    loss = RelationalLoss(distance=distance, angle=angle)(student=s, teacher=t[:, :2])
    assert loss.item() == pytest.approx(rkd(s, t[:, :2], distance=distance, angle=angle))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_rkd_has_no_scale(scale: float, pair) -> None:
    s, t = (x.float() for x in pair)
    torch.testing.assert_close(
        RelationalLoss()(student=s * scale, teacher=t * scale), RelationalLoss()(student=s, teacher=t)
    )


def test_the_huber_part_of_rkd_is_reached() -> None:
    s, t = torch.tensor([[0.0], [0.1], [10.0], [10.1]]), torch.tensor([[0.0], [9.0], [0.2], [9.1]])
    assert RelationalLoss()(student=s, teacher=t).item() == pytest.approx(rkd(s, t, distance=1, angle=2), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_class_correlation_loss_is_dist(temperature: float, pair) -> None:
    s, t = (x.flatten(2)[..., 0] for x in pair)
    loss = ClassCorrelationLoss(temperature=temperature)
    assert loss(student=s, teacher=t).item() == pytest.approx(dist(s, t, temperature))
    rows = [x.movedim(1, -1).reshape(-1, 3) for x in pair]
    assert loss(student=pair[0], teacher=pair[1]).item() == pytest.approx(dist(*rows, temperature))


@pytest.mark.parametrize("images", [None, 1000])
def test_contrastive_loss_is_crd_with_the_batch_for_negatives(images: int | None, pair) -> None:
    s, t = pair
    loss = ContrastiveLoss(temperature=0.5, images=images)(student=s, teacher=t)
    assert loss.item() == pytest.approx(crd(s, t, temperature=0.5, images=images or 4))


class TestGenerativeLoss:
    def by_hand(self, loss: GenerativeLoss, s: Tensor, t: Tensor, mask: Tensor) -> float:
        """Equations 3 to 5 of Yang et al."""
        generated = loss.generator(s * mask)
        return sum((t[i] - generated[i]).square().sum().item() for i in range(len(s))) / len(s)

    def test_it_is_mgd(self, pair) -> None:
        s, t = (x.float() for x in pair)
        loss = GenerativeLoss(hidden=0.4)
        torch.manual_seed(3)
        loss(student=s, teacher=t)  # takes its shapes
        torch.manual_seed(3)
        value = loss(student=s, teacher=t).item()
        torch.manual_seed(3)
        seen = (torch.rand(4, 1, 4, 5) >= 0.4).float()
        assert value == pytest.approx(self.by_hand(loss, s, t, seen), rel=1e-5)
        loss.eval()
        assert loss(student=s, teacher=t).item() == pytest.approx(self.by_hand(loss, s, t, torch.ones(1)), rel=1e-5)

    def test_the_part_that_is_hidden(self) -> None:
        loss, x = GenerativeLoss(hidden=0.3), torch.ones(8, 1, 40, 40)
        kept = []
        loss.generator[0].register_forward_pre_hook(lambda module, args: kept.append(args[0].mean().item()))
        loss(student=x, teacher=x)
        assert kept == [pytest.approx(0.7, abs=0.02)]

    def test_its_generator_learns_in_a_distiller(self) -> None:
        distil = Distiller(
            torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 6, 3), taps=[Tap("")], terms={"mgd": Term(GenerativeLoss())}
        )
        x = torch.randn(2, 3, 8, 8)
        optimizer = torch.optim.SGD(distil.parameters(), lr=1e-4)
        distil.materialize(x)
        weight = distil.losses["mgd"].generator[0].weight
        assert weight.shape == (6, 6, 3, 3)
        before = weight.detach().clone()
        distil(x).total.backward()
        optimizer.step()
        assert not torch.equal(weight, before)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
class TestAll:
    def test_the_gradient_is_that_of_the_value(self, loss, pair) -> None:
        s, t = pair
        assert torch.autograd.gradcheck(lambda x: loss(student=x, teacher=t), s.requires_grad_())

    def test_the_teacher_gets_none(self, loss, pair) -> None:
        s, t = (x.requires_grad_() for x in pair)
        loss(student=s, teacher=t).backward()
        assert t.grad is None
        assert s.grad.isfinite().all()

    def test_agreement_is_the_least_and_has_a_finite_gradient(self, loss, pair) -> None:
        s, t = pair[0], torch.eye(4, dtype=torch.float64)[:, :3, None, None] * torch.ones(4, 3, 4, 5) + pair[1] / 10
        same = t.clone().requires_grad_()
        least = loss(student=same, teacher=t)
        assert least < loss(student=s, teacher=t)
        least.backward()
        assert same.grad.isfinite().all()
        if not isinstance(loss, ContrastiveLoss):
            assert least.item() == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("batch", [0, 1, 2])
    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_few_images_and_constants_are_finite(self, loss, batch: int, value: float) -> None:
        s = torch.full((batch, 3, 4, 5), value, requires_grad=True)
        result = loss(student=s, teacher=torch.full((batch, 3, 4, 5), 2.0))
        result.backward()
        assert result.isfinite()
        assert s.grad.isfinite().all()

    def test_features_that_are_all_zero_get_a_gradient_of_usual_size(self, loss, pair) -> None:
        s, t = pair
        s = (s * torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1, 1)).requires_grad_()
        loss(student=s, teacher=t).backward()
        assert s.grad.abs().max() < 10

    def test_the_layout_in_memory_changes_nothing(self, loss, pair) -> None:
        values, gradients = [], []
        for layout in (torch.contiguous_format, torch.channels_last):
            s, t = (x.detach().clone(memory_format=layout).requires_grad_() for x in pair)
            values.append(loss(student=s, teacher=t))
            gradients.append(*torch.autograd.grad(values[-1], s))
        torch.testing.assert_close(*values)
        torch.testing.assert_close(*gradients)

    def test_half_precision_is_compared_in_float32(self, loss, pair) -> None:
        s, t = (x.half() for x in pair)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(student=s * 100, teacher=t * 100)
        assert value.dtype == torch.float32
        assert value.isfinite()

    @pytest.mark.parametrize("side", ["student", "teacher"])
    def test_a_nan_is_not_hidden(self, loss, side: str, pair) -> None:
        maps = dict(zip(("student", "teacher"), (x.clone() for x in pair), strict=True))
        maps[side][0, 0, 0, 0] = math.nan
        assert loss(**maps).isnan()

    def test_a_teacher_of_another_type(self, loss, pair) -> None:
        s, t = pair
        torch.testing.assert_close(loss(student=s, teacher=t.float()), loss(student=s, teacher=t), rtol=1e-5, atol=0)

    def test_it_works_between_taps(self, loss) -> None:
        x = torch.randn(3, 3, 8, 8)
        distil = Distiller(
            torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 6, 3), taps=[Tap("")], terms={"term": Term(loss)}
        )
        distil(x).total.backward()
        assert distil.student.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChannelLoss(0), "ChannelLoss: temperature: expected more than 0, got 0"),
        (lambda: AttentionLoss(0.5), "AttentionLoss: power: expected at least 1"),
        (lambda: GenerativeLoss(1.0), r"hidden: expected a part in \[0, 1\)"),
        (lambda: RelationalLoss(distance=0, angle=0), "expected weights of at least 0, not both 0"),
        (lambda: ClassCorrelationLoss(temperature=-1), "temperature: expected more than 0"),
        (lambda: ContrastiveLoss(images=0), "at least 1 image"),
        (lambda: ContrastiveLoss()(student=torch.zeros(2, 3), teacher=torch.zeros(2, 4)), "vectors of one length"),
        (lambda: RelationalLoss()(student=torch.zeros(2, 3), teacher=torch.zeros(3, 3)), "of one n"),
        (
            lambda: RelationalLoss()(student=[torch.zeros(2, 3)], teacher=[torch.zeros(2, 3)]),
            "expected one tensor",
        ),
        pytest.param(
            lambda: ClassCorrelationLoss()(student=torch.zeros(2, 3), teacher=torch.zeros(2, 4)),
            "of one shape n x k",
            marks=pytest.mark.wrong_shapes,
        ),
    ],
)
def test_bad_input_is_an_error(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
