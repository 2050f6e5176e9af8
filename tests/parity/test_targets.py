"""DidM3DTargets of real frames under recorded augmentations against those of the original implementation."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from monoskd.data.samples import Samples
from monoskd.data.transforms import Draw
from monoskd.kitti.io import write_split
from monoskd.kitti.source import KittiFrames
from monoskd.models.did_m3d.targets import make_targets
from monoskd.objects import KITTI_MEAN_SIZES
from monoskd.structures import PublishedData, Sample

# A target is a difference of two float32 positions in the original, so its error scales with the position: the widest
# map has 320 cells. Depths reach 80 m.
CELLS = {"rtol": 1e-5, "atol": 1e-5 * 10}
METRES = {"rtol": 1e-5, "atol": 1e-5}

Pairs = list[tuple[str, Sample, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def pairs(golden: Path, kitti: Path, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """(name, our sample, the recorded one) of every recording, on the depth maps they were made with."""
    return list(_pairs(golden, kitti, tmp_path_factory.mktemp("kitti")))


def _pairs(golden: Path, kitti: Path, root: Path) -> Iterator[tuple[str, Sample, dict[str, np.ndarray]]]:
    paths = sorted((golden / "targets").glob("targets_*.npz"))
    if not paths:
        pytest.skip(f"no recorded targets in {golden / 'targets'}")
    (root / "training").mkdir()
    for kind in ("image_2", "calib", "label_2"):
        (root / "training" / kind).symlink_to(kitti / "training" / kind)
    (root / "training" / "depth_2").symlink_to(golden / "depth_input")
    write_split(root / "ImageSets" / "train.txt", sorted({path.stem.split("_")[1] for path in paths}))
    targets = partial(
        make_targets,
        classes=tuple(KITTI_MEAN_SIZES),
        mean_sizes=KITTI_MEAN_SIZES,
        published=PublishedData.all(),
    )
    dataset = Samples(
        KittiFrames(root, "train"), input_size=(1280, 384), targets=targets, published=PublishedData.all(), cache=True
    )
    for path in paths:
        with np.load(path) as recorded:
            arrays = {name: recorded[name] for name in recorded.files}
        draw = Draw(
            flip=bool(arrays["aug_flip"]), scale=float(arrays["aug_scale"]), shift=tuple(arrays["aug_shift"].tolist())
        )
        yield path.stem, dataset.sample(path.stem.split("_")[1], draw), arrays


def rows(recorded: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The recorded values of the supervised objects; there is a slot for every line of the label."""
    return recorded[name][recorded["mask_2d"] > 0]


def test_the_same_objects_are_supervised_at_the_same_cells(pairs: Pairs) -> None:
    for name, sample, recorded in pairs:
        targets = sample.targets
        columns = targets.heatmap.shape[-1]
        np.testing.assert_array_equal(
            targets.cell[:, 1] * columns + targets.cell[:, 0], rows(recorded, "indices"), name
        )
        np.testing.assert_array_equal(targets.label, rows(recorded, "cls_ids"), name)
        assert int(targets.unsupervised) == int(recorded["obj_num"]) - len(targets.label), name


def test_heat_maps_agree(pairs: Pairs) -> None:
    for name, sample, recorded in pairs:
        np.testing.assert_allclose(sample.targets.heatmap[0], recorded["heatmap"], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("field", ["offset_2d", "size_2d", "offset_3d"])
def test_positions_in_cells_agree(pairs: Pairs, field: str) -> None:
    for name, sample, recorded in pairs:
        np.testing.assert_allclose(getattr(sample.targets, field), rows(recorded, field), **CELLS, err_msg=name)


def test_2d_boxes_agree(pairs: Pairs) -> None:
    for name, sample, recorded in pairs:
        np.testing.assert_allclose(sample.targets.box_2d * 4, rows(recorded, "box2d_gt"), **CELLS, err_msg=name)


@pytest.mark.parametrize(
    ("field", "recorded_as"), [("size_3d", "size_3d"), ("heading_residual", "heading_res"), ("depth", "depth")]
)
def test_sizes_angles_and_depths_agree(pairs: Pairs, field: str, recorded_as: str) -> None:
    for name, sample, recorded in pairs:
        ours = getattr(sample.targets, field)
        np.testing.assert_allclose(ours, rows(recorded, recorded_as).reshape(ours.shape), **METRES, err_msg=name)


def test_heading_bins_agree(pairs: Pairs) -> None:
    for name, sample, recorded in pairs:
        np.testing.assert_array_equal(sample.targets.heading_bin, rows(recorded, "heading_bin")[:, 0], name)


def test_visual_and_attribute_depths_agree_where_they_exist(pairs: Pairs) -> None:
    for name, sample, recorded in pairs:
        mask = rows(recorded, "depth_mask")
        np.testing.assert_array_equal(sample.targets.depth_mask, mask, name)
        visual, attribute = sample.targets.visual_depth.numpy()[mask], sample.targets.attribute_depth.numpy()[mask]
        expected = rows(recorded, "vis_depth")[mask]
        np.testing.assert_allclose(visual, expected, **METRES, err_msg=name)
        # The attribute depth is a small difference of such depths: it has their error, not its own.
        error = np.abs(attribute - rows(recorded, "att_depth")[mask])
        assert (error <= METRES["atol"] + METRES["rtol"] * expected).all(), name


def test_cameras_and_regions_agree(pairs: Pairs) -> None:
    for name, sample, recorded in pairs:
        # The original reads its last row nowhere, and spoils it when it flips.
        np.testing.assert_allclose(sample.camera.P[:2], recorded["P2"][:2], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(sample.letterbox.region, recorded["coord_range"], rtol=1e-6, atol=1e-4, err_msg=name)


def test_resampled_pictures_agree_to_a_grey_level(pairs: Pairs) -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    compared = 0
    for name, sample, recorded in pairs:
        if "input_rgb" in recorded:
            ours = (sample.image / 255 - mean[:, None, None]) / std[:, None, None]
            error = np.abs(ours[:, ::8, ::8].numpy() - recorded["input_rgb"])
            assert error.max() < 1.01 / 255 / std.min(), name
            assert (error > 1e-5).mean() < 1e-3, name
            compared += 1
    if not compared:
        pytest.skip("these recordings hold no input_rgb")


def test_resampled_depth_maps_agree(pairs: Pairs) -> None:
    compared = 0
    for name, sample, recorded in pairs:
        if "input_depth" in recorded:
            ours = sample.depth[0, ::8, ::8] / 80
            np.testing.assert_allclose(ours, recorded["input_depth"], rtol=1e-4, atol=1e-7, err_msg=name)
            compared += 1
    if not compared:
        pytest.skip("these recordings hold no input_depth")
