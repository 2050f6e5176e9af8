from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monoskd.geometry.camera import Camera, Letterbox
from monoskd.geometry.heading import decode_heading, wrap, yaw_from_alpha
from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.models.did_m3d.targets import make_targets, visual_depth
from monoskd.models.heatmap import draw_heatmap
from monoskd.objects import KITTI_MEAN_SIZES, Objects, has_3d_box, is_supervised
from monoskd.structures import PublishedData

CLASSES = ("Pedestrian", "Car", "Cyclist")
CAMERA = Camera(
    np.array([[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]])
)
FITTED = Letterbox.fit(width=1242, height=375, size=(640, 192))


def make_object(
    *, name: str = "Car", x: float = 1.0, z: float = 20.0, yaw: float = 0.4, camera: Camera = CAMERA
) -> Objects:
    """One object on the ground whose 2D box is the outline of its 3D box."""
    one = Objects(
        names=np.array([name]),
        truncation=np.zeros(1),
        occlusion=np.zeros(1, np.int64),
        alpha=np.zeros(1),
        boxes_2d=np.zeros((1, 4)),
        dimensions=np.array([[1.5, 1.7, 4.1]]),
        bottom=np.array([[x, 1.65, z]]),
        yaw=np.array([yaw]),
    )
    outline = camera.project(one.boxes_3d.corners())
    return replace(one, boxes_2d=np.concatenate([outline.min(1), outline.max(1)], -1))


def join(*objects: Objects) -> Objects:
    return Objects(
        **{
            name: np.concatenate([getattr(one, name) for one in objects])
            for name in vars(objects[0])
            if name != "scores"
        }
    )


def targets_of(objects: Objects, **changes: object) -> DidM3DTargets:
    arguments = {
        "camera": CAMERA,
        "letterbox": FITTED,
        "classes": CLASSES,
        "mean_sizes": KITTI_MEAN_SIZES,
        "depth_m": None,
        "published": PublishedData(),
    }
    return make_targets(objects, **{**arguments, **changes})


# --- the box comes back -----------------------------------------------------------------------------------------------


@given(
    x=st.floats(-4, 4),
    z=st.floats(10, 40),
    yaw=st.floats(-np.pi, np.pi),
    scale=st.floats(0.4, 0.7),
    right=st.floats(-60, 60),
)
@settings(max_examples=60, deadline=None)
def test_the_targets_tell_the_whole_object(x: float, z: float, yaw: float, scale: float, right: float) -> None:
    box = Letterbox.crop(centre=(621 + right, 190), scale=scale, size=(640, 192))
    labelled = make_object(x=x, z=z, yaw=yaw)
    targets = targets_of(labelled, letterbox=box)
    assert targets.label.tolist() == [CLASSES.index("Car")]
    uv = box.invert((targets.cell + targets.offset_3d).double().numpy() * 4)
    centre = CAMERA.back_project(uv, targets.depth.double().numpy())
    np.testing.assert_allclose(centre, labelled.boxes_3d.centres, atol=2e-4)
    dimensions = targets.size_3d.double().numpy() + KITTI_MEAN_SIZES["Car"]
    np.testing.assert_allclose(dimensions, labelled.dimensions, atol=1e-6)
    middle = (targets.cell + targets.offset_2d).double().numpy()
    half = targets.size_2d.double().numpy() / 2
    corners = box.invert(np.stack([middle - half, middle + half], 1) * 4)
    np.testing.assert_allclose(corners.reshape(-1, 4), labelled.boxes_2d, atol=1e-3)
    alpha = decode_heading(targets.heading_bin.numpy(), targets.heading_residual.double().numpy())
    u = (labelled.boxes_2d[:, 0] + labelled.boxes_2d[:, 2]) / 2
    np.testing.assert_allclose(wrap(yaw_from_alpha(alpha, u=u, camera=CAMERA) - yaw), 0, atol=1e-5)


