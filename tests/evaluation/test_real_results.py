"""Evaluations of real detectors at real size, against what others computed."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.kitti.bulk import read_objects_folder
from monoskd.kitti.io import read_split
from monoskd.objects import Objects

pytestmark = pytest.mark.kitti

OFFICIAL_CURVES = {
    ("bbox", 0.7): "stats_car_detection.txt",
    ("aos", 0.7): "stats_car_orientation.txt",
    ("bev", 0.7): "stats_car_detection_ground.txt",
    ("3d", 0.7): "stats_car_detection_3d.txt",
}


@pytest.fixture(scope="module")
def unpacked(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labels of all 7481 frames, and the results of two detectors."""
    folder = tmp_path_factory.mktemp("kitti")
    for archive in ("kitti_annotations", "kitti_results/evaltool", "kitti_results/rts3d"):
        subprocess.run(["tar", "--exclude=calib", "-xf", shared / f"{archive}.tar.xz", "-C", folder], check=True)
    return folder


def results_of(folder: Path, detector: str, frames: list[str]) -> list[Objects]:
    (data,) = folder.glob(f"*{detector}*/data")
    there = [frame for frame in frames if (data / f"{frame}.txt").exists()]
    found = dict(zip(there, read_objects_folder(data, there, scored=True), strict=True))
    return [found.get(frame, Objects.empty(scored=True)) for frame in frames]


def test_the_official_curves_to_the_last_digit_they_are_written_with(unpacked: Path) -> None:
    frames = [f"{index:06d}" for index in range(7480)]
    truth = read_objects_folder(unpacked / "label_2", frames)
    evaluation = evaluate_kitti(truth, results_of(unpacked, "evaltool", frames), classes=["Car"])
    ours = {(result.metric, result.least_overlap): result.curves for result in evaluation.results}
    (folder,) = unpacked.glob("*evaltool*")
    for key, name in OFFICIAL_CURVES.items():
        np.testing.assert_allclose(ours[key], np.loadtxt(folder / name), rtol=0, atol=1e-6, err_msg=name)


def test_the_published_numbers_of_a_stereo_detector(unpacked: Path) -> None:
    frames = read_split(unpacked / "ImageSets" / "val.txt")
    truth = read_objects_folder(unpacked / "label_2", frames)
    evaluation = evaluate_kitti(truth, results_of(unpacked, "rts3d", frames), classes=["Car"])
    strict = next(r for r in evaluation.results if (r.metric, r.least_overlap) == ("3d", 0.7))
    assert evaluation.frames == 3769
    assert list(strict.average_precision("R40").values()) == pytest.approx([63.99, 41.78, 34.96], abs=0.2)
