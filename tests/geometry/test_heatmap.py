import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from monoskd.geometry.heatmap import gaussian_radius

sides = st.floats(0.1, 500)


@given(sides, sides)
def test_it_is_the_least_of_the_three_roots_that_centernet_takes(width: float, height: float) -> None:
    total, area, overlap = width + height, width * height, 0.7
    quadratics = [
        (1, total, area * (1 - overlap) / (1 + overlap), -1),
        (4, 2 * total, (1 - overlap) * area, -1),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area, -1),
    ]
    roots = [(b + np.sqrt(b**2 + sign * 4 * a * c)) / 2 for a, b, c, sign in quadratics]
    np.testing.assert_allclose(gaussian_radius(np.float64(width), np.float64(height)), min(roots), rtol=1e-6)


def test_numpy_and_torch_agree() -> None:
    width, height = np.array([3.0, 40.0, 0.0]), np.array([9.0, 12.0, 0.0])
    expected = gaussian_radius(width, height)
    np.testing.assert_allclose(gaussian_radius(torch.from_numpy(width), torch.from_numpy(height)).numpy(), expected)
