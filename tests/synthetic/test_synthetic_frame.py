"""A rendered frame against itself: labels, masks, depth and LiDAR must tell one story."""

import numpy as np
import pytest

from monoskd.geometry.heading import alpha_from_yaw
from monoskd.synthetic import RenderedFrame, render_frame
from monoskd.synthetic.frame import label_frame

SIZE = (208, 64)


@pytest.fixture(scope="module")
def frames() -> list[RenderedFrame]:
    return [render_frame(0, index, SIZE) for index in range(8)]


def labelled(frame: RenderedFrame) -> np.ndarray:
    return np.flatnonzero(frame.objects.names != "DontCare")


def in_box(points: np.ndarray, frame: RenderedFrame, row: int, *, margin: float) -> np.ndarray:
    """Which points of the camera frame lie in the row's 3D box: turned into its frame, against its half sizes."""
    height, width, length = frame.objects.dimensions[row]
    x, y, z = (points - frame.objects.bottom[row]).T
    yaw = frame.objects.yaw[row]
    forward = np.cos(yaw) * x - np.sin(yaw) * z
    sideways = np.sin(yaw) * x + np.cos(yaw) * z
    return (
        (np.abs(forward) < length / 2 + margin)
        & (np.abs(sideways) < width / 2 + margin)
        & (y < margin)
        & (y > -height - margin)
    )


def test_2d_boxes_hold_exactly_the_pixels_that_show_the_object(frames: list[RenderedFrame]) -> None:
    checked = 0
    for frame in frames:
        for row in labelled(frame):
            v, u = np.nonzero(frame.owner == row)
            if len(u) == 0:
                continue
            left, top, right, bottom = frame.objects.boxes_2d[row]
            assert left - 1 <= u.min()
            assert u.max() + 1 <= right + 1
            assert top - 1 <= v.min()
            assert v.max() + 1 <= bottom + 1
            checked += 1
    assert checked > 20


def test_what_is_not_truncated_has_the_box_of_its_projected_corners(frames: list[RenderedFrame]) -> None:
    for frame in frames:
        uv = frame.calibration.camera.project(frame.objects.boxes_3d.corners())
        box = np.concatenate([uv.min(1), uv.max(1)], 1)
        inside = (frame.objects.names != "DontCare") & (frame.objects.truncation == 0)
        np.testing.assert_allclose(frame.objects.boxes_2d[inside], box[inside], atol=1e-9)


def test_truncation_is_the_share_of_the_box_outside_the_image(frames: list[RenderedFrame]) -> None:
    for frame in frames:
        rows = labelled(frame)
        truncation = frame.objects.truncation[rows]
        left, top, right, bottom = frame.objects.boxes_2d[rows].T
        touches = (left <= 0) | (top <= 0) | (right >= SIZE[0]) | (bottom >= SIZE[1])
        assert ((truncation > 0) <= touches).all()
        assert ((truncation >= 0) & (truncation < 1)).all()


def test_depth_of_an_objects_pixels_lies_in_its_3d_box(frames: list[RenderedFrame]) -> None:
    camera_points = 0
    for frame in frames:
        for row in labelled(frame):
            v, u = np.nonzero(frame.owner == row)
            uv = np.stack([u, v], -1) + 0.25  # the upper left of 2 x 2 samples
            points = frame.calibration.camera.back_project(uv, frame.depth_m[v, u].astype(np.float64))
            assert in_box(points, frame, row, margin=0.01).all()
            camera_points += len(points)
    assert camera_points > 2000


def test_lidar_points_on_an_object_are_at_its_depth(frames: list[RenderedFrame]) -> None:
    """Points that project onto an object's pixels lie in its box, but for the parallax between the two sensors."""
    shares = []
    for frame in frames:
        points = frame.calibration.velo_to_camera(frame.points[:, :3].astype(np.float64))
        u, v = np.floor(frame.calibration.camera.project(points)).astype(int).T
        seen = (u >= 0) & (u < SIZE[0]) & (v >= 0) & (v < SIZE[1]) & (points[:, 2] > 0)
        owner = np.full(len(points), -1)
        owner[seen] = frame.owner[v[seen], u[seen]]
        for row in labelled(frame):
            mine = owner == row
            if mine.sum() >= 20:
                shares.append(in_box(points[mine], frame, row, margin=0.10).mean())
    assert len(shares) > 15
    assert np.median(shares) > 0.9
    assert np.mean(shares) > 0.8


