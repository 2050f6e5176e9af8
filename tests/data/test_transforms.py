import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torchvision.transforms import functional as tv

from monoskd.data.transforms import (
    Augmentation,
    Draw,
    draw_letterbox,
    flip,
    jitter,
    warp_depth,
    warp_image,
    warp_published,
    without_p23,
)
from monoskd.errors import InputError
from monoskd.frames import MEAN_COLOUR
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.geometry.heading import alpha_from_yaw, wrap
from monoskd.models.lens import IMAGENET_MEAN
from monoskd.objects import Objects
from monoskd.structures import Frame, PublishedData

KITTI_P2 = np.array([[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]])


def make_objects() -> Objects:
    bottom = np.array([[-4.0, 1.6, 12.0], [6.0, 1.7, 30.0]])
    return Objects(
        names=np.array(["Car", "Cyclist"]),
        truncation=np.zeros(2),
        occlusion=np.zeros(2, np.int64),
        alpha=np.array([0.3, -2.9]),
        boxes_2d=np.array([[300.0, 170.0, 420.0, 260.0], [700.0, 160.0, 740.0, 230.0]]),
        dimensions=np.array([[1.5, 1.6, 3.9], [1.7, 0.6, 1.8]]),
        bottom=bottom,
        yaw=np.array([0.1, -2.7]),
    )


def make_frame(*, width: int = 1242, height: int = 375) -> Frame:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return Frame(image, Camera(KITTI_P2), rng.uniform(0, 80, (height, width)).astype(np.float32), make_objects())


def ramp(*, width: int, height: int, slope: tuple[float, float], offset: float) -> np.ndarray:
    """A picture whose value is linear in the position of a pixel's centre."""
    u, v = np.arange(width) + 0.5, np.arange(height) + 0.5
    return (offset + slope[0] * u + slope[1] * v[:, None]).astype(np.float32)


# --- flip -------------------------------------------------------------------------------------------------------------


def test_a_flipped_frame_is_its_mirror_image() -> None:
    frame, mirrored = make_frame(), flip(make_frame())
    np.testing.assert_array_equal(mirrored.image[:, 0], frame.image[:, -1])
    np.testing.assert_array_equal(mirrored.depth_m[:, 3], frame.depth_m[:, -4])
    before = frame.camera.project(frame.objects.boxes_3d.corners())
    after = mirrored.camera.project(mirrored.objects.boxes_3d.corners())
    # The corners change places, the outline does not.
    np.testing.assert_allclose(1242 - after[..., 0].max(-1), before[..., 0].min(-1), atol=1e-9)
    np.testing.assert_allclose(np.sort(after[..., 1], -1), np.sort(before[..., 1], -1), atol=1e-9)


def test_the_box_faces_the_mirrored_way() -> None:
    frame, mirrored = make_frame(), flip(make_frame())
    front = frame.objects.boxes_3d.corners()[:, [0, 1, 4, 5]].mean(1)
    mirrored_front = mirrored.objects.boxes_3d.corners()[:, [0, 1, 4, 5]].mean(1)
    np.testing.assert_allclose(mirrored_front, front * (-1, 1, 1), atol=1e-12)


def test_flipping_keeps_alpha_and_yaw_in_agreement() -> None:
    frame = make_frame()
    boxes = frame.objects.boxes_2d
    alpha = alpha_from_yaw(frame.objects.yaw, u=(boxes[:, 0] + boxes[:, 2]) / 2, camera=frame.camera)
    consistent = Frame(frame.image, frame.camera, None, Objects(**{**vars(frame.objects), "alpha": alpha}))
    mirrored = flip(consistent)
    boxes = mirrored.objects.boxes_2d
    expected = alpha_from_yaw(mirrored.objects.yaw, u=(boxes[:, 0] + boxes[:, 2]) / 2, camera=mirrored.camera)
    np.testing.assert_allclose(wrap(mirrored.objects.alpha - expected), 0, atol=1e-12)


def test_flipping_twice_changes_nothing() -> None:
    frame, twice = make_frame(), flip(flip(make_frame()))
    np.testing.assert_array_equal(twice.image, frame.image)
    np.testing.assert_allclose(twice.camera.P, frame.camera.P, atol=1e-12)
    for name, column in vars(frame.objects).items():
        if column is not None and column.dtype.kind == "f":
            np.testing.assert_allclose(getattr(twice.objects, name), column, atol=1e-12)


def test_without_p23_the_mirror_negates_p03() -> None:
    camera = without_p23(Camera(KITTI_P2))
    assert camera.mirrored(1242).P[0, 3] == -KITTI_P2[0, 3]
    assert Camera(KITTI_P2).mirrored(1242).P[0, 3] != -KITTI_P2[0, 3]


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_draws_keep_to_their_limits_and_frequencies() -> None:
    rng = np.random.default_rng(0)
    draws = [Augmentation().draw(rng) for _ in range(4000)]
    scales = np.array([draw.scale for draw in draws])
    shifts = np.array([draw.shift for draw in draws])
    assert scales.min() == pytest.approx(0.6)
    assert scales.max() == pytest.approx(1.4)
    assert np.abs(shifts).max() == pytest.approx(0.2)
    assert np.mean([draw.flip for draw in draws]) == pytest.approx(0.5, abs=0.03)
    assert np.mean(scales == 1) == pytest.approx(0.5, abs=0.03)
    assert np.std(shifts[scales != 1]) == pytest.approx(0.1, rel=0.1)
    for name in ("brightness", "contrast", "saturation"):
        values = np.array([getattr(draw, name) for draw in draws])
        assert 0.8 <= values.min() < 0.81 < 1.19 < values.max() <= 1.2


