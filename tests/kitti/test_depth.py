import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import NearestNDInterpolator

from monoskd.geometry.camera import Camera
from monoskd.images import read_image_size
from monoskd.kitti.depth import complete_depth, sparse_depth
from monoskd.kitti.io import read_calibration, read_velodyne
from monoskd.kitti.layout import KittiLayout

CAMERA = Camera.from_focal(10.0, width=8, height=6)


@settings(deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(0, 60), st.just(3)), elements=st.floats(-6, 6)))
def test_the_nearest_return_of_a_pixel_wins(points_m):
    expected = np.zeros((6, 8), np.float32)
    for x, y, z in points_m:
        if z <= 0.1:
            continue
        u, v = np.floor(CAMERA.project(np.array([x, y, z])))
        if 0 <= u < 8 and 0 <= v < 6:
            known = expected[int(v), int(u)]
            expected[int(v), int(u)] = z if known == 0 else min(known, np.float32(z))
    np.testing.assert_array_equal(sparse_depth(points_m, camera=CAMERA, size=(8, 6)), expected)


def test_a_point_falls_into_the_pixel_that_covers_it():
    uv = np.array([[0.0, 0.0], [7.99, 5.99], [3.5, 2.0], [8.0, 3.0], [-0.01, 3.0]])
    sparse = sparse_depth(CAMERA.back_project(uv, np.array([2.0, 4, 8, 16, 32])), camera=CAMERA, size=(8, 6))
    assert sparse[0, 0] == 2
    assert sparse[5, 7] == 4
    assert sparse[2, 3] == 8
    assert np.count_nonzero(sparse) == 3


def plane(shape: tuple[int, int], *, near_m: float, far_m: float, tilt: float = 0.0) -> np.ndarray:
    """Depth of a plane: its inverse is linear in the pixels, from far at the top to near at the bottom."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inverse = 1 / far_m + (1 / near_m - 1 / far_m) * rows / shape[0] + tilt * columns
    return (1 / inverse).astype(np.float32)


def beams(depth_m: np.ndarray, *, rows: int = 6, columns: int = 3) -> np.ndarray:
    """What a scanner sees of it: a return in every `columns`-th pixel of every `rows`-th row."""
    sparse = np.zeros_like(depth_m)
    sparse[::rows, ::columns] = depth_m[::rows, ::columns]
    return sparse


@pytest.mark.parametrize("tilt", [0.0, 2e-4])
def test_a_plane_is_completed_exactly(tilt):
    truth = plane((61, 91), near_m=8, far_m=24, tilt=tilt)
    np.testing.assert_allclose(complete_depth(beams(truth))[1:-1, 1:-1], truth[1:-1, 1:-1], rtol=2e-3)


def test_an_object_keeps_its_outline_and_its_surroundings():
    truth = plane((120, 160), near_m=15, far_m=60)
    truth[40:80, 50:100] = 8
    completed = complete_depth(beams(truth))
    np.testing.assert_allclose(completed[44:76, 54:96], 8, rtol=1e-3)
    around = np.ones_like(truth, dtype=bool)
    around[40 - 7 : 80 + 7, 50 - 4 : 100 + 4] = False  # a beam and a column of returns
    around[[0, *range(114, 120)]] = False  # no beam below, no rows above
    np.testing.assert_allclose(completed[around], truth[around], rtol=0.02)


def test_what_lies_behind_a_surface_is_dropped():
    truth = np.full((60, 90), 10, np.float32)
    sparse = beams(truth)
    sparse[31, 45] = 30  # seen by the LiDAR over the object, hidden from the camera
    np.testing.assert_allclose(complete_depth(sparse)[2:-8, 2:-4], 10, rtol=1e-5)


def test_the_sky_stays_unknown_and_holes_do_not():
    sparse = beams(plane((200, 90), near_m=5, far_m=50))
    sparse[:80] = 0
    sparse[120:180, 20:70] = 0  # a dark car gives no returns
    completed = complete_depth(sparse)
    assert (completed[:76] == 0).all()
    assert (completed[84:] > 0).all()


def test_nothing_known_gives_nothing():
    assert not complete_depth(np.zeros((20, 30), np.float32)).any()


def test_completion_leaves_its_input_alone():
    sparse = beams(plane((60, 90), near_m=5, far_m=50))
    before = sparse.copy()
    completed = complete_depth(sparse)
    np.testing.assert_array_equal(sparse, before)
    assert completed.dtype == np.float32


@pytest.mark.kitti
@pytest.mark.parametrize("frame", ["000003", "000010", "001206"])
def test_hidden_beams_are_found_again(kitti, frame):
    """Every sixth of the 64 beams is hidden; nearest-neighbour interpolation (scipy) is the peer to beat."""
    layout = KittiLayout(kitti)
    calibration, sweep = read_calibration(layout.calibration(frame)), read_velodyne(layout.velodyne(frame))
    azimuth = np.arctan2(sweep[:, 1], sweep[:, 0]) % (2 * np.pi)
    beam = np.cumsum(np.diff(azimuth, prepend=azimuth[0]) < -np.pi)  # a sweep is stored beam by beam
    assert beam[-1] == 63
    points, camera, size = (
        calibration.velo_to_camera(sweep[:, :3]),
        calibration.camera,
        read_image_size(layout.image(frame)),
    )
    shown = sparse_depth(points[beam % 6 != 3], camera=camera, size=size)
    hidden = np.where(shown == 0, sparse_depth(points[beam % 6 == 3], camera=camera, size=size), 0)
    truth_m, known = hidden[hidden > 0], np.argwhere(shown)
    completed_m = complete_depth(shown)[hidden > 0]
    assert (completed_m > 0).mean() > 0.97
    error_m = np.abs(completed_m - truth_m)[completed_m > 0]
    nearest = NearestNDInterpolator(known, shown[shown > 0])(np.argwhere(hidden))
    peer_m = np.abs(nearest - truth_m)
    assert np.median(error_m) < 0.15
    assert np.median(error_m) < 0.5 * np.median(peer_m)
    assert error_m.mean() < peer_m.mean()


def test_a_small_picture_keeps_outlines_as_sharp_as_its_beams():
    truth = plane((40, 160), near_m=15, far_m=60)
    truth[:12] = 0  # sky
    truth[8:24, 60:90] = 10  # a van before it
    sparse = beams(truth, rows=2, columns=1)
    completed = complete_depth(sparse, focal_px=180)
    assert (completed[:4] == 0).all()
    np.testing.assert_allclose(completed[8:22, 60:90], 10, rtol=1e-5)
    assert (complete_depth(sparse)[:4] > 0).any()  # as if the beams lay four times as far apart
