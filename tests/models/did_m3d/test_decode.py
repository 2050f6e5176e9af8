import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monoskd.models.did_m3d.decode import merge_depth
from monoskd.models.heads import heading_angle


def test_merged_depth_weighs_by_trust() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = 20 + torch.randn(3, 7, 7, generator=generator, dtype=torch.float64)
    log_variance = torch.randn(3, 7, 7, generator=generator, dtype=torch.float64)
    merged, confidence = merge_depth(depth, log_variance)
    p = torch.exp(-torch.exp(log_variance / 2))
    torch.testing.assert_close(merged, (p * depth).sum((1, 2)) / p.sum((1, 2)))
    torch.testing.assert_close(confidence, (p * p).sum((1, 2)) / p.sum((1, 2)))


@pytest.mark.parametrize("log_variance", [-60.0, 30.0, 80.0])
def test_depth_without_any_trust_is_the_mean_and_not_nan(log_variance: float) -> None:
    depth = torch.arange(49.0).reshape(1, 7, 7)
    merged, confidence = merge_depth(depth, torch.full((1, 7, 7), log_variance))
    assert merged.item() == pytest.approx(24)
    assert 0 <= confidence.item() <= 1


@given(st.integers(0, 2**32 - 1))
def test_the_likeliest_bin_gives_the_angle(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heading = torch.randn(1, 24, generator=generator, dtype=torch.float64) / 10
    index = int(heading[0, :12].argmax())
    expected = index * math.pi / 6 + heading[0, 12 + index].item()
    angle = heading_angle(heading).item()
    assert math.cos(angle - expected) == pytest.approx(1)
    assert -math.pi <= angle < math.pi
