import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from monoskd.data.samples import Samples, typical_focal_px, typical_frames
from monoskd.data.transforms import Augmentation, Draw
from monoskd.geometry.camera import Camera, PublishedLetterbox
from monoskd.kitti.io import read_calibration
from monoskd.kitti.source import KittiFrames
from monoskd.models.did_m3d.targets import make_targets
from monoskd.objects import KITTI_MEAN_SIZES
from monoskd.structures import Batch, Frame, FrameSource, PublishedData, Sample, TargetMaker


def target_maker(published: PublishedData | None = None) -> TargetMaker:
    return partial(
        make_targets,
        classes=tuple(KITTI_MEAN_SIZES),
        mean_sizes=KITTI_MEAN_SIZES,
        published=published or PublishedData(),
    )


def open_samples(root: Path, *, depth: bool = True, labels: bool = True, **options: object) -> Samples:
    source = KittiFrames(root, "train", depth=depth, labels=labels)
    published = options.get("published")
    return Samples(source, **{"input_size": (192, 64), "targets": target_maker(published), **options})


def assert_same(first: Sample, second: Sample) -> None:
    torch.testing.assert_close(first.image, second.image, rtol=0, atol=0)
    torch.testing.assert_close(first.depth, second.depth, rtol=0, atol=0)
    torch.testing.assert_close(first.targets.heatmap, second.targets.heatmap, rtol=0, atol=0)
    torch.testing.assert_close(first.letterbox.shift, second.letterbox.shift, rtol=0, atol=0)


def test_a_sample_is_what_its_docstring_says(three_frames: Path) -> None:
    sample = open_samples(three_frames)[0]
    assert sample.frame == "000000"
    assert sample.image.shape == (3, 64, 192)
    assert sample.image.min() < 25 < 230 < sample.image.max()
    assert sample.depth.shape == (1, 64, 192)
    assert 5 < sample.depth[sample.depth > 0].min() < sample.depth.max() < 7
    calibration = read_calibration(three_frames / "training" / "calib" / "000000.txt")
    torch.testing.assert_close(sample.camera.P, torch.from_numpy(calibration.P2).float())
    assert sample.targets.label.tolist() == [1]
    assert sample.targets.depth_mask.all()


def test_samples_of_a_batch_stand_side_by_side(three_frames: Path) -> None:
    batch = Batch.collate([open_samples(three_frames)[index] for index in range(3)])
    assert batch.image.shape == (3, 3, 64, 192)
    assert batch.targets.image.tolist() == [0, 2]
    assert batch.letterbox.scale.shape == (3,)
    assert [len(objects) for objects in batch.objects] == [1, 0, 1]


def test_a_published_letterbox_is_batched_with_its_region(three_frames: Path) -> None:
    dataset = open_samples(three_frames, published=PublishedData(per_axis_decoding=True))
    batch = Batch.collate([dataset[0], dataset[1]])
    assert isinstance(batch.letterbox, PublishedLetterbox)
    assert batch.letterbox.region.shape == (2, 2, 2)
    torch.testing.assert_close(batch.letterbox[torch.tensor([1])].region[0, 1], torch.tensor([190.0, 58.0]))
    corners = torch.tensor([[[0.0, 0.0], [192.0, 64.0]]] * 2)
    torch.testing.assert_close(batch.letterbox.invert(corners), torch.tensor([[[0.0, 0.0], [190.0, 58.0]]] * 2))


# --- randomness -------------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_epoch_and_index_alone(three_frames: Path) -> None:
    dataset = open_samples(three_frames, augmentation=Augmentation(), seed=3)
    dataset.set_epoch(2)
    alone = [dataset[index] for index in range(3)]
    loaded = list(DataLoader(dataset, batch_size=None, num_workers=2))
    for first, second in zip(alone, loaded, strict=True):
        assert_same(first, second)
    again = open_samples(three_frames, augmentation=Augmentation(), seed=3)
    again.set_epoch(2)
    assert_same(again[1], alone[1])


def test_epochs_frames_and_seeds_differ(three_frames: Path) -> None:
    dataset = open_samples(three_frames, augmentation=Augmentation(crop_probability=1))
    other = open_samples(three_frames, augmentation=Augmentation(crop_probability=1), seed=1)
    shifts = [dataset[0].letterbox.shift, dataset[2].letterbox.shift, other[0].letterbox.shift]
    dataset.set_epoch(1)
    shifts.append(dataset[0].letterbox.shift)
    assert len({tuple(shift.tolist()) for shift in shifts}) == 4


