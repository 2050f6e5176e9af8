import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from shapely.geometry import MultiPoint, box

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.importers.boxes import NEAR_M, OrientedBoxes, inverse, label, outlines, tilt_deg
from monoskd.importers.recording import ClassMap

CAMERA, SIZE = Camera(np.array([[700.0, 0, 600, 40], [0, 690, 170, 0.2], [0, 0, 1, 0.003]])), (1242, 375)
# Columns: length, width and height of an object that faces +x, in a frame with y down and z forward.
UPRIGHT = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def one_box(centre, angles=(0.0, 0.0, 0.0), dimensions=(1.5, 1.6, 4.0)) -> OrientedBoxes:
    turn = Rotation.from_euler("zxy", angles).as_matrix()
    return OrientedBoxes(np.array([centre], float), np.array([turn @ UPRIGHT]), np.array([dimensions], float))


def samples(boxes: OrientedBoxes) -> np.ndarray:
    """Points on the 12 edges, dense, in front of the near plane."""
    corners = boxes.corners()[0]
    pairs = [(a, b) for a in range(8) for b in range(a) if bin(a ^ b).count("1") == 1]
    along = np.linspace(0, 1, 201)[:, None]
    points = np.concatenate([corners[a] + along * (corners[b] - corners[a]) for a, b in pairs])
    return points[points[:, 2] >= NEAR_M]


@given(
    centre=st.tuples(st.floats(-30, 30), st.floats(-3, 4), st.floats(0.6, 60)),
    angles=st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1), st.floats(-4, 4)),
)
@settings(max_examples=60, deadline=None)
def test_what_a_picture_shows_is_what_shapely_says(centre, angles):
    boxes = one_box(centre, angles)
    uv = CAMERA.project(samples(boxes))
    area = MultiPoint(uv).convex_hull.intersection(box(0, 0, *SIZE)).area
    seen = outlines(boxes, CAMERA, SIZE)
    if abs(area - 1) > 0.5:
        sides = np.clip(uv.max(0), 0, np.array(SIZE) - 1) - np.clip(uv.min(0), 0, np.array(SIZE) - 1)
        assert seen.visible[0] == (area > 1 and (sides > 0.01).all())
    if boxes.corners()[0, :, 2].min() > NEAR_M:
        np.testing.assert_allclose(seen.whole[0], [*uv.min(0), *uv.max(0)], rtol=1e-9, atol=1e-6)


def test_a_box_that_reaches_behind_the_camera_is_cut_before_it():
    seen = outlines(one_box((1.2, 0.8, 1.0), (0, 0, np.pi / 2)), CAMERA, SIZE)
    np.testing.assert_allclose(seen.whole[0], [*_low(1.2, 0.8, 1.0), *_high(1.2, 0.8, 1.0)], rtol=1e-9)
    assert 0 < seen.truncation[0] < 1


def _low(x: float, y: float, z: float) -> np.ndarray:
    """The left and top bounds of a car that looks along the camera's axis, cut at the near plane."""
    far = z + 2
    return np.array([CAMERA.project(np.array([x - 0.8, 0, far]))[0], CAMERA.project(np.array([0, y - 0.75, far]))[1]])


def _high(x: float, y: float, z: float) -> np.ndarray:
    return np.array(
        [CAMERA.project(np.array([x + 0.8, 0, NEAR_M]))[0], CAMERA.project(np.array([0, y + 0.75, NEAR_M]))[1]]
    )


@given(yaw=st.floats(-3.1, 3.1), x=st.floats(-5, 5), z=st.floats(8, 40))
@settings(deadline=None)
def test_a_row_of_an_upright_box_is_that_box(yaw, x, z):
    boxes = one_box((x, 1.0, z), (0, 0, yaw))
    rows = label(boxes, [("car",)], np.array([1]), classes=ClassMap({"car": "Car"}), camera=CAMERA, size=SIZE).objects
    assert rows.yaw[0] == pytest.approx(yaw)
    corners = Boxes3D(rows.bottom, rows.dimensions, rows.yaw).corners()[0]
    np.testing.assert_allclose(np.sort(corners, 0), np.sort(boxes.corners()[0], 0), atol=1e-9)
    assert np.sin(rows.alpha[0] + np.arctan2(x, z) - yaw) == pytest.approx(0, abs=1e-9)


def test_rows_are_sorted_by_depth_and_what_maps_to_nothing_is_counted():
    boxes = OrientedBoxes(*(np.concatenate(parts) for parts in zip(*map(_parts, (30, 10, 20, -5)), strict=True)))
    categories = [("car/parked", "car"), ("cone",), ("car",), ("cone",)]
    labels = label(
        boxes, categories, np.arange(4), classes=ClassMap({"car": "Car", "cone": None}), camera=CAMERA, size=SIZE
    )
    assert labels.index.tolist() == [2, 0]
    assert labels.objects.occlusion.tolist() == [2, 0]
    assert labels.left_out == {"objects of cone": 1}


def _parts(z: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes = one_box((0.0, 1.0, z))
    return boxes.centre, boxes.axes, boxes.dimensions


def test_tilt_is_the_angle_between_two_ups():
    assert tilt_deg(np.array([0.0, -1, 0])) == 0
    assert tilt_deg(Rotation.from_euler("x", 7, degrees=True).apply([0, -1, 0])) == pytest.approx(7)
    assert tilt_deg(np.array([0.0, 1, 0])) == pytest.approx(180)


def test_an_inverse_undoes_the_transform():
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler("xyz", [0.3, -1, 2]).as_matrix()
    transform[:3, 3] = [100, -3, 7]
    np.testing.assert_allclose(inverse(transform), np.linalg.inv(transform), atol=1e-12)
