"""What heads have in common."""

import numpy as np
import pytest
import torch

from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BIN_WIDTH, BINS, wrap
from monoskd.models.heads import PreciseMap, angles
from monoskd.models.heatmap import peaks


@pytest.mark.parametrize("published", [False, True])
def test_a_results_alpha_is_that_of_the_3d_box_unless_published(published: bool) -> None:
    """A car at the left edge: its 2D box is cut, so its middle is 150 px right of where the 3D centre is seen."""
    camera = Camera(torch.tensor([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])[None])
    u, centre_u, said = torch.tensor([150.0]), torch.tensor([0.0]), 1.0
    heading = torch.zeros(1, 2 * BINS)
    heading[0, 2], heading[0, BINS + 2] = 10.0, said - 2 * BIN_WIDTH
    alpha, yaw = angles(heading, camera=camera, u=u, centre_u=centre_u, published=published)
    assert yaw.item() == pytest.approx(wrap(said + np.arctan2(150 - 600, 700)))
    x, _, z = camera.back_project(torch.tensor([[0.0, 180.0]]), torch.tensor([10.0]))[0]
    assert alpha.item() == pytest.approx(said if published else float(wrap(yaw - torch.atan2(x, z))), abs=1e-6)


def test_a_peak_is_one_peak_in_half_precision() -> None:
    """Cells around a peak are close to it: rounded as bfloat16 they were equal, and each was a detection."""
    v, u = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    logits = PreciseMap(1, 1, 1).requires_grad_(False)
    logits.weight.fill_(0.999)
    logits.bias.fill_(3.0)
    features = -((u - 4) ** 2 + (v - 4) ** 2)[None, None] / 1024
    found = {}
    for training in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            heat = logits.train(training)(features).float().sigmoid()
        found[training] = peaks(heat, count=9).heat.count_nonzero().item()
    assert found[False] == 1
    assert found[True] > 1  # what training saves, prediction must not
