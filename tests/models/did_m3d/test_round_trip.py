"""An encoder and its decoder: objects -> targets -> a network that says just that -> the objects again."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from monoskd.data.samples import make_sample
from monoskd.data.transforms import Draw
from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BINS, wrap
from monoskd.kitti.io import read_calibration, read_image, read_objects
from monoskd.models.did_m3d.decode import decode_regions
from monoskd.models.did_m3d.heads import boxes_at
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.models.did_m3d.targets import make_targets
from monoskd.models.heatmap import at_cells, peaks
from monoskd.objects import KITTI_MEAN_SIZES, Objects, is_supervised
from monoskd.structures import Batch, Detections, Frame, PublishedData, TargetMaker

CAMERA = Camera(
    np.array([[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]])
)
INPUT_SIZE = (640, 192)
MEAN_SIZES = torch.tensor(list(KITTI_MEAN_SIZES.values()))
draws = st.builds(
    Draw, flip=st.booleans(), scale=st.floats(0.7, 1.4), shift=st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05))
)


def perfect_output(targets: DidM3DTargets) -> DidM3DOutput:
    """What a network without error says, sure of itself."""
    batch, _, rows, columns = targets.heatmap.shape
    dense = {name: torch.zeros(batch, 2, rows, columns) for name in ("offset_2d", "size_2d")}
    for name, values in dense.items():
        values[targets.image, :, targets.cell[:, 1], targets.cell[:, 0]] = getattr(targets, name)
    bins = one_hot(targets.heading_bin, BINS).float()
    heads = {
        "heatmap": torch.logit(targets.heatmap.clamp(1e-4, 1 - 1e-4)),
        **dense,
        "offset_3d": targets.offset_3d,
        "size_3d": targets.size_3d,
        "heading": torch.cat([20 * bins, bins * targets.heading_residual[:, None]], 1),
        "depth": targets.depth[:, None, None].expand(-1, 7, 7),
        "depth_log_variance": torch.full((len(targets.label), 7, 7), -6.0),
    }
    rois = targets.rois
    boxes = boxes_at(at_cells(dense["offset_2d"], rois), at_cells(dense["size_2d"], rois), rois)
    return DidM3DOutput({}, heads, rois, boxes, torch.ones(len(targets.label)))


def targets_maker(published: PublishedData | None = None) -> TargetMaker:
    """Of a detector of KITTI's three classes."""
    return partial(
        make_targets,
        classes=tuple(KITTI_MEAN_SIZES),
        mean_sizes=KITTI_MEAN_SIZES,
        published=published or PublishedData(),
    )


def there_and_back(frame: Frame, draw: Draw, published: PublishedData) -> tuple[Objects, Detections]:
    """The supervised objects as the sample has them, and what comes back."""
    sample = make_sample(
        "", frame, draw=draw, input_size=INPUT_SIZE, targets=targets_maker(published), published=published
    )
    assert sample.objects is not None
    batch = Batch.collate([sample])
    assert batch.targets is not None
    regions = decode_regions(
        perfect_output(batch.targets),
        batch.views("rgb"),
        classes=tuple(KITTI_MEAN_SIZES),
        mean_sizes=MEAN_SIZES,
        published=False,
    )
    asked = sample.objects[is_supervised(sample.objects, tuple(KITTI_MEAN_SIZES))]
    centres = sample.letterbox.apply(sample.camera.project(torch.from_numpy(asked.boxes_3d.centres).float()))
    inside = ((centres >= 0) & (centres < torch.tensor(INPUT_SIZE))).all(-1).numpy()
    return asked[inside], regions


def make_frame(bottom: np.ndarray, yaw: np.ndarray) -> Frame:
    count = len(yaw)
    names = np.array(tuple(KITTI_MEAN_SIZES))[np.arange(count) % 3]
    left = CAMERA.project(bottom)[:, 0] - 20
    objects = Objects(
        names=names,
        truncation=np.zeros(count),
        occlusion=np.zeros(count, np.int64),
        alpha=np.zeros(count),
        boxes_2d=np.stack([left, np.full(count, 150.0), left + 45, np.full(count, 230.0)], -1),
        dimensions=np.tile([1.6, 1.4, 3.0], (count, 1)),
        bottom=bottom,
        yaw=yaw,
    )
    return Frame(image=np.zeros((375, 1242, 3), np.uint8), camera=CAMERA, objects=objects)


def assert_same(found: Detections, expected: Objects) -> None:
    assert len(found.alpha) == len(expected) > 0
    np.testing.assert_allclose(found.boxes_3d.bottom, expected.bottom, atol=3e-3)
    np.testing.assert_allclose(found.boxes_3d.dimensions, expected.dimensions, atol=1e-5)
    np.testing.assert_allclose(wrap(found.boxes_3d.yaw.numpy() - expected.yaw), 0, atol=1e-4)
    np.testing.assert_allclose(found.boxes_2d, expected.boxes_2d, atol=2e-3)


@given(draws, st.floats(8, 40), st.floats(-3.14, 3.14))
@settings(max_examples=25, deadline=None)
def test_objects_come_back_whatever_the_augmentation(draw: Draw, z: float, yaw: float) -> None:
    bottom = np.array([[-0.2 * z, 1.6, z], [0.0, 1.7, z + 2], [0.15 * z, 1.5, z + 4]])
    frame = make_frame(bottom, wrap(yaw + np.array([0.0, 1.0, 2.0])))
    expected, found = there_and_back(frame, draw, PublishedData())
    assert_same(found, expected)


def test_read_back_per_axis_they_are_somewhere_else() -> None:
    frame = make_frame(np.array([[0.0, 1.7, 30.0]]), np.array([0.4]))
    expected, found = there_and_back(frame, Draw(), PublishedData(per_axis_decoding=True))
    assert np.abs(found.boxes_2d.numpy() - expected.boxes_2d).max() > 0.1


def test_the_peaks_of_a_perfect_heat_map_are_the_objects() -> None:
    frame = make_frame(
        np.array([[-4.0, 1.6, 12.0], [0.0, 1.7, 20.0], [5.0, 1.5, 28.0], [-9.0, 1.6, 30.0]]), np.zeros(4)
    )
    targets = make_sample("", frame, input_size=INPUT_SIZE, targets=targets_maker()).targets
    assert targets is not None
    rois = peaks(targets.heatmap, count=4)
    scores = rois.heat
    assert scores.tolist() == [1, 1, 1, 1]
    found = {(*cell, label) for cell, label in zip(rois.cell.tolist(), rois.label.tolist(), strict=True)}
    assert found == {(*cell, label) for cell, label in zip(targets.cell.tolist(), targets.label.tolist(), strict=True)}


@pytest.mark.kitti
@pytest.mark.parametrize("draw", [Draw(), Draw(flip=True, scale=0.8, shift=(0.05, 0.02))])
def test_real_objects_come_back(kitti: Path, draw: Draw) -> None:
    for name in ("000008", "000010", "000142"):
        frame = Frame(
            image=read_image(kitti / "training" / "image_2" / f"{name}.png"),
            camera=read_calibration(kitti / "training" / "calib" / f"{name}.txt").camera,
            objects=read_objects(kitti / "training" / "label_2" / f"{name}.txt"),
        )
        expected, found = there_and_back(frame, draw, PublishedData())
        assert_same(found, expected)
