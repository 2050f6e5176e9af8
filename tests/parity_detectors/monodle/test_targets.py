"""Targets of real frames under recorded augmentations against those of the original implementation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from monoskd.structures import Sample

pytestmark = pytest.mark.kitti

Arrays = dict[str, np.ndarray]
Pairs = dict[str, tuple[Sample, Arrays]]


def rows(recorded: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The recorded values of the supervised objects; there is a slot for every line of the label."""
    return recorded[name][recorded["mask_2d"] > 0]


def test_pictures_are_exactly_those_that_the_original_saw(
    samples: Pairs, exact_sample: Callable[[str, str, tuple[Sample, Arrays]], Sample]
) -> None:
    for name, pair in samples.items():
        exact_sample("monodle", name, pair)


def test_the_same_objects_are_supervised_at_the_same_cells(samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        targets = sample.targets
        ours = targets.cell[:, 1] * targets.heatmap.shape[-1] + targets.cell[:, 0]
        np.testing.assert_array_equal(ours, rows(recorded, "indices"), name)


def test_the_3d_losses_leave_out_cropped_pictures(samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        np.testing.assert_array_equal(sample.targets.has_3d, rows(recorded, "mask_3d") > 0, name)


def test_cars_alone_are_the_recorded_slots_of_cars(samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        np.testing.assert_array_equal(sample.targets.label == 1, rows(recorded, "car_mask_2d") > 0, name)


@pytest.mark.parametrize(
    ("field", "recorded_as", "tolerance"),
    [
        ("offset_2d", "offset_2d", 1e-4),
        ("size_2d", "size_2d", 1e-4),
        ("offset_3d", "offset_3d", 1e-4),
        ("dimensions", "size_3d", 1e-6),
        ("dimensions", "src_size_3d", 1e-6),
        ("heading_residual", "heading_res", 1e-6),
        ("heading_bin", "heading_bin", 0),
    ],
)
def test_the_numbers_agree(field: str, recorded_as: str, tolerance: float, samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        ours = getattr(sample.targets, field)
        theirs = rows(recorded, recorded_as).reshape(ours.shape)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=name)


def test_depths_agree_but_for_the_scale_of_crops_that_are_not_supervised(samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        theirs = rows(recorded, "depth")[:, 0] / float(recorded["aug_scale"])
        np.testing.assert_allclose(sample.targets.depth, theirs, rtol=1e-6, atol=1e-5, err_msg=name)


def test_sizes_are_absolute(samples: Pairs) -> None:
    assert all(not sample.targets.mean_size.any() for sample, _ in samples.values())


def test_heat_maps_agree(samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        np.testing.assert_allclose(sample.targets.heatmap[0], recorded["heatmap"], rtol=0, atol=1e-6, err_msg=name)


def test_letterboxes_agree(samples: Pairs) -> None:
    for name, (sample, recorded) in samples.items():
        matrix = recorded["trans_f64"]
        np.testing.assert_allclose(matrix[[0, 1], [0, 1]], sample.letterbox.scale, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(matrix[:, 2], sample.letterbox.shift, rtol=1e-6, atol=1e-4, err_msg=name)


def test_network_inputs_agree_to_a_grey_level(samples: Pairs) -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for name, (sample, recorded) in samples.items():
        ours = (sample.image / 255 - mean[:, None, None]) / std[:, None, None]
        error = np.abs(ours[:, ::8, ::8].numpy() - recorded["input_rgb"])
        assert error.max() < 1.01 / 255 / std.min(), name
        assert (error > 1e-5).mean() < 1e-3, name