def test_offsets_start_at_the_cell_of_the_projected_3d_centre() -> None:
    labelled = make_object()
    targets = targets_of(labelled)
    cells = FITTED.apply(CAMERA.project(labelled.boxes_3d.centres)) / 4
    assert targets.cell.tolist() == np.floor(cells).astype(int).tolist()
    assert ((targets.offset_3d >= 0) & (targets.offset_3d < 1)).all()
    assert targets.heatmap[0, 1, targets.cell[0, 1], targets.cell[0, 0]] == 1
    assert targets.heatmap.shape == (1, 3, 48, 160)
    torch.testing.assert_close(
        targets.box_2d, torch.tensor(FITTED.apply(labelled.boxes_2d.reshape(2, 2)) / 4).float().reshape(1, 4)
    )


# --- who is supervised ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "hard", "too_hard"),
    [
        ("truncation", 0.5, 0.51),
        ("occlusion", 2, 3),
        ("names", "Cyclist", "Van"),
        ("boxes_2d", [0, 100, 50, 124.0], [0, 100, 50, 123.9]),
        ("bottom", [0, 1.6, 2.0], [0, 1.6, 1.99]),
    ],
)
def test_an_object_is_supervised_up_to_hard(column: str, hard: object, too_hard: object) -> None:
    for value, expected in [(hard, True), (too_hard, False)]:
        changed = replace(make_object(), **{column: np.array([value])})
        assert is_supervised(changed, CLASSES).tolist() == [expected]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("dimensions", [0.0, 0.0, 0.0]),
        ("dimensions", [-1.0, -1.0, -1.0]),
        ("dimensions", [1.5, 0.0, 4.0]),
        ("dimensions", [1.5, np.nan, 4.0]),
        ("bottom", [0.0, 0.0, 0.0]),
        ("bottom", [-1000.0, -1000.0, -1000.0]),
        ("bottom", [np.inf, 1.6, 20.0]),
    ],
)
def test_an_object_with_a_2d_box_only_is_not_supervised(column: str, value: list[float]) -> None:
    only_2d = replace(make_object(), **{column: np.array([value])})
    assert not has_3d_box(only_2d).any()
    assert not is_supervised(only_2d, CLASSES).any()
    through_the_origin = Camera(CAMERA.P * [1, 1, 1, 0])  # a division by z would warn
    targets = targets_of(join(make_object(), only_2d), camera=through_the_origin)
    assert len(targets.label) == 1
    assert targets.unsupervised.tolist() == [1]


def test_on_small_pictures_small_objects_count() -> None:
    small = replace(make_object(), boxes_2d=np.array([[0.0, 100, 50, 107]]))
    assert not is_supervised(small, CLASSES).any()
    assert is_supervised(small, CLASSES, min_height_px=25 * 96 / 375).all()
    assert len(targets_of(small, min_height_px=8.0).label) == 1
    assert len(targets_of(small, min_height_px=8.1).label) == 0


def test_what_the_crop_leaves_out_and_what_is_too_hard_is_counted() -> None:
    left_out = make_object(x=-30)
    targets = targets_of(join(make_object(), left_out, make_object(name="DontCare")))
    assert targets.label.tolist() == [1]
    assert targets.unsupervised.tolist() == [2]


def test_labels_follow_the_order_of_the_classes() -> None:
    objects = join(make_object(name="Cyclist"), make_object(name="Car", x=4), make_object(name="Pedestrian", x=-4))
    assert targets_of(objects).label.tolist() == [2, 1, 0]
    only_two = targets_of(objects, classes=("Car", "Cyclist"))
    assert only_two.label.tolist() == [1, 0]
    assert only_two.heatmap.shape[1] == 2


def test_a_frame_without_objects_has_empty_targets() -> None:
    targets = targets_of(Objects.empty(), depth_m=np.full((192, 640), 5, np.float32))
    assert targets.visual_depth.shape == (0, 7, 7)
    assert targets.size_3d.shape == (0, 3)
    assert not targets.heatmap.any()
    both = DidM3DTargets.collate([targets, targets_of(make_object())])
    assert both.image.tolist() == [1]


def test_truncated_cells_count_centres_just_outside_the_map() -> None:
    labelled = make_object()
    centre = CAMERA.project(labelled.boxes_3d.centres)[0]
    # The centre comes to lie at half a cell left of the map.
    outside = Letterbox(np.float64(0.5), np.array([-2.0, 96.0]) - 0.5 * centre, (640, 192))
    assert len(targets_of(labelled, letterbox=outside).label) == 0
    targets = targets_of(labelled, letterbox=outside, published=PublishedData(truncated_cells=True))
    assert targets.cell.tolist() == [[0, 24]]
    torch.testing.assert_close(targets.offset_3d, torch.tensor([[-0.5, 0.0]]))


