import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.testing import assert_close

from monoskd.distill.losses import AffinityLoss, ImitationLoss, PearsonLoss, SpearmanLoss
from monoskd.distill.maps import MapLoss
from monoskd.distill.ranks import rank, soft_rank
from monoskd.errors import InputError

SHAPE = (4, 3, 5, 6)


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    """A student's map, and a teacher's: related, and half zeros as behind a ReLU."""
    torch.manual_seed(0)
    student = torch.randn(SHAPE, dtype=torch.float64)
    return student, (student + torch.randn_like(student)).relu()


@pytest.fixture
def mask() -> Tensor:
    """A few places of each image, none of the last."""
    torch.manual_seed(1)
    inside = torch.rand(4, 5, 6) < 0.4
    inside[3] = False
    return inside


def groups_of(x: Tensor, group: str) -> list[np.ndarray]:
    axes = {"sample": 1, "channel": 2, "batch": 0}[group]
    return list(x.reshape(-1, int(np.prod(x.shape[axes:]))).numpy())


def every_loss() -> list[MapLoss]:
    return [
        SpearmanLoss(),
        SpearmanLoss("pearson"),
        SpearmanLoss("published"),
        SpearmanLoss(center="running"),
        PearsonLoss(),
        PearsonLoss(per_channel=True),
        AffinityLoss(),
        AffinityLoss("published"),
        ImitationLoss(),
    ]


def name(loss: MapLoss) -> str:
    return f"{type(loss).__name__}-{getattr(loss, 'mode', getattr(loss, 'per_channel', ''))}"


# --- what holds for all


@pytest.mark.parametrize("loss", every_loss(), ids=name)
def test_only_the_student_gets_a_gradient(loss: MapLoss, maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = (x.clone().requires_grad_() for x in maps)
    loss(student=student, teacher=teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("loss", every_loss(), ids=name)
def test_levels_add_up(loss: MapLoss, maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    coarse = [x[:, :, ::2, ::2].contiguous() for x in maps]
    fine_alone, coarse_alone = copy.deepcopy(loss), copy.deepcopy(loss)  # a running mean knows one size a level
    together = loss(student=[student, coarse[0]], teacher=[teacher, coarse[1]])
    apart = fine_alone(student=student, teacher=teacher) + coarse_alone(student=coarse[0], teacher=coarse[1])
    assert_close(together, apart)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", every_loss(), ids=name)
def test_half_types_are_compared_in_float32(loss: MapLoss, dtype: torch.dtype, maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = (x.to(dtype) for x in maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss.eval()(student=student, teacher=teacher)
    assert_close(value, loss(student=student.float(), teacher=teacher.float()))


@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 3, 0, 6), (2, 0, 5, 6)])
@pytest.mark.parametrize("loss", every_loss(), ids=name)
def test_nothing_to_compare_costs_nothing(loss: MapLoss, shape: tuple[int, ...]) -> None:
    student = torch.zeros(shape, requires_grad=True)
    value = copy.deepcopy(loss)(student=student, teacher=torch.zeros(shape))
    value.backward()
    assert value == 0
    assert student.grad is not None


@pytest.mark.parametrize("loss", [SpearmanLoss(), PearsonLoss(), AffinityLoss(), ImitationLoss()], ids=name)
def test_what_stands_outside_a_mask_does_not_count(loss: MapLoss, maps: tuple[Tensor, Tensor], mask: Tensor) -> None:
    want = loss(student=maps[0], teacher=maps[1], mask=mask)
    student = torch.where(mask[:, None], maps[0], torch.nan).requires_grad_()
    got = loss(student=student, teacher=torch.where(mask[:, None], maps[1], torch.inf), mask=mask)
    got.backward()
    assert_close(got, want)
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (1, 1, 5, 6), (4, 3, 5, 6)])
def test_a_mask_that_is_not_one_map_an_image_is_an_error(shape: tuple[int, ...], maps: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=r"PearsonLoss: mask: expected b x h x w or b x 1 x h x w with b = 4, got"):
        PearsonLoss()(student=maps[0], teacher=maps[1], mask=torch.ones(shape))