def test_lidar_ranges_are_those_of_a_ray_traced_scene_within_noise(frames: list[RenderedFrame]) -> None:
    """Where the depth map says how far the street is, the LiDAR agrees: median error about its 2 cm of noise."""
    for frame in frames[:4]:
        points = frame.calibration.velo_to_camera(frame.points[:, :3].astype(np.float64))
        uv = frame.calibration.camera.project(points)
        u, v = np.floor(uv).astype(int).T
        seen = (u >= 0) & (u < SIZE[0]) & (v >= 0) & (v < SIZE[1]) & (points[:, 2] > 0) & (points[:, 2] < 30)
        error = np.abs(frame.depth_m[v[seen], u[seen]] - points[seen, 2]) / points[seen, 2]
        assert np.median(error) < 0.03


def test_occlusion_grows_with_what_hides_an_object(frames: list[RenderedFrame]) -> None:
    """The nearest object is never hidden by another; of the hidden ones each has something nearer in its box."""
    for frame in frames:
        rows = labelled(frame)
        for row in rows[frame.objects.occlusion[rows] == 2]:
            left, top, right, bottom = frame.objects.boxes_2d[row].astype(int)
            window = frame.owner[top : bottom + 1, left : right + 1]
            assert (window == row).mean() < 0.6


def test_alpha_is_the_yaw_seen_along_the_ray(frames: list[RenderedFrame]) -> None:
    for frame in frames:
        rows = labelled(frame)
        u = frame.objects.boxes_2d[rows][:, [0, 2]].mean(1)
        expected = alpha_from_yaw(frame.objects.yaw[rows], u=u, camera=frame.calibration.camera)
        np.testing.assert_allclose(frame.objects.alpha[rows], expected, atol=1e-12)


def test_objects_do_not_stand_in_one_another(frames: list[RenderedFrame]) -> None:
    for frame in frames:
        rows = labelled(frame)
        centres = frame.objects.bottom[rows] - [0, 0.5, 0]
        for row in rows:
            assert in_box(centres, frame, row, margin=0.0).sum() == 1


def test_camera_and_sweep_look_like_kittis(frames: list[RenderedFrame]) -> None:
    frame = frames[0]
    P2 = frame.calibration.P2
    assert SIZE[0] / P2[0, 0] == pytest.approx(1242 / 721.5)
    assert frame.image.dtype == np.uint8
    assert frame.image.shape == (64, 208, 3)
    assert 8_000 < len(frame.points) < 35_000
    assert frame.points.dtype == np.float32
    assert ((frame.points[:, 3] >= 0) & (frame.points[:, 3] <= 1)).all()
    elevation = np.degrees(np.arctan2(frame.points[:, 2], np.hypot(frame.points[:, 0], frame.points[:, 1])))
    assert len(np.unique(elevation.round(1))) <= 64
    assert elevation.min() > -25.5
    assert elevation.max() < 2.5
    lidar = frame.calibration.velo_to_camera(np.zeros((1, 3)))[0]
    np.testing.assert_allclose(lidar, [0.0, -0.08, -0.27], atol=0.01)  # 8 cm above, 27 cm behind camera 0


def test_statistics_are_near_kittis() -> None:
    """Bounds around the official means of docs/synthetic.md, wide enough for 80 frames."""
    labels = [label_frame(7, index, (128, 40)) for index in range(80)]
    names = np.concatenate([one.names for one in labels])
    cars = names == "Car"
    bottom, dimensions, yaw, occlusion = (
        np.concatenate([getattr(one, field) for one in labels])[cars]
        for field in ("bottom", "dimensions", "yaw", "occlusion")
    )
    assert 2.5 < cars.sum() / 80 < 6.5
    assert 18 < np.median(bottom[:, 2]) < 32
    np.testing.assert_allclose(dimensions.mean(0), [1.526, 1.629, 3.884], rtol=0.05)
    assert 0.55 < (np.abs(np.sin(yaw)) > 0.95).mean() < 0.9
    assert 0.35 < (occlusion == 0).mean() < 0.75
    assert (occlusion == 2).mean() > 0.1
    assert {"Car", "Pedestrian", "Cyclist", "Van", "Truck", "DontCare"} == set(names)
    assert 0.2 < (names == "Pedestrian").sum() / 80 < 1.6