# --- heat map ---------------------------------------------------------------------------------------------------------


def test_peaks_are_gaussians_and_the_higher_one_wins() -> None:
    cell, label, size = np.array([[20, 10], [24, 10]]), np.array([1, 1]), np.array([[30.0, 30.0], [30.0, 30.0]])
    heatmap = draw_heatmap(cell, label, size, height=np.ones(len(cell)), shape=(3, 40, 60))
    radius = int((np.sqrt(42**2 * 4 + 3.36 * 900) - 84) / 2)
    assert radius == 8
    sigma = 17 / 6
    row = np.exp(-((np.arange(60) - 20) ** 2) / (2 * sigma**2)) * (np.abs(np.arange(60) - 20) <= 8)
    other = np.exp(-((np.arange(60) - 24) ** 2) / (2 * sigma**2)) * (np.abs(np.arange(60) - 24) <= 8)
    np.testing.assert_allclose(heatmap[1, 10], np.maximum(row, other), atol=1e-6)
    assert not heatmap[[0, 2]].any()


def test_a_peak_at_the_corner_is_cut_and_a_tiny_object_keeps_one_cell() -> None:
    heatmap = draw_heatmap(
        np.array([[0, 0], [59, 39]]),
        np.array([0, 2]),
        np.array([[30.0, 30.0], [1.0, 1.0]]),
        height=np.ones(2),
        shape=(3, 40, 60),
    )
    assert heatmap[0, 0, 0] == 1
    assert heatmap[0, :9, :9].all()
    assert (heatmap[2] > 0).sum() == 1
    assert heatmap[2, 39, 59] == 1


# --- visual depth -----------------------------------------------------------------------------------------------------


def test_visual_plus_attribute_depth_is_the_objects() -> None:
    labelled = make_object(z=20)
    rng = np.random.default_rng(0)
    depth = rng.uniform(18, 21.5, (192, 640)).astype(np.float32)
    targets = targets_of(labelled, depth_m=depth)
    assert targets.depth_mask.all()
    torch.testing.assert_close(targets.visual_depth + targets.attribute_depth, torch.full((1, 7, 7), 20.0))
    far = targets_of(labelled, depth_m=depth + 5)
    assert not far.depth_mask.any()
    assert not far.visual_depth.any()


def test_without_a_depth_map_there_is_no_visual_depth() -> None:
    targets = targets_of(make_object())
    assert targets.visual_depth.shape == (1, 7, 7)
    assert not targets.depth_mask.any()


def test_visual_depth_is_read_at_the_box() -> None:
    columns = np.broadcast_to(np.arange(640) + 0.5, (192, 640)).astype(np.float32)
    box = torch.tensor([[40.0, 10.0, 68.0, 38.0]])
    seen, known = visual_depth(columns, boxes=box, fill_unknown=False)
    # Bins of 4 cells; RoIAlign (not aligned) takes a cell's value to lie at its left edge: half a cell further on.
    expected = 4 * (40 + 4 * (np.arange(7) + 0.5) + 0.5)
    np.testing.assert_allclose(seen[0], np.broadcast_to(expected, (7, 7)), atol=1e-3)
    assert known.all()


def test_unknown_depth_has_no_say_unless_published() -> None:
    rng = np.random.default_rng(1)
    depth = np.where(rng.random((192, 640)) < 0.6, 20, 0).astype(np.float32)
    depth[:, 320:] = 0
    boxes = torch.tensor([[30.0, 8.0, 58.0, 36.0], [90.0, 8.0, 118.0, 36.0]])
    seen, known = visual_depth(depth, boxes=boxes, fill_unknown=False)
    assert known[0].float().mean() > 0.9
    assert not known[1].any()
    torch.testing.assert_close(seen[known], torch.full((int(known.sum()),), 20.0))
    mixed, _ = visual_depth(depth, boxes=boxes, fill_unknown=True)
    assert mixed[0].mean() == pytest.approx(12, abs=0.5)
