import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import Laplace

from monoskd.models.did_m3d.losses import depth_loss, heading_loss, laplacian_loss
from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.models.heatmap import focal_loss


def test_focal_loss_is_cornernets_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    heat = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    heat.flatten()[[3, 50, 100]] = 1
    total = 0.0
    for logit, target in zip(logits.flatten().tolist(), heat.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        if target == 1:
            total -= (1 - p) ** 2 * math.log(p)
        else:
            total -= (1 - target) ** 4 * p**2 * math.log(1 - p)
    assert focal_loss(logits, heat).item() == pytest.approx(total / 3, rel=1e-12)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_focal_loss_of_a_confident_mistake_is_finite_and_pulls_back(logit: float) -> None:
    logits = torch.full((1, 1, 1, 1), logit, requires_grad=True)
    loss = focal_loss(logits, torch.full((1, 1, 1, 1), float(logit < 0)))
    loss.backward()
    assert loss.item() == pytest.approx(100)
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(math.copysign(1, logit))


def test_laplacian_loss_is_a_negative_log_likelihood() -> None:
    prediction, target, u = (
        torch.tensor([1.0, 5.0, -2.0]),
        torch.tensor([1.5, 2.0, -2.0]),
        torch.tensor([0.0, 1.0, -3.0]),
    )
    spread = torch.exp(u / 2) / math.sqrt(2)  # so that the variance, 2 spread^2, is exp(u)
    likelihood = Laplace(prediction, spread).log_prob(target)
    torch.testing.assert_close(laplacian_loss(prediction, target, u), -likelihood - math.log(2) / 2)


def test_heading_loss_looks_at_the_residual_of_the_true_bin_alone() -> None:
    heading = torch.zeros(2, 24, requires_grad=True)
    bins = torch.tensor([3, 11])
    loss = heading_loss(heading, bins=bins, residuals=torch.tensor([0.1, -0.2]), weight=torch.ones(2))
    assert loss.item() == pytest.approx(math.log(12) + 0.15)
    loss.backward()
    assert heading.grad is not None
    assert heading.grad[:, 12:].nonzero()[:, 1].tolist() == bins.tolist()


def test_points_without_a_visual_depth_supervise_instance_depth_alone(
    random_targets: Callable[[int], DidM3DTargets],
) -> None:
    targets = random_targets(4)
    names = ["visual_depth", "attribute_depth", "depth"]
    heads = {name: torch.full((4, 7, 7), 20.0, requires_grad=True) for name in names}
    heads |= {name.replace("_depth", "") + "_log_variance": torch.zeros(4, 7, 7) for name in names[:2]}
    heads["depth_log_variance"] = torch.zeros(4, 7, 7)
    depth_loss(heads, targets).backward()
    for name in names[:2]:
        assert torch.equal(heads[name].grad != 0, targets.depth_mask)
    assert (heads["depth"].grad != 0).all()
