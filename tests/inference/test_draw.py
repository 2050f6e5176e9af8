from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monoskd.geometry.camera import Camera
from monoskd.inference.canvas import CLASS_COLOURS, TEACHER_COLOUR, TRUTH_COLOUR
from monoskd.inference.draw import TRUTH, Look, draw_birds_eye, draw_boxes, draw_scene, edge_slopes, scene_size
from monoskd.kitti.io import read_calibration, read_image, read_objects
from monoskd.objects import Objects

CAMERA = Camera.from_focal(700, width=1000, height=400)
BLACK = np.zeros((400, 1000, 3), np.uint8)
SILENT = Look(words=False)


def make_objects(
    *bottoms: tuple[float, float, float], name: str = "Car", yaw: float = 0.3, scored: bool = True
) -> Objects:
    count = len(bottoms)
    return Objects(
        names=np.full(count, name),
        truncation=np.zeros(count),
        occlusion=np.zeros(count, np.int64),
        alpha=np.zeros(count),
        boxes_2d=np.tile([300.0, 100.0, 400.0, 200.0], (count, 1)),
        dimensions=np.tile([1.5, 1.7, 4.0], (count, 1)),
        bottom=np.array(bottoms, float).reshape(-1, 3),
        yaw=np.full(count, yaw),
        scores=np.linspace(0.9, 0.5, count) if scored else None,
    )


def extent(changed: np.ndarray) -> np.ndarray:
    """left, top, right, bottom of the pixels that are set."""
    rows, columns = np.nonzero(changed)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def is_colour(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(image.astype(int) - colour) < 12).all(-1)


# --- on the photograph ------------------------------------------------------------------------------------------------


def test_a_box_is_drawn_where_it_projects() -> None:
    car = make_objects((1, 1.6, 15))
    drawn = draw_boxes(BLACK, car, CAMERA, look=SILENT)
    corners = CAMERA.project(car.boxes_3d.corners()[0])
    expected = np.concatenate([corners.min(0), corners.max(0)])
    np.testing.assert_allclose(extent(drawn.sum(-1) > 60), expected, atol=3)
    assert not BLACK.any()


def test_the_nearer_box_is_on_top_whatever_the_order() -> None:
    near, far = make_objects((0, 1.6, 10), name="Pedestrian"), make_objects((0, 1.6, 14))
    for order in ([0, 1], [1, 0]):
        both = Objects(**{key: np.concatenate([getattr(near, key), getattr(far, key)])[order] for key in vars(near)})
        drawn = draw_boxes(BLACK, both, CAMERA, look=SILENT)
        alone = is_colour(
            draw_boxes(BLACK, near, CAMERA, look=replace(SILENT, filled=False)), CLASS_COLOURS["Pedestrian"]
        )
        assert is_colour(drawn, CLASS_COLOURS["Pedestrian"])[alone].mean() > 0.95


def test_the_front_is_tinted() -> None:
    for yaw, visible in [(np.pi / 2, True), (-np.pi / 2, False)]:
        car = make_objects((0, 1.6, 10), yaw=yaw)
        drawn = draw_boxes(BLACK, car, CAMERA, look=SILENT)
        front = CAMERA.project(car.boxes_3d.corners()[0, [0, 1, 4, 5]]).mean(0).astype(int)
        share = drawn[front[1] + 12, front[0] + 20] / np.array(CLASS_COLOURS["Car"])
        assert (share.mean() > 0.3) == visible


@pytest.mark.parametrize("bottom", [(0.5, 1.6, 1.0), (-2.5, 1.5, 0.4), (0, 0.7, 0)])
def test_a_box_through_the_camera_plane_is_cut_and_not_turned_inside_out(bottom: tuple[float, float, float]) -> None:
    car = make_objects(bottom, yaw=-np.pi / 2)
    lit = draw_boxes(BLACK, car, CAMERA, look=replace(SILENT, filled=False)).sum(-1) > 150
    # Where its edges and the line that points ahead are, by points in front of the camera alone.
    corners = car.boxes_3d.corners()[0]
    ends = [(i, (i + 1) % 4) for i in range(4)]
    ends += [(i + 4, j + 4) for i, j in ends] + [(i, i + 4) for i in range(4)]
    lines = [corners[list(pair)] for pair in ends] + [np.stack([corners[:4].mean(0), corners[:2].mean(0)])]
    share = np.linspace(0, 1, 3000)[:, None]
    points = np.concatenate([start + share * (end - start) for start, end in lines])
    uv = CAMERA.project(points[points[:, 2] > 0.1])
    uv = uv[((uv > 0) & (uv < (1000, 400))).all(-1)].astype(int)
    assert lit[uv[:, 1], uv[:, 0]].mean() > 0.98
    allowed = np.zeros_like(lit)
    for du, dv in np.ndindex(7, 7):
        allowed[np.clip(uv[:, 1] + dv - 3, 0, 399), np.clip(uv[:, 0] + du - 3, 0, 999)] = True
    assert not (lit & ~allowed).any()


def test_a_box_behind_the_camera_is_not_drawn() -> None:
    assert not draw_boxes(BLACK, make_objects((0, 1.6, -8)), CAMERA).any()