def test_workers_that_outlive_an_epoch_see_the_next_one(three_frames: Path) -> None:
    dataset = open_samples(three_frames, augmentation=Augmentation(crop_probability=1))
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    first = [sample.letterbox.shift for sample in loader]
    dataset.set_epoch(1)
    second = [sample.letterbox.shift for sample in loader]
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- augmentation moves everything ------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [Draw(), Draw(flip=True), Draw(flip=True, scale=0.8, shift=(0.1, -0.05))])
def test_objects_camera_and_letterbox_agree_with_the_targets(three_frames: Path, draw: Draw) -> None:
    sample = open_samples(three_frames).sample("000000", draw)
    box = sample.letterbox
    centres = torch.from_numpy(sample.objects.boxes_3d.centres).float()
    cells = box.apply(sample.camera.project(centres)) / 4
    torch.testing.assert_close(sample.targets.cell + sample.targets.offset_3d, cells, rtol=0, atol=1e-4)
    corners = torch.from_numpy(sample.objects.boxes_2d).float().reshape(2, 2)
    torch.testing.assert_close(sample.targets.box_2d.reshape(2, 2), box.apply(corners) / 4, rtol=0, atol=1e-4)


def test_the_published_teacher_sees_hardly_anything(three_frames: Path) -> None:
    metres = open_samples(three_frames).sample("000000", Draw(scale=0.8))
    quirk = open_samples(three_frames, published=PublishedData(double_depth_scale=True)).sample(
        "000000", Draw(scale=0.8)
    )
    torch.testing.assert_close(quirk.depth, metres.depth / 256 * 0.8)
    torch.testing.assert_close(quirk.targets.visual_depth, metres.targets.visual_depth)


# --- files that are there, and those that are not ---------------------------------------------------------------------


def test_prediction_needs_an_image_and_a_camera(three_frames: Path) -> None:
    shutil.rmtree(three_frames / "training" / "label_2")
    shutil.rmtree(three_frames / "training" / "depth_2")
    sample = open_samples(three_frames, depth=False, labels=False)[0]
    assert sample.depth is None
    assert sample.targets is None
    assert sample.objects is None
    batch = Batch.collate([sample, sample])
    with pytest.raises(ValueError, match="run `monoskd prepare`"):
        batch.views("depth")


def test_labels_without_depth_have_targets_without_visual_depth(three_frames: Path) -> None:
    shutil.rmtree(three_frames / "training" / "depth_2")
    assert not open_samples(three_frames, depth=False)[0].targets.depth_mask.any()


def test_a_cached_frame_is_read_once(three_frames: Path) -> None:
    dataset = open_samples(three_frames, cache=True)
    first = dataset[0]
    shutil.rmtree(three_frames / "training")
    assert_same(first, dataset[0])


# --- real frames ------------------------------------------------------------------------------------------------------


@pytest.mark.kitti
def test_real_boxes_lie_where_the_labels_say_under_augmentation(kitti: Path) -> None:
    dataset = Samples(KittiFrames(kitti, "trainval", depth=False), input_size=(640, 192), augmentation=Augmentation())
    overlaps = []
    for index in range(len(dataset)):
        sample = dataset[index]
        objects = sample.objects[(sample.objects.truncation == 0) & (sample.objects.names == "Car")]
        corners = sample.letterbox.apply(sample.camera.project(torch.from_numpy(objects.boxes_3d.corners()).float()))
        outline = torch.cat([corners.amin(1), corners.amax(1)], 1)
        labelled = sample.letterbox.apply(torch.from_numpy(objects.boxes_2d).float().reshape(-1, 2, 2)).reshape(-1, 4)
        shared = (
            (torch.minimum(outline, labelled)[:, 2:] - torch.maximum(outline, labelled)[:, :2]).clamp(min=0).prod(1)
        )
        union = sum((box[:, 2:] - box[:, :2]).prod(1) for box in (outline, labelled)) - shared
        overlaps += (shared / union).tolist()
    assert len(overlaps) > 40
    assert np.median(overlaps) > 0.85


def test_the_typical_focal_length_is_the_median_of_the_frames() -> None:
    class Street(FrameSource):
        def __init__(self) -> None:
            self.names = [f"{i:02d}" for i in range(51)]
            self.was_read: list[str] = []

        def read(self, name: str) -> Frame:
            self.was_read.append(name)
            scale = 2 if name == "03" else 1  # another camera
            camera = Camera.from_focal(300.0 * scale, width=400, height=100)
            return Frame(np.zeros((100 * scale, 400 * scale, 3), np.uint8), camera)

    street = Street()
    lens = typical_focal_px(typical_frames(street), input_size=(200, 100))
    assert lens == {"focal_px": 300.0, "input_focal_px": 150.0}
    assert 10 <= len(street.was_read) <= 25
