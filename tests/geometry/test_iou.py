import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, affinity

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.iou import intersection_2d, intersection_bev, iou_2d, iou_3d, iou_bev, pairwise

Row = tuple[float, float, float, float, float, float, float]  # x, y, z, h, w, l, yaw

metres = st.floats(-5, 5)
sizes = st.floats(0.05, 6)
yaws = st.one_of(st.floats(-4, 4), st.sampled_from([0.0, math.pi / 2, -math.pi / 2, math.pi, math.pi / 4]))
rows = st.tuples(metres, metres, metres, sizes, sizes, sizes, yaws)


def boxes(*rows: Row) -> Boxes3D:
    table = np.array(rows, np.float64)
    return Boxes3D(bottom=table[:, :3], dimensions=table[:, 3:6], yaw=table[:, 6])


def shapely_footprint(row: Row) -> Polygon:
    x, _, z, _, width, length, yaw = row
    upright = Polygon([(length / 2, width / 2), (length / 2, -width / 2), (-length / 2, -width / 2)])
    upright = upright.union(Polygon([(length / 2, width / 2), (-length / 2, -width / 2), (-length / 2, width / 2)]))
    return affinity.translate(affinity.rotate(upright, -yaw, origin=(0, 0), use_radians=True), x, z)


def assert_agrees_with_shapely(a: Row, b: Row) -> None:
    first, second = shapely_footprint(a), shapely_footprint(b)
    shared = first.intersection(second).area
    height = max(0.0, min(a[1], b[1]) - max(a[1] - a[3], b[1] - b[3]))
    volumes = first.area * a[3] + second.area * b[3]
    assert intersection_bev(boxes(a), boxes(b))[0] == pytest.approx(shared, abs=1e-9)
    assert iou_bev(boxes(a), boxes(b))[0] == pytest.approx(shared / first.union(second).area, abs=1e-9)
    assert iou_3d(boxes(a), boxes(b))[0] == pytest.approx(shared * height / (volumes - shared * height), abs=1e-9)


@given(rows, rows)
@settings(max_examples=300, deadline=None)
def test_any_two_boxes(a: Row, b: Row) -> None:
    assert_agrees_with_shapely(a, b)


@given(rows, yaws)
@settings(deadline=None)
def test_boxes_turned_about_one_centre(a: Row, yaw: float) -> None:
    assert_agrees_with_shapely(a, (*a[:6], yaw))


@given(rows, st.floats(0.01, 1), st.floats(0.01, 1))
@settings(deadline=None)
def test_a_nested_box_overlaps_by_its_share(outer: Row, width_share: float, length_share: float) -> None:
    inner = (*outer[:4], outer[4] * width_share, outer[5] * length_share, outer[6])
    assert iou_bev(boxes(outer), boxes(inner))[0] == pytest.approx(width_share * length_share, rel=1e-9)


@given(rows)
def test_a_box_is_itself(row: Row) -> None:
    assert iou_bev(boxes(row), boxes(row))[0] == pytest.approx(1, abs=1e-12)
    assert iou_3d(boxes(row), boxes(row))[0] == pytest.approx(1, abs=1e-12)


@given(rows, st.integers(-3, 3), st.floats(-1e-6, 1e-6))
def test_a_nearly_identical_box_is_nearly_itself(row: Row, half_turns: int, nudge: float) -> None:
    moved = (row[0] + nudge, row[1], row[2] - nudge, *row[3:6], row[6] + half_turns * math.pi + nudge)
    assert iou_bev(boxes(row), boxes(moved))[0] == pytest.approx(1, abs=2e-4)


@given(rows, rows)
def test_overlap_does_not_depend_on_the_order(a: Row, b: Row) -> None:
    assert iou_3d(boxes(a), boxes(b)) == pytest.approx(iou_3d(boxes(b), boxes(a)), abs=1e-12)


@given(rows, yaws)
def test_touching_boxes_share_nothing(a: Row, yaw: float) -> None:
    a = (*a[:6], yaw)
    along = (a[0] + a[5] * math.cos(yaw), a[1], a[2] - a[5] * math.sin(yaw), *a[3:])
    stacked = (a[0], a[1] - a[3], *a[2:])
    assert iou_bev(boxes(a), boxes(along))[0] == pytest.approx(0, abs=1e-12)
    assert iou_3d(boxes(a), boxes(stacked))[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("flat", [(0.0, 2.0), (2.0, 0.0), (-1.0, -1.0), (-2.0, 3.0)])
def test_a_box_without_area_overlaps_nothing(flat: tuple[float, float]) -> None:
    solid = (0.0, 0.0, 0.0, 1.5, 2.0, 4.0, 0.3)
    degenerate = (0.0, 0.0, 0.0, 1.5, *flat, 0.3)
    assert iou_bev(boxes(solid, degenerate), boxes(degenerate, degenerate)).tolist() == [0, 0]
    assert iou_3d(boxes(solid, degenerate), boxes(degenerate, degenerate)).tolist() == [0, 0]


@pytest.mark.parametrize("height", [0.0, -1.5])
def test_a_box_without_height_has_no_volume_to_share(height: float) -> None:
    solid, flat = (0.0, 0.0, 0.0, 1.5, 2.0, 4.0, 0.3), (0.0, 0.0, 0.0, height, 2.0, 4.0, 0.3)
    assert iou_3d(boxes(solid, flat), boxes(flat, flat)).tolist() == [0, 0]


def test_far_boxes_keep_their_precision() -> None:
    near, far = (0.0, 0.0, 0.0, 1.5, 1.6, 4.0, 0.2), (-1000.0, -1000.0, -1000.0, 1.5, 1.6, 4.0, 0.2)
    shifted = [(row[0] + 0.5, *row[1:]) for row in (near, far)]
    overlaps = iou_bev(boxes(near, far), boxes(*shifted))
    assert overlaps[0] == pytest.approx(overlaps[1], abs=1e-12)


def test_2d_overlap_is_that_of_axis_aligned_rectangles() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5], [8, 8, 2, 2.0]])
    b = np.array([[5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [0, 0, 10, 10], [0, 0, 10, 10.0]])
    assert intersection_2d(a, b).tolist() == [50, 0, 4, 0, 0]
    assert iou_2d(a, b) == pytest.approx([1 / 3, 0, 0.04, 0, 0])


def test_pairwise_is_every_box_with_every_other() -> None:
    a, b = (
        boxes((0, 0, 0, 1, 2, 4, 0.1), (1, 0, 0, 1, 2, 4, 0.4)),
        boxes(*[(0.5 * i, 0, 0, 1, 2, 4, 0.2) for i in range(3)]),
    )
    table = pairwise(iou_bev, a, b)
    assert table.shape == (2, 3)
    assert table[1, 2] == iou_bev(a[[1]], b[[2]])[0]
    assert pairwise(iou_3d, a, b[:0]).shape == (2, 0)
