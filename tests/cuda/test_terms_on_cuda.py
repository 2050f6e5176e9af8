"""Ranks and distillation terms on a GPU against the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monoskd.distill import (
    AffinityLoss,
    AttentionLoss,
    BoxLoss,
    ChannelLoss,
    ClassCorrelationLoss,
    ContrastiveLoss,
    ImitationLoss,
    LogitLoss,
    PearsonLoss,
    RelationalLoss,
    SpearmanLoss,
)
from monoskd.distill.ranks import rank, soft_rank, spearman

pytestmark = pytest.mark.cuda

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def with_gradient(task: Any, x: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The values of a task there and the gradient of their weighted sum, on the CPU."""
    x = x.to(device).detach().requires_grad_()
    values = task(x)
    weights = torch.linspace(1, 2, values.numel(), dtype=values.dtype, device=device).view_as(values)
    (gradient,) = torch.autograd.grad((values * weights).sum(), x)
    return values.detach().cpu(), gradient.cpu()


def check(task: Any, x: Tensor, device: torch.device) -> None:
    """The same values and gradients as on the CPU."""
    tolerance = TOLERANCE[x.dtype]
    expected, got = with_gradient(task, x, torch.device("cpu")), with_gradient(task, x, device)
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance * float(one.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [7, 480, 5_000])
@pytest.mark.parametrize("regularization", ["l2", "kl"])
def test_soft_ranks(device: torch.device, dtype: torch.dtype, n: int, regularization: Any) -> None:
    x = torch.randn(3, n, dtype=dtype, generator=torch.Generator().manual_seed(n))
    for strength in (0.1, 2.0 / n):
        check(lambda x, s=strength: soft_rank(x, s, regularization), x, device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hard_ranks_and_ties(device: torch.device, dtype: torch.dtype) -> None:
    x = torch.randint(0, 50, (4, 1000), generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.testing.assert_close(rank(x.to(device)).cpu(), rank(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [2_000, 30_000])
@pytest.mark.parametrize("strength", ["auto", 0.01])
def test_spearmans_coefficient(device: torch.device, dtype: torch.dtype, n: int, strength: Any) -> None:
    x, y = torch.randn(2, 4, n, dtype=dtype, generator=torch.Generator().manual_seed(1))
    x[1], x[2], y[0] = (100 * x[1]).round(), 0, (3 * y[0]).exp()  # ties, a constant, long tails
    check(lambda x: spearman(x, y.to(x.device), strength), x, device)


def test_spearmans_coefficient_of_rows_with_a_nan(device: torch.device) -> None:
    x, y = torch.randn(2, 3, 5_000, device=device, generator=torch.Generator(device).manual_seed(1))
    x[1, 7], y[2, 9] = torch.nan, torch.nan
    assert spearman(x, y).isnan().tolist() == [False, True, True]


MAPS = [
    SpearmanLoss(),
    SpearmanLoss("pearson"),
    SpearmanLoss("published"),
    SpearmanLoss(center="running"),
    PearsonLoss(),
    PearsonLoss(per_channel=True),
    AffinityLoss(),
    AffinityLoss("published"),
    ImitationLoss(),
    ChannelLoss(),
    AttentionLoss(),
    RelationalLoss(),
    ContrastiveLoss(),
]
ANSWERS = [LogitLoss(2.0), BoxLoss(), ClassCorrelationLoss()]


def named(term: nn.Module) -> str:
    return f"{type(term).__name__}-{getattr(term, 'mode', '')}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("term", [*MAPS, *ANSWERS], ids=named)
def test_terms(device: torch.device, dtype: torch.dtype, term: nn.Module) -> None:
    shape = (6, 12) if term in ANSWERS else (4, 6, 5, 8)
    student, teacher = torch.randn(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    term.eval()

    def loss(x: Tensor) -> Tensor:
        value: Tensor = term.to(x.device)(student=x, teacher=teacher.to(x.device))
        return value

    check(loss, student, device)