def test_as_many_masks_as_levels(maps: tuple[Tensor, Tensor], mask: Tensor) -> None:
    with pytest.raises(InputError, match="PearsonLoss: mask: expected one, or one for each of the 1 levels, got 2"):
        PearsonLoss()(student=maps[0], teacher=maps[1], mask=[mask, mask])


@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e38])
def test_cosines_at_any_scale(scale: float, maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = (x.float().clamp(-3, 3) for x in maps)
    near, far = student.clone().requires_grad_(), (student * scale).requires_grad_()
    want, got = (AffinityLoss()(student=x, teacher=teacher) for x in (near, far))
    want.backward()
    got.backward()
    assert_close(got, want)
    assert near.grad is not None
    assert far.grad is not None
    assert_close(far.grad.double() * scale, near.grad.double(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("constant", ["student", "teacher", "both"])
@pytest.mark.parametrize("loss", every_loss(), ids=name)
def test_constant_features_give_finite_values_and_gradients(
    loss: MapLoss, constant: str, maps: tuple[Tensor, Tensor]
) -> None:
    student, teacher = (
        torch.zeros_like(x) if constant in (who, "both") else x
        for who, x in zip(("student", "teacher"), maps, strict=True)
    )
    student = student.clone().requires_grad_()
    value = loss(student=student, teacher=teacher)
    value.backward()
    assert student.grad is not None
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss",
    [
        SpearmanLoss(),
        SpearmanLoss(group="channel"),
        SpearmanLoss("pearson"),
        PearsonLoss(),
        AffinityLoss(),
        ImitationLoss(),
    ],
    ids=name,
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_is_the_mean_of_its_halves(
    loss: MapLoss, masked: bool, maps: tuple[Tensor, Tensor], mask: Tensor
) -> None:
    def of(rows: slice) -> Tensor:
        return loss(student=maps[0][rows], teacher=maps[1][rows], mask=mask[rows] if masked else None)

    assert_close(of(slice(0, 4)), (of(slice(0, 2)) + of(slice(2, 4))) / 2)


@pytest.mark.parametrize(
    "loss",
    [SpearmanLoss("published"), SpearmanLoss(group="batch"), PearsonLoss(per_channel=True), AffinityLoss("published")],
    ids=name,
)
def test_these_depend_on_how_a_batch_is_split(loss: MapLoss, maps: tuple[Tensor, Tensor]) -> None:
    halves = [loss(student=maps[0][rows], teacher=maps[1][rows]) for rows in (slice(0, 2), slice(2, 4))]
    assert (loss(student=maps[0], teacher=maps[1]) - sum(halves) / 2).abs() > 1e-4


@pytest.mark.parametrize(
    "loss", [SpearmanLoss(), PearsonLoss(), PearsonLoss(per_channel=True), AffinityLoss(), ImitationLoss()], ids=name
)
def test_what_lies_outside_the_mask_does_not_count(loss: MapLoss, maps: tuple[Tensor, Tensor], mask: Tensor) -> None:
    student, teacher = maps
    elsewhere = torch.where(mask[:, None], student, 100 * torch.randn_like(student)).requires_grad_()
    value = loss(student=elsewhere, teacher=teacher, mask=mask)
    assert_close(value, loss(student=student, teacher=teacher, mask=mask))
    value.backward()
    assert elsewhere.grad is not None
    assert (elsewhere.grad * ~mask[:, None] == 0).all()
    assert elsewhere.grad.abs().max() > 0


def test_a_mask_reaches_a_coarse_level_by_maximum(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    fine = torch.zeros(4, 10, 12)
    fine[:, 3, 5] = 1
    coarse = torch.zeros(4, 1, 5, 6)
    coarse[:, :, 1, 2] = 1
    expected = (student - teacher)[:, :, 1, 2].square().mean() / 2
    assert_close(ImitationLoss()(student=student, teacher=teacher, mask=fine), expected)
    assert_close(ImitationLoss()(student=[student], teacher=[teacher], mask=[coarse]), expected)


def test_maps_of_different_shapes_are_an_error(maps: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=r"PearsonLoss: level 1: .*got \(4, 3, 5, 6\) and \(4, 2, 5, 6\): adapt"):
        PearsonLoss()(student=list(maps), teacher=[maps[1], maps[1][:, :2]])
    with pytest.raises(InputError, match="as many student as teacher maps, got 2 and 1"):
        PearsonLoss()(student=list(maps), teacher=maps[1])


# --- ranks


@pytest.mark.parametrize("group", ["sample", "channel", "batch"])
def test_spearman_is_scipys_coefficient_with_ties(group: str, maps: tuple[Tensor, Tensor]) -> None:
    student = maps[0].mul(4).round()  # ties on both sides
    pairs = zip(groups_of(student, group), groups_of(maps[1], group), strict=True)
    expected = np.mean([1 - stats.spearmanr(s, t).statistic for s, t in pairs])
    assert SpearmanLoss(group=group)(student=student, teacher=maps[1]).item() == pytest.approx(expected, abs=1e-12)


def test_spearman_ranks_what_the_mask_shows(maps: tuple[Tensor, Tensor], mask: Tensor) -> None:
    student, teacher = maps
    pairs = [(student[i][:, mask[i]].flatten(), teacher[i][:, mask[i]].flatten()) for i in range(3)]
    expected = sum(1 - stats.spearmanr(s, t).statistic for s, t in pairs) / 4  # the empty image counts as 0
    value = SpearmanLoss()(student=student, teacher=teacher, mask=mask)
    assert value.item() == pytest.approx(expected, abs=1e-12)
    s, t = (x.transpose(0, 1)[:, mask].flatten() for x in maps)
    value = SpearmanLoss(group="batch")(student=student, teacher=teacher, mask=mask)
    assert value.item() == pytest.approx(1 - stats.spearmanr(s, t).statistic, abs=1e-12)


@pytest.mark.parametrize("group", ["sample", "channel", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_ranks_cost_nothing_and_pull_nowhere(group: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    teacher = torch.randn(SHAPE, dtype=dtype)
    student = (teacher * 3).exp().requires_grad_()
    value = SpearmanLoss(group=group)(student=student, teacher=teacher)
    value.backward()
    eps = torch.finfo(dtype).eps
    assert student.grad is not None
    assert value.abs() <= 4 * eps
    assert student.grad.abs().max() <= 1e3 * eps
    assert SpearmanLoss(group=group)(student=-student, teacher=teacher).item() == pytest.approx(2, abs=4 * eps)


def test_the_gradient_is_that_of_soft_ranks_at_the_hard_ranks(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = (x[0].flatten() for x in maps)
    at = rank(student).requires_grad_()
    (1 - torch.corrcoef(torch.stack([at, rank(teacher)]))[0, 1]).backward()
    assert at.grad is not None
    expected = at.grad @ jacobian(lambda x: soft_rank(x, strength=0.02), student)
    x = maps[0][:1].clone().requires_grad_()
    SpearmanLoss(strength=0.02)(student=x, teacher=maps[1][:1]).backward()
    assert x.grad is not None
    assert_close(x.grad.flatten(), expected)
    assert 0.1 < (expected != 0).double().mean() < 1  # neither a hard rank nor all pooled


@pytest.mark.parametrize("regularization", ["l2", "kl"])
def test_the_strength_decides_the_gradient_and_not_the_loss(regularization: str, maps: tuple[Tensor, Tensor]) -> None:
    values, gradients = [], []
    for strength in (0.01, 0.1):
        x = maps[0].clone().requires_grad_()
        values.append(SpearmanLoss(strength=strength, regularization=regularization)(student=x, teacher=maps[1]))
        values[-1].backward()
        gradients.append(x.grad)
    assert values[0] == values[1]
    assert not torch.allclose(gradients[0], gradients[1])


def test_following_the_gradient_brings_the_ranks_together() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 4, 6, 6).relu()
    student = torch.randn(2, 4, 6, 6).requires_grad_()
    loss, optimizer = SpearmanLoss(), torch.optim.Adam([student], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(student=student, teacher=teacher).backward()
        optimizer.step()
    reached = stats.spearmanr(student.detach()[0].flatten(), teacher[0].flatten()).statistic
    ties = stats.spearmanr(teacher[0].flatten() + 1e-6 * torch.rand(144), teacher[0].flatten()).statistic
    assert reached > 0.98 * ties  # what breaking the teacher's ties at random allows


def test_degeneracy_tells_ranks_from_pearson(maps: tuple[Tensor, Tensor]) -> None:
    n = maps[0][0].numel()
    assert SpearmanLoss(strength=1e6).degeneracy(student=maps[0]) == 1
    assert SpearmanLoss(strength=1e-9).degeneracy(student=maps[0]).item() == pytest.approx(1 / n)
    assert 1 / n < SpearmanLoss().degeneracy(student=list(maps)).item() < 1
    assert SpearmanLoss("published").degeneracy(student=maps[0]) == 1


# --- values


def test_published_is_pearson_over_the_batch_of_row_centred_teacher(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps[0].flatten(1).numpy(), maps[1].flatten(1).numpy()
    centred = teacher - teacher.mean(1, keepdims=True)
    expected = 1 - stats.pearsonr(student.ravel(), centred.ravel()).statistic
    value = SpearmanLoss("published")(student=maps[0], teacher=maps[1])
    assert value.item() == pytest.approx(expected, abs=1e-12)
    assert (value - SpearmanLoss("pearson", group="batch")(student=maps[0], teacher=maps[1])).abs() > 1e-4


@pytest.mark.parametrize("group", ["sample", "channel", "batch"])
def test_pearson_is_scipys_coefficient(group: str, maps: tuple[Tensor, Tensor]) -> None:
    pairs = zip(groups_of(maps[0], group), groups_of(maps[1], group), strict=True)
    expected = np.mean([1 - stats.pearsonr(s, t).statistic for s, t in pairs])
    value = SpearmanLoss("pearson", group=group)(student=maps[0], teacher=maps[1])
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_pearson_per_channel_is_half_the_squared_difference_of_normalised_channels(
    maps: tuple[Tensor, Tensor],
) -> None:
    s, t = ((x - x.mean((0, 2, 3), keepdim=True)) / x.var((0, 2, 3), correction=0, keepdim=True).sqrt() for x in maps)
    expected = torch.nn.functional.mse_loss(s, t) / 2
    assert_close(PearsonLoss(per_channel=True)(student=maps[0], teacher=maps[1]), expected)


@pytest.mark.parametrize(
    "loss",
    [SpearmanLoss("published"), PearsonLoss(), PearsonLoss(per_channel=True), AffinityLoss(), ImitationLoss()],
    ids=name,
)
def test_gradients_agree_with_finite_differences(loss: MapLoss) -> None:
    torch.manual_seed(2)
    teacher = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    student = torch.randn_like(teacher).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(student=x, teacher=teacher), student)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "kendall"}, "mode: expected one of 'spearman', 'pearson', 'published', got 'kendall'"),
        ({"group": "image"}, "group: expected one of None, 'sample'"),
        ({"center": "batch"}, "center: expected None or 'running', got 'batch'"),
        ({"momentum": 0.9}, "momentum: expected only with center='running'"),
        ({"mode": "published", "group": "sample"}, r"published'\): group: expected none"),
        ({"mode": "published", "center": "running"}, r"published'\): center: expected none"),
        ({"mode": "published", "strength": 1.0}, r"published'\): strength: expected none"),
        ({"mode": "pearson", "regularization": "kl"}, r"pearson'\): regularization: expected none"),
    ],
)
def test_options_that_do_not_apply_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpearmanLoss(**options)


@pytest.mark.parametrize("loss", [SpearmanLoss("published"), AffinityLoss("published")], ids=name)
def test_published_terms_take_no_mask(loss: MapLoss, maps: tuple[Tensor, Tensor], mask: Tensor) -> None:
    with pytest.raises(InputError, match="mask: expected none"):
        loss(student=maps[0], teacher=maps[1], mask=mask)


# --- affinity


def test_affinity_compares_cosines_between_places(maps: tuple[Tensor, Tensor], mask: Tensor) -> None:
    def cosines(x: Tensor) -> Tensor:
        return torch.nn.functional.cosine_similarity(x.flatten(2)[:, :, :, None], x.flatten(2)[:, :, None, :], dim=1)

    difference = (cosines(maps[0]) - cosines(maps[1])).abs()
    assert_close(AffinityLoss()(student=maps[0], teacher=maps[1]), difference.mean())
    inside = mask.flatten(1)
    by_image = [difference[i][inside[i]][:, inside[i]].mean() for i in range(3)]
    assert_close(AffinityLoss()(student=maps[0], teacher=maps[1], mask=mask), sum(by_image) / 4)


def test_affinity_knows_neither_scale_nor_the_basis_of_channels(maps: tuple[Tensor, Tensor]) -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    turned = 7 * torch.einsum("kc,bchw->bkhw", rotation, maps[0])
    assert AffinityLoss()(student=turned, teacher=maps[0]).item() == pytest.approx(0, abs=1e-12)
    assert AffinityLoss("published")(student=turned, teacher=maps[0]) > 1


def test_published_affinity_is_divided_by_the_batch_twice(maps: tuple[Tensor, Tensor]) -> None:
    total = 0.0
    for s, t in zip(*(x.flatten(2).numpy() for x in maps), strict=True):
        total += np.abs(s.T @ s - t.T @ t).mean()
    value = AffinityLoss("published")(student=maps[0], teacher=maps[1])
    assert value.item() == pytest.approx(total / 4 / 4)
    doubled = AffinityLoss("published")(student=maps[0].repeat(2, 1, 1, 1), teacher=maps[1].repeat(2, 1, 1, 1))
    assert_close(doubled, value / 2)


# --- imitation


def test_imitation_is_half_the_squared_difference_inside(maps: tuple[Tensor, Tensor], mask: Tensor) -> None:
    squares = (maps[0] - maps[1]).square() / 2
    assert_close(ImitationLoss()(student=maps[0], teacher=maps[1]), squares.mean())
    by_image = [squares[i][:, mask[i]].mean() for i in range(3)]
    assert_close(ImitationLoss()(student=maps[0], teacher=maps[1], mask=mask), sum(by_image) / 4)


def test_published_imitation_skips_silent_places_and_divides_by_the_batch(
    maps: tuple[Tensor, Tensor], mask: Tensor
) -> None:
    silent = (maps[1] == 0).all(1)
    assert (silent & mask).any()
    squares = (maps[0] - maps[1]).square().mean(1) / 2
    value = ImitationLoss("published")(student=maps[0], teacher=maps[1], mask=mask)
    assert_close(value, squares[mask & ~silent].mean() / 4)
    with pytest.raises(InputError, match="mask: expected the boxes' foreground, got none"):
        ImitationLoss("published")(student=maps[0], teacher=maps[1])


@pytest.mark.parametrize("loss", [SpearmanLoss(), PearsonLoss(), AffinityLoss(), ImitationLoss()])
def test_padded_tokens_do_not_count(loss: MapLoss) -> None:
    """Tokens of a batch are maps b x c x n x 1; an attention mask b x n says which are padding."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 7, 1), torch.randn(2, 3, 7, 1)
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[:, 5:] = 0
    cut = loss(student=student[:, :, :5], teacher=teacher[:, :, :5])
    student[:, :, 5:] = torch.nan
    torch.testing.assert_close(loss(student=student, teacher=teacher, mask=mask), cut)
    with pytest.raises(InputError, match="or for tokens b x n with their number n"):
        loss(student=student, teacher=teacher, mask=mask[:, :6])
