"""A small detector and a frame for it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from monoskd.geometry.camera import Camera, Letterbox
from monoskd.geometry.heading import wrap
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.objects import Objects

SIZE = (160, 96)  # network pixels
SMALL_DLA = {"channels": [4, 4, 8, 16, 32, 64]}


@pytest.fixture(scope="session")
def small_config() -> DidM3DConfig:
    return DidM3DConfig(
        backbone_arguments=SMALL_DLA,
        backbone_early_stride=True,
        pretrained=False,
        head_width=16,
        input_size=SIZE,
        top_k=10,
        reference_focal_px=700.0,
    )


@pytest.fixture
def detector(small_config: DidM3DConfig) -> DidM3D:
    torch.manual_seed(0)
    return DidM3D(small_config)


@pytest.fixture(scope="session")
def cameras() -> Camera:
    """KITTI's camera for two images of 640 x 384."""
    P = torch.tensor([[700.0, 0, 320, 45], [0, 700, 190, 0.2], [0, 0, 1, 0.003]])
    return Camera(P.expand(2, 3, 4))


@pytest.fixture(scope="session")
def letterbox() -> Letterbox:
    """640 x 384 pixels brought to 160 x 96."""
    return Letterbox(torch.full((2,), 0.25), torch.zeros(2, 2), SIZE)


@pytest.fixture(scope="session")
def assert_same_boxes() -> Callable[..., None]:
    """`assert_same_boxes(detected, truth, atol_m=...)`: each detection is a labelled box, each another one."""

    def check(detected: Objects, truth: Objects, *, atol_m: float) -> None:
        nearest = np.abs(truth.bottom - detected.bottom[:, None]).sum(2).argmin(1)
        assert len(set(nearest.tolist())) == len(detected)
        same = truth[nearest]
        np.testing.assert_allclose(detected.bottom, same.bottom, atol=atol_m)
        np.testing.assert_allclose(detected.boxes_2d, same.boxes_2d, atol=2e-2)
        np.testing.assert_allclose(detected.dimensions, same.dimensions, atol=1e-4)
        assert (np.abs(wrap(detected.yaw - same.yaw)) < 1e-4).all()

    return check


@pytest.fixture(scope="session")
def random_targets() -> Callable[[int], DidM3DTargets]:
    """`random_targets(n)`: targets of n objects in two images on the map of the small detector."""
    return _random_targets


def _random_targets(count: int, *, images: int = 2, seed: int = 0) -> DidM3DTargets:
    generator = torch.Generator().manual_seed(seed)
    columns, rows = SIZE[0] // 4, SIZE[1] // 4

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    def integer(high: int) -> torch.Tensor:
        return torch.randint(high, (count,), generator=generator)

    image, label, cell = integer(images), integer(3), torch.stack([integer(columns), integer(rows)], 1)
    heatmap = 0.9 * torch.rand(images, 3, rows, columns, generator=generator)
    heatmap[image, label, cell[:, 1], cell[:, 0]] = 1
    visual = 20 + normal(7, 7)
    return DidM3DTargets(
        heatmap=heatmap,
        image=image,
        cell=cell,
        label=label,
        box_2d=torch.cat([cell - 3.0, cell + 3.0], 1),
        offset_2d=normal(2),
        size_2d=normal(2).abs() + 4,
        offset_3d=normal(2),
        size_3d=normal(3) / 10,
        heading_bin=integer(12),
        heading_residual=normal() / 10,
        depth=20 + normal(),
        visual_depth=visual,
        attribute_depth=normal(7, 7),
        depth_mask=visual > 20,
        unsupervised=torch.zeros(images, dtype=torch.int64),
        weight=torch.ones(count),
        labelled=torch.ones(images, dtype=torch.bool),
    )
