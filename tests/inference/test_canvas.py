import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPoint, box

from monoskd.inference.canvas import Word, clip_planes, fill, stroke, visible_polygon, visible_segments, write

PLANES = clip_planes(width=100, height=50, near=0.1)
SHOWN = box(-100, -50, 200, 100)  # an image and as much again on either side
pixel = st.tuples(st.floats(-900, 900), st.floats(-500, 500))


@given(st.lists(pixel, min_size=3, max_size=8), st.floats(0.2, 30))
@settings(deadline=None)
def test_a_polygon_is_clipped_as_shapely_does(points: list[tuple[float, float]], w: float) -> None:
    hull = MultiPoint(points).convex_hull
    if hull.geom_type != "Polygon" or hull.area < 1:
        return
    corners = np.array(hull.exterior.coords[:-1])
    homogeneous = np.concatenate([corners, np.ones((len(corners), 1))], 1) * w
    clipped = visible_polygon(homogeneous, PLANES)
    expected = hull.intersection(SHOWN).area
    area = MultiPoint(clipped).convex_hull.area if len(clipped) > 2 else 0
    assert area == pytest.approx(expected, rel=1e-6, abs=1e-3)


@given(st.lists(st.tuples(*[st.floats(-9, 9)] * 3), min_size=2, max_size=2))
@settings(deadline=None)
def test_a_segment_through_the_camera_plane_keeps_what_is_in_front(ends: list[tuple[float, float, float]]) -> None:
    # u = 50 + 40 x / z, v = 25 + 40 y / z
    x, y, z = np.array(ends).T
    segment = np.stack([40 * x + 50 * z, 40 * y + 25 * z, z], -1)
    share = np.linspace(0, 1, 4001)[:, None]
    samples = segment[0] + share * (segment[1] - segment[0])
    samples = samples[samples[:, 2] > 0.1]
    uv = samples[:, :2] / samples[:, 2:]
    seen = uv[((uv > (-100, -50)) & (uv < (200, 100))).all(-1)]
    drawn = visible_segments(segment[None], PLANES)
    if len(seen) > 1:
        assert len(drawn) == 1
        start, end = drawn[0]
        assert min(np.abs(seen[0] - start).max(), np.abs(seen[0] - end).max()) < 3
        assert min(np.abs(seen[-1] - start).max(), np.abs(seen[-1] - end).max()) < 3
    assert np.isfinite(drawn).all()
    assert (drawn.reshape(-1, 2) >= (-100.001, -50.001)).all()
    assert (drawn.reshape(-1, 2) <= (200.001, 100.001)).all()


def test_strokes_lie_where_they_are_asked_to() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    stroke(image, [np.array([[10.5, 0.0], [10.5, 20.0]])], (255, 255, 255), width=1)
    light = image[5:15, :, 0].astype(float)
    np.testing.assert_allclose((light @ (np.arange(40) + 0.5)) / light.sum(1), 10.5, atol=0.05)
    assert not light[:, :9].any()
    assert not light[:, 12:].any()
    stroke(image, [], (255, 0, 0), width=1)


def test_fills_blend_and_stay_inside() -> None:
    image = np.full((20, 40, 3), 100, np.uint8)
    square = np.array([[30.0, 5.0], [60.0, 5.0], [60.0, 15.0], [30.0, 15.0]])
    fill(image, square, (200, 200, 200), opacity=0.5)
    assert (image[7:13, 32:] == 150).all()
    assert (image[:, :28] == 100).all()
    before = image.copy()
    fill(image, square + 500, (0, 0, 0), opacity=1)
    fill(image, square[:0], (0, 0, 0), opacity=1)
    np.testing.assert_array_equal(image, before)


def test_words_make_room_for_each_other_and_stay_in_the_picture() -> None:
    blank = np.zeros((100, 120, 3), np.uint8)
    chip = (0, 0, 255)
    one = write(blank, [Word("Car", (110, 60), chip=chip)], height=12)
    two = write(blank, [Word("Car", (110, 60), chip=chip)] * 2, height=12)
    many = write(blank, [Word("Car", (110, 60), chip=chip)] * 9, height=12)

    def chips(image: np.ndarray) -> int:
        return int((image == chip).all(-1).sum())

    assert not blank.any()
    assert chips(one) > 100
    assert chips(two) == pytest.approx(2 * chips(one), rel=0.02)
    assert chips(many) == pytest.approx(3 * chips(one), rel=0.02)