def test_the_same_generator_draws_the_same() -> None:
    first, second = (Augmentation().draw(np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_zero_augmentation_draws_nothing() -> None:
    assert Augmentation(*[0.0] * 7).draw(np.random.default_rng(0)) == Draw()


@pytest.mark.parametrize(("name", "value"), [("flip_probability", 1.5), ("scale", 1.0), ("shift", float("nan"))])
def test_an_impossible_augmentation_is_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"augmentation.{name}: expected a number from 0 to 1, got {value}"):
        Augmentation(**{name: value})


def test_published_data_is_all_or_nothing_by_name() -> None:
    assert not any(vars(PublishedData()).values())
    assert all(vars(PublishedData.all()).values())


# --- colour -----------------------------------------------------------------------------------------------------------


@given(st.floats(0.7, 1.2), st.floats(0.5, 1.3), st.floats(0.5, 1.5))
@settings(max_examples=25, deadline=None)
def test_jitter_is_torchvisions(brightness: float, contrast: float, saturation: float) -> None:
    image = np.random.default_rng(1).integers(90, 150, (12, 20, 3), np.uint8)  # grey enough that nothing is clipped
    expected = torch.from_numpy(image).permute(2, 0, 1) / 255
    expected = tv.adjust_brightness(expected, brightness)
    expected = tv.adjust_contrast(expected, contrast)
    expected = tv.adjust_saturation(expected, saturation)
    jittered = jitter(image, Draw(brightness=brightness, contrast=contrast, saturation=saturation))
    # Torchvision's luma weights add up to 0.9999.
    assert np.abs(jittered - 255 * expected.permute(1, 2, 0).numpy()).max() < 1


def test_jitter_clips_and_leaves_the_original_alone() -> None:
    image = np.full((4, 4, 3), 240, np.uint8)
    assert (jitter(image, Draw(brightness=1.2)) == 255).all()
    assert (image == 240).all()
    assert jitter(image, Draw()) is image


# --- where the picture goes -------------------------------------------------------------------------------------------


def test_without_a_crop_the_whole_picture_fits() -> None:
    placed = draw_letterbox(size=(1242, 375), draw=Draw(), input_size=(1280, 384), per_axis_decoding=False)
    fitted = Letterbox.fit(width=1242, height=375, size=(1280, 384))
    assert placed.scale == fitted.scale
    np.testing.assert_array_equal(placed.shift, fitted.shift)


@given(st.floats(0.6, 1.4), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_the_crop_fills_the_input_and_its_centre_is_the_middle(scale: float, right: float, down: float) -> None:
    box = draw_letterbox(
        size=(1242, 375), draw=Draw(scale=scale, shift=(right, down)), input_size=(1280, 384), per_axis_decoding=False
    )
    centre = np.array([(0.5 + right) * 1242, (0.5 + down) * 375])
    np.testing.assert_allclose(box.apply(centre), (640, 192), atol=1e-9)
    half = scale * np.array([1242, 375]) / 2
    reach = box.apply(centre + half) - (640, 192)
    assert reach[0] <= 640 + 1e-9
    assert reach[1] == pytest.approx(192)


def test_published_placing_reads_positions_back_elsewhere_only_on_other_proportions() -> None:
    def error(size: tuple[int, int]) -> float:
        box = draw_letterbox(size=size, draw=Draw(), input_size=(1280, 384), per_axis_decoding=True)
        corner = np.array([0.5 * size[0], float(size[1])])
        return float(np.abs(box.invert(box.apply(corner)) - corner).max())

    assert error((1280, 384)) == pytest.approx(0)
    assert error((1242, 375)) == pytest.approx(1.2, abs=0.1)
    assert 300 < error((1920, 1080)) < 480
    exact = draw_letterbox(size=(1920, 1080), draw=Draw(), input_size=(1280, 384), per_axis_decoding=False)
    corner = np.array([960.0, 1080.0])
    np.testing.assert_allclose(exact.invert(exact.apply(corner)), corner)


# --- resampling -------------------------------------------------------------------------------------------------------


def test_a_picture_of_the_networks_size_stays_as_it_is() -> None:
    frame = make_frame(width=128, height=64)
    box = Letterbox.fit(width=128, height=64, size=(128, 64))
    np.testing.assert_array_equal(warp_image(frame.image, box), frame.image)
    np.testing.assert_array_equal(warp_depth(frame.depth_m, box), frame.depth_m)


@pytest.mark.parametrize("warp", [warp_depth, warp_published])
@pytest.mark.parametrize("scale", [0.31, 0.9, 1.0, 1.73])
def test_a_ramp_keeps_its_values_at_its_places(warp, scale: float) -> None:
    picture = ramp(width=160, height=90, slope=(0.13, -0.2), offset=40)
    box = Letterbox.crop(centre=(83.7, 41.2), scale=scale, size=(128, 64))
    uv = np.stack(np.meshgrid(np.arange(128) + 0.5, np.arange(64) + 0.5), -1)
    source = box.invert(uv)
    expected = 40 + 0.13 * source[..., 0] - 0.2 * source[..., 1]
    margin = 1 / min(scale, 1)
    inner = ((source > margin) & (source < np.array([160, 90]) - margin)).all(-1)
    assert inner.mean() > 0.15
    # A triangle filter sampled at pixels shifts by up to a tenth of a pixel where it shrinks the picture.
    tolerance = 0.1 * (0.13 + 0.2) if warp is warp_depth and scale < 1 else 2e-4
    np.testing.assert_allclose(warp(picture, box)[inner], expected[inner], atol=tolerance)


def test_enlarging_is_bilinear_interpolation() -> None:
    picture = np.random.default_rng(2).uniform(1, 80, (30, 40)).astype(np.float32)
    box = Letterbox.crop(centre=(21.3, 14.9), scale=1.9, size=(64, 48))
    rows, columns = np.meshgrid(np.arange(48) + 0.5, np.arange(64) + 0.5, indexing="ij")
    source = box.invert(np.stack([columns, rows], -1)) - 0.5
    expected = map_coordinates(picture.astype(np.float64), [source[..., 1], source[..., 0]], order=1, mode="nearest")
    np.testing.assert_allclose(warp_depth(picture, box), expected, atol=1e-4)
    np.testing.assert_allclose(warp_published(picture, box), expected, atol=1e-4)


def test_shrinking_does_not_alias_unless_published() -> None:
    checkers = (np.indices((96, 320)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    box = Letterbox.fit(width=320, height=96, size=(64, 32))
    rows = slice(8, 24)
    assert np.abs(warp_image(checkers, box)[rows].astype(int) - 128).max() < 10
    assert np.abs(warp_published(checkers, box)[rows].astype(int) - 128).max() > 100


def test_outside_the_picture_a_network_sees_zeros_and_the_edge_is_sharp() -> None:
    np.testing.assert_array_equal(MEAN_COLOUR, np.round(255 * np.array(IMAGENET_MEAN)))
    white = np.full((60, 100, 3), 255, np.uint8)
    warped = warp_image(white, Letterbox.fit(width=100, height=60, size=(64, 64)))
    filled = (warped == 255).all((1, 2))
    outside = (warped == MEAN_COLOUR).all((1, 2))
    assert (filled | outside).all()
    assert filled.sum() == 40  # 38.4 rows, and both that it touches in part
    np.testing.assert_array_equal(filled, filled[::-1])


@pytest.mark.parametrize("centre", [(-500.0, 20.0), (50.0, 900.0)])
def test_a_crop_beside_the_picture_sees_nothing(centre: tuple[float, float]) -> None:
    box = Letterbox.crop(centre=centre, scale=1.0, size=(64, 32))
    assert (warp_image(np.full((60, 100, 3), 255, np.uint8), box) == MEAN_COLOUR).all()


def test_a_sliver_of_a_picture_fits_without_much_memory() -> None:
    sliver = np.full((8000, 2, 3), 200, np.uint8)
    warped = warp_image(sliver, Letterbox.fit(width=2, height=8000, size=(1280, 384)))
    assert (warped[:, 639:641] == 200).all()
    assert (warped[:, :639] == MEAN_COLOUR).all()


# --- unknown depth ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.26, 1.03, 1.7])
def test_unknown_depth_mixes_into_nothing_unless_published(scale: float) -> None:
    rng = np.random.default_rng(3)
    depth = np.where(rng.random((90, 160)) < 0.7, 20, 0).astype(np.float32)
    box = Letterbox.crop(centre=(80, 45), scale=scale, size=(64, 32))
    values = warp_depth(depth, box)
    np.testing.assert_allclose(values[values > 0], 20, rtol=1e-5)
    mixed = warp_published(depth, box)
    assert ((mixed > 0.5) & (mixed < 19.5)).mean() > 0.1


def test_depth_is_unknown_where_less_than_half_is_known() -> None:
    depth = np.zeros((32, 64), np.float32)
    depth[:, :33] = 12
    warped = warp_depth(depth, Letterbox.crop(centre=(32, 16), scale=0.5, size=(32, 16)))
    np.testing.assert_array_equal(warped > 0, np.broadcast_to(np.arange(32) < 17, (16, 32)))


def test_a_picture_and_its_depth_keep_their_edges_together() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 37:] = 200
    depth = np.full((40, 80), 10, np.float32)
    depth[:, 37:] = 30
    box = Letterbox.crop(centre=(40.4, 20), scale=0.37, size=(32, 16))
    share = (warp_depth(depth, box)[2:-2] - 10) / 20
    inner = slice(3, -3)
    np.testing.assert_allclose(share[:, inner], warp_image(image, box)[2:-2, inner, 0] / 200, atol=0.01)
