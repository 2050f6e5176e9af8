import shutil
from pathlib import Path

import numpy as np
import pytest

from monoskd.errors import InputError
from monoskd.kitti.io import write_depth, write_split, write_velodyne
from monoskd.kitti.source import KittiFrames


@pytest.mark.parametrize("kind", ["image_2", "calib", "label_2", "depth_2"])
def test_a_missing_file_is_named_before_anything_is_read(three_frames: Path, kind: str) -> None:
    next((three_frames / "training" / kind).glob("000002.*")).unlink()
    with pytest.raises(
        InputError, match=rf"{kind}: expected a file for each .* got none for 1 \(the first is 000002\)"
    ):
        KittiFrames(three_frames)


def test_missing_depth_maps_can_be_prepared(three_frames: Path) -> None:
    shutil.rmtree(three_frames / "training" / "depth_2")
    with pytest.raises(
        InputError,
        match=r"got none for 3 .*: add sweeps in .*velodyne, then run `monoskd prep.*; without a LiDAR",
    ):
        KittiFrames(three_frames)
    write_velodyne(three_frames / "training" / "velodyne" / "000001.bin", np.ones((3, 4)))
    with pytest.raises(InputError, match=r"3 frames, got none for 3 .*: run `monoskd prepare`"):
        KittiFrames(three_frames)


def test_an_empty_split_is_refused(three_frames: Path) -> None:
    write_split(three_frames / "ImageSets" / "train.txt", [])
    with pytest.raises(InputError, match=r"train\.txt: expected at least one frame"):
        KittiFrames(three_frames)


def test_a_missing_split_is_named(three_frames: Path) -> None:
    with pytest.raises(InputError, match=r"ImageSets/val\.txt: expected .* of split 'val', .* \(there are train\)"):
        KittiFrames(three_frames, "val")
    with pytest.raises(InputError, match=r"nowhere: no such data set"):
        KittiFrames(three_frames / "nowhere")


def test_a_depth_map_of_another_size_is_refused(three_frames: Path) -> None:
    write_depth(three_frames / "training" / "depth_2" / "000000.png", np.ones((58, 191)))
    with pytest.raises(InputError, match=r"000000\.png: expected the image's size 190 x 58, got 191 x 58"):
        KittiFrames(three_frames).read("000000")


def test_the_test_split_lies_in_testing(three_frames: Path) -> None:
    (three_frames / "training").rename(three_frames / "testing")
    write_split(three_frames / "ImageSets" / "test.txt", ["000000"])
    assert KittiFrames(three_frames, "test", depth=False, labels=False).names == ["000000"]