def test_what_has_no_box_is_left_out() -> None:
    nothing = replace(make_objects((-1000, -1000, -1000)), dimensions=np.full((1, 3), -1.0))
    assert not draw_boxes(BLACK, nothing, CAMERA).any()
    assert not draw_boxes(BLACK, Objects.empty(scored=True), CAMERA).any()
    draw_birds_eye(Objects.empty(scored=True), nothing)


def test_words_can_be_left_out() -> None:
    car = make_objects((1, 1.6, 15))
    assert (draw_boxes(BLACK, car, CAMERA) != draw_boxes(BLACK, car, CAMERA, look=SILENT)).any()


def test_a_look_has_one_colour() -> None:
    drawn = draw_boxes(BLACK, make_objects((1, 1.6, 15)), CAMERA, look=TRUTH)
    assert is_colour(drawn, TRUTH_COLOUR).sum() > 200
    assert not is_colour(drawn, CLASS_COLOURS["Car"]).any()


# --- from above -------------------------------------------------------------------------------------------------------


def test_from_above_right_is_right_and_far_is_up() -> None:
    car = make_objects((10, 1.6, 30), yaw=-np.pi / 2)
    seen = draw_birds_eye(car, range_m=60, size=(440, 480))
    scale = 0.87 * 480 / 60
    centre = np.array([220 + 10 * scale, 0.92 * 480 - 30 * scale])
    half = scale * np.array([1.7, 4.0]) / 2
    blue = seen.astype(int)[..., 2] - seen[..., 0] > 70
    blue[:, :200] = False  # the legend
    np.testing.assert_allclose(extent(blue), np.concatenate([centre - half, centre + half]), atol=3.5)
    behind = np.concatenate([centre - half, centre + half])[3] - extent(blue)[3]
    ahead = extent(blue)[1] - np.concatenate([centre - half, centre + half])[1]
    assert ahead < behind  # the thick side is the front


def test_ground_truth_and_teacher_are_outlines_over_the_detections() -> None:
    car = make_objects((0, 1.6, 20))
    seen = draw_birds_eye(car, car, teacher=make_objects((8, 1.6, 20)), range_m=40)
    assert is_colour(seen, TRUTH_COLOUR)[:400].sum() > 60
    assert is_colour(seen, TEACHER_COLOUR)[:400].sum() > 60
    assert not is_colour(draw_birds_eye(car, range_m=40), TEACHER_COLOUR).any()


def test_the_range_follows_the_furthest_object() -> None:
    near, far = make_objects((0, 1.6, 12)), make_objects((0, 1.6, 64))
    np.testing.assert_array_equal(draw_birds_eye(near), draw_birds_eye(near, range_m=30))
    np.testing.assert_array_equal(draw_birds_eye(near, far), draw_birds_eye(near, far, range_m=70))


def test_the_field_of_view_ends_at_the_photographs_edges() -> None:
    left, right = edge_slopes(CAMERA, width=1000)
    assert CAMERA.project(np.array([30 * left, 0.0, 30.0]))[0] == pytest.approx(0)
    assert CAMERA.project(np.array([30 * right, 0.0, 30.0]))[0] == pytest.approx(1000)
    empty = Objects.empty(scored=True)
    wedge = draw_birds_eye(empty, field_of_view=(left, right)).astype(int) - draw_birds_eye(empty)
    assert wedge[100, 220].sum() > 20
    assert not wedge[440, 20].any()


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(320, 96), (1242, 375), (1920, 1080)])
def test_a_scene_is_the_photograph_and_the_street_side_by_side(width: int, height: int) -> None:
    image = np.full((height, width, 3), 90, np.uint8)
    camera = Camera.from_focal(0.58 * width, width=width, height=height)
    car = make_objects((1, 1.6, 15))
    scene = draw_scene(image, camera=camera, detections=car, ground_truth=car, teacher=car)
    assert scene.shape[0] == max(height, 480)
    photograph = round(width * scene.shape[0] / height)
    assert scene.shape[1] == photograph + scene.shape[0] * 9 // 10
    assert scene_size(width=width, height=height) == scene.shape[1::-1]
    assert (image == 90).all()
    assert is_colour(scene[:, :photograph], TEACHER_COLOUR).sum() + is_colour(scene, CLASS_COLOURS["Car"]).sum() > 200


def test_a_small_photograph_is_enlarged_and_the_boxes_with_it() -> None:
    car, black = make_objects((1, 1.6, 15)), np.zeros((480, 1200, 3), np.uint8)
    small, large = (Camera.from_focal(0.7 * width, width=width, height=width * 2 // 5) for width in (100, 1200))
    enlarged = draw_scene(black[:40, :100], camera=small, detections=car)
    np.testing.assert_array_equal(enlarged, draw_scene(black, camera=large, detections=car))


@pytest.mark.kitti
def test_boxes_of_real_frames_fill_their_2d_boxes(kitti: Path) -> None:
    training = kitti / "training"
    objects = read_objects(training / "label_2" / "000008.txt")
    camera = read_calibration(training / "calib" / "000008.txt").camera
    image = read_image(training / "image_2" / "000008.png")
    for index in np.flatnonzero((objects.truncation == 0) & (objects.names == "Car")):
        one = objects[index : index + 1]
        drawn = draw_boxes(np.zeros_like(image), one, camera, look=SILENT)
        np.testing.assert_allclose(extent(drawn.sum(-1) > 60), one.boxes_2d[0], atol=14)
    assert draw_scene(image, camera=camera, detections=objects).shape[0] == 480
