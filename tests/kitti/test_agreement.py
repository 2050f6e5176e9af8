"""Whether LiDAR and labels agree is judged on objects of which that can be told."""

from dataclasses import replace

import numpy as np
import pytest

from monoskd.kitti.agreement import depth_errors, disagreement
from monoskd.kitti.depth import sparse_depth
from monoskd.kitti.io import read_calibration, read_objects, read_velodyne
from monoskd.kitti.layout import KittiLayout
from monoskd.objects import Objects


def car(*, z: float = 20.0, length: float = 4.0, yaw: float = 0.0, occlusion: int = 0) -> Objects:
    return Objects(
        names=np.array(["Car"]),
        truncation=np.zeros(1),
        occlusion=np.array([occlusion]),
        alpha=np.zeros(1),
        boxes_2d=np.array([[10.0, 5, 20, 10]]),
        dimensions=np.array([[1.5, 2.0, length]]),
        bottom=np.array([[0.0, 1, z]]),
        yaw=np.array([yaw]),
    )


def seen_at(depth_m: float) -> np.ndarray:
    depth = np.full((20, 30), 70, np.float32)
    depth[5:11, 10:21] = depth_m
    depth[5:7, 10:21] = 0  # unknown
    return depth


def test_a_surface_within_the_box_is_right_and_one_outside_is_not():
    assert depth_errors(seen_at(19.2), car()) == [0]  # seen from the side: 1 m deep each way
    assert depth_errors(seen_at(17), car()) == [pytest.approx(2)]
    assert depth_errors(seen_at(23), car()) == [pytest.approx(2)]
    assert depth_errors(seen_at(18.1), car(yaw=np.pi / 2)) == [0]  # from behind: 2 m
    tram = car(length=23, yaw=np.pi / 2, z=30)
    assert depth_errors(seen_at(19), tram) == [0]
    assert depth_errors(seen_at(17), tram) == [pytest.approx(1.5, abs=0.01)]


@pytest.mark.parametrize(
    "changed",
    [
        {"occlusion": np.array([1])},
        {"occlusion": np.array([2])},
        {"truncation": np.array([0.5])},
        {"names": np.array(["DontCare"])},
        {"dimensions": np.full((1, 3), -1.0)},
        {"bottom": np.array([[0.0, 0, 0]])},
        {"bottom": np.array([[0.0, 1, 60]]), "boxes_2d": np.array([[0.0, 11, 9, 19]])},  # nothing near
        {"boxes_2d": np.array([[10.0, 5, 20, 6]])},  # nothing known
    ],
)
def test_objects_of_which_nothing_can_be_told_are_not_judged(changed):
    assert depth_errors(seen_at(12), replace(car(), **changed)) == []


def test_a_label_in_other_units_cannot_excuse_itself():
    assert depth_errors(seen_at(20), car(z=2000)) == [pytest.approx(1979)]


def test_disagreement_is_the_median_object():
    assert disagreement([]) is None
    assert disagreement([0, 0, 9]) is None
    assert disagreement([0, 9, 9]) == (
        "expected LiDAR returns on the labelled objects, got a median of 9.0 m beside their 3D boxes"
    )


def errors(root, frames, *, turn_deg=0.0, labels=None):
    layout, angle = KittiLayout(root), np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for frame in frames:
        calibration = read_calibration(layout.calibration(frame))
        calibration.Tr_velo_to_cam[:, :3] = calibration.Tr_velo_to_cam[:, :3] @ turn
        points = calibration.velo_to_camera(read_velodyne(layout.velodyne(frame))[:, :3])
        sparse = sparse_depth(points, camera=calibration.camera, size=(1242, 375))
        label = layout.label(frame) if labels is None else labels / f"{frame}.txt"
        yield from depth_errors(sparse, read_objects(label, scored=False))


@pytest.mark.kitti
def test_long_and_far_vehicles_are_no_wrong_calibration(shared):
    folder = shared / "cases" / "doctor_lidar_labels_901086_92"
    frames = sorted(path.stem for path in folder.glob("*.txt"))
    judged = list(errors(shared / "kitti_drives", frames, labels=folder))
    assert len(judged) >= 4
    assert disagreement(judged) is None


@pytest.mark.kitti
@pytest.mark.parametrize("turn_deg", [-5, 5, 45])
def test_a_turned_lidar_disagrees(kitti, turn_deg):
    frames = KittiLayout(kitti).frames("velodyne")
    assert disagreement(list(errors(kitti, frames))) is None
    assert disagreement(list(errors(kitti, frames, turn_deg=turn_deg))) is not None
