import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monoskd.errors import InputError
from monoskd.kitti.io import Calibration, write_calibration, write_depth, write_objects, write_split, write_velodyne
from monoskd.kitti.source import KittiFrames
from monoskd.objects import Objects

P2 = np.array([[110.0, 0, 93.0, 4.5], [0, 110.0, 25.0, 0.02], [0, 0, 1, 0.0027]])
CAR = Objects(
    names=np.array(["Car"]),
    truncation=np.zeros(1),
    occlusion=np.zeros(1, np.int64),
    alpha=np.array([1.5]),
    boxes_2d=np.array([[87.0, 14.0, 125.0, 47.0]]),
    dimensions=np.array([[1.5, 1.6, 3.9]]),
    bottom=np.array([[0.8, 1.2, 6.0]]),
    yaw=np.array([1.6]),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three small frames: a car, nothing, a car."""
    rng = np.random.default_rng(0)
    for kind in ("image_2", "calib", "label_2", "depth_2"):
        (tmp_path / "training" / kind).mkdir(parents=True)
    (tmp_path / "ImageSets").mkdir()
    write_split(tmp_path / "ImageSets" / "train.txt", ["000000", "000001", "000002"])
    for frame in range(3):
        stem = f"{frame:06d}"
        training = tmp_path / "training"
        Image.fromarray(rng.integers(0, 256, (58, 190, 3), np.uint8)).save(training / "image_2" / f"{stem}.png")
        write_calibration(training / "calib" / f"{stem}.txt", Calibration(P2))
        write_objects(training / "label_2" / f"{stem}.txt", Objects.empty() if frame == 1 else CAR)
        write_depth(training / "depth_2" / f"{stem}.png", rng.uniform(5, 7, (58, 190)))
    return tmp_path


@pytest.mark.parametrize("kind", ["image_2", "calib", "label_2", "depth_2"])
def test_a_missing_file_is_named_before_anything_is_read(root: Path, kind: str) -> None:
    next((root / "training" / kind).glob("000002.*")).unlink()
    with pytest.raises(
        InputError, match=rf"{kind}: expected a file for each .* got none for 1 \(the first is 000002\)"
    ):
        KittiFrames(root)


def test_missing_depth_maps_can_be_prepared(root: Path) -> None:
    shutil.rmtree(root / "training" / "depth_2")
    with pytest.raises(InputError, match=r"got none for 3 .*: add sweeps in .*velodyne, then run `monoskd prepare`"):
        KittiFrames(root)
    write_velodyne(root / "training" / "velodyne" / "000001.bin", np.ones((3, 4)))
    with pytest.raises(InputError, match=r"3 frames, got none for 3 .*: run `monoskd prepare`"):
        KittiFrames(root)


def test_an_empty_split_is_refused(root: Path) -> None:
    write_split(root / "ImageSets" / "train.txt", [])
    with pytest.raises(InputError, match=r"train\.txt: expected at least one frame"):
        KittiFrames(root)


def test_a_missing_split_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"ImageSets/val\.txt"):
        KittiFrames(root, "val")


def test_a_depth_map_of_another_size_is_refused(root: Path) -> None:
    write_depth(root / "training" / "depth_2" / "000000.png", np.ones((58, 191)))
    with pytest.raises(InputError, match=r"000000\.png: expected the image's size 190 x 58, got 191 x 58"):
        KittiFrames(root).read("000000")


def test_the_test_split_lies_in_testing(root: Path) -> None:
    (root / "training").rename(root / "testing")
    write_split(root / "ImageSets" / "test.txt", ["000000"])
    assert KittiFrames(root, "test", depth=False, labels=False).names == ["000000"]
