"""Targets of real frames under recorded augmentations against those of the original implementation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from monoskd.models.monodetr.losses import depth_map_loss
from monoskd.structures import Batch, Sample

pytestmark = pytest.mark.kitti

Arrays = dict[str, np.ndarray]
Pairs = dict[str, tuple[Sample, Arrays]]


def rows(recorded: Arrays, name: str) -> np.ndarray:
    """The recorded values of the supervised objects; there is a slot for every line of the label."""
    return recorded[name][recorded["mask_2d"] > 0]


def test_pictures_are_exactly_those_that_the_original_saw(
    samples: Pairs, exact_sample: Callable[[str, str, tuple[Sample, Arrays]], Sample]
) -> None:
    for name, pair in samples.items():
        exact_sample("monodetr", name, pair)


def test_the_same_objects_are_supervised(samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        np.testing.assert_array_equal(sample.targets.label, rows(recorded, "labels"), name)
        np.testing.assert_array_equal(sample.targets.label == 1, rows(recorded, "car_mask_2d") > 0, name)


@pytest.mark.parametrize(
    ("field", "recorded_as", "tolerance"),
    [
        ("box", "boxes_3d", 1e-6),
        ("dimensions", "src_size_3d", 1e-6),
        ("dimensions", "size_3d", 1e-6),
        ("heading_residual", "heading_res", 1e-6),
        ("heading_bin", "heading_bin", 0),
    ],
)
def test_the_numbers_agree(field: str, recorded_as: str, tolerance: float, samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        ours = getattr(sample.targets, field)
        theirs = rows(recorded, recorded_as).reshape(ours.shape)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=name)


def test_2d_boxes_agree(samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        x, y, left, right, top, bottom = sample.targets.box.double().numpy().T
        ours = np.stack([x + (right - left) / 2, y + (bottom - top) / 2, left + right, top + bottom], 1)
        np.testing.assert_allclose(ours, rows(recorded, "boxes"), rtol=0, atol=1e-6, err_msg=name)
        sizes = rows(recorded, "size_2d") / np.array([1280, 384])
        np.testing.assert_allclose(ours[:, 2:], sizes, rtol=0, atol=1e-6, err_msg=name)


def test_depths_through_the_lens_agree(samples: Pairs) -> None:
    """The original's depth target is that of the enlarged picture."""
    for name, (sample, recorded) in samples.items():
        apparent = sample.targets.depth / sample.targets.magnification
        np.testing.assert_allclose(apparent, rows(recorded, "depth")[:, 0], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", ["plain", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_depth_maps_and_their_loss_agree(
    case: str, dtype: torch.dtype, recorded: Callable[[str], Arrays], samples: Pairs, named_weights, seed: int
) -> None:
    arrays = recorded(f"depth_map_{case}")
    names = arrays["frames"].tolist()
    targets = Batch.collate([samples[name][0] for name in names]).targets
    np.testing.assert_array_equal(targets.depth_bin, arrays["target_bin"])
    np.testing.assert_array_equal(targets.foreground, arrays["foreground"])
    logits = named_weights.named_input("depth_map_logits", (len(names), 81, 48, 80), seed)[:, :, :24].to(dtype)
    loss = depth_map_loss(logits.requires_grad_(), targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    suffix, tolerance = ("_f64", 1e-9) if dtype == torch.float64 else ("", 1e-6)
    assert loss.item() == pytest.approx(float(arrays[f"loss_depth_map{suffix}"]), rel=tolerance)
    assert gradient.double().norm().item() == pytest.approx(float(arrays[f"grad_logits{suffix}"]), rel=tolerance)
