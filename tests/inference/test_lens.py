import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monoskd.errors import InputError
from monoskd.frames import MEAN_COLOUR
from monoskd.geometry.camera import Camera
from monoskd.inference.cameras import CameraSource, check_size, read_camera
from monoskd.inference.lens import Lens, level_rotation

WIDTH, HEIGHT, FOCAL = 640, 480, 400.0
PINHOLE = Camera.from_focal(FOCAL, width=WIDTH, height=HEIGHT)
K = np.asarray(PINHOLE.P)[:, :3]
RADIAL = np.array([-0.28, 0.06, 0.001, -0.0005, 0.01])
FISHEYE = np.array([0.02, -0.01, 0.003, 0.0])
POINTS = np.array([[-1.5, 0.4, 6.0], [0.2, 1.6, 12.0], [2.0, -1.0, 7.0], [-4.0, 1.6, 30.0]])  # [m], level frame


def lens_of(**options: object) -> Lens:
    return Lens(PINHOLE, WIDTH, HEIGHT, "a test", **options)  # type: ignore[arg-type]


def seen_by(lens: Lens, points: np.ndarray) -> np.ndarray:
    """Where OpenCV says that points of the level frame lie in the picture as it was."""
    own = points @ lens.rotation  # R^T point
    zero = np.zeros((3, 1))
    project = cv2.fisheye.projectPoints if lens.fisheye else cv2.projectPoints
    return project(own[:, None], zero, zero, K, lens.distortion if lens.distortion.size else np.zeros(4))[0][:, 0]


TILTED = level_rotation(pitch_deg=5, roll_deg=-8)
LENSES = {
    "radial": lens_of(distortion=RADIAL),
    "fisheye": lens_of(distortion=FISHEYE, fisheye=True),
    "tilted": lens_of(rotation=TILTED),
    "tilted radial": lens_of(distortion=RADIAL, rotation=TILTED),
}


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
def test_a_rectified_picture_is_where_opencv_says(lens: Lens) -> None:
    assert lens.rectified is not None
    uv = lens.camera.project(POINTS)
    np.testing.assert_allclose(lens.rectified.back(uv), seen_by(lens, POINTS), atol=1e-6)
    for point in POINTS:
        image = np.full((HEIGHT, WIDTH, 3), MEAN_COLOUR, np.uint8)  # as what the lens does not see
        u, v = seen_by(lens, point[None])[0]
        cv2.circle(image, (round((u - 0.5) * 16), round((v - 0.5) * 16)), 64, (255, 255, 255), -1, cv2.LINE_AA, 4)
        light = lens.rectified.picture(image)[..., 0].astype(float) - MEAN_COLOUR[0]
        rows, columns = np.mgrid[: light.shape[0], : light.shape[1]] + 0.5
        middle = [(light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()]
        np.testing.assert_allclose(middle, lens.camera.project(point), atol=0.5)


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
def test_a_2d_box_goes_around_its_corners_in_the_picture_as_it_was(lens: Lens) -> None:
    assert lens.rectified is not None
    corners = np.array([[x, y, z] for x in (-2.0, -0.3) for y in (0.1, 1.6) for z in (9.0, 13.0)])
    uv, there = lens.camera.project(corners), seen_by(lens, corners)
    box = lens.rectified.back_boxes(np.array([[*uv.min(0), *uv.max(0)]]))[0]
    assert (box[:2] <= there.min(0) + 0.5).all()
    assert (box[2:] >= there.max(0) - 0.5).all()
    assert np.abs(box - [*there.min(0), *there.max(0)]).max() < 25


def test_a_2d_box_that_shows_nowhere_in_the_picture_as_it_was_has_no_area() -> None:
    rectified = lens_of(rotation=level_rotation(pitch_deg=0, roll_deg=25)).rectified
    assert rectified is not None
    folded = lens_of(distortion=np.array([-0.3, 0.0, 0.0, 0.0])).rectified
    assert folded is not None
    for there in (rectified, folded):  # the corner of what is filled, where no ray of the lens ends
        box = there.back_boxes(np.array([[0.0, 0.0, 9.0, 9.0]]))[0]
        assert (box[2] - box[0]) * (box[3] - box[1]) == 0


def test_pitch_looks_down_and_roll_is_clockwise() -> None:
    down, rolled = level_rotation(pitch_deg=5, roll_deg=0), level_rotation(pitch_deg=0, roll_deg=8)
    np.testing.assert_allclose(down @ [0, 0, 1], [0, np.sin(np.radians(5)), np.cos(np.radians(5))])
    np.testing.assert_allclose(rolled @ [1, 0, 0], [np.cos(np.radians(8)), np.sin(np.radians(8)), 0])
    both = level_rotation(pitch_deg=5, roll_deg=8)
    np.testing.assert_allclose(both, Rotation.from_euler("zx", [8, -5], degrees=True).as_matrix(), atol=1e-12)


def test_a_level_pinhole_camera_is_left_alone() -> None:
    lens = lens_of()
    assert lens.rectified is None
    assert lens.camera is PINHOLE


def test_what_a_lens_folds_over_the_picture_is_not_seen_twice() -> None:
    # k1 = -0.4 turns around at r = 0.91: a ray beyond comes back into the picture, but no light does.
    lens = lens_of(distortion=np.array([-0.4, 0.0, 0.0, 0.0]))
    assert np.isfinite(lens.pixels([[0.8, 0, 1]])).all()
    assert np.isnan(lens.pixels([[1.2, 0, 1], [2.2, 0, 1], [0, 0, -1]])).all()


def test_a_lens_that_shows_nothing_ahead_is_refused() -> None:
    backwards = np.diag([1.0, -1, -1])
    with pytest.raises(InputError, match="a test: expected a camera that looks ahead"):
        _ = lens_of(rotation=backwards).rectified


# --- camera files -----------------------------------------------------------------------------------------------------

FILE = {"width": WIDTH, "height": HEIGHT, "fx": FOCAL, "fy": FOCAL, "cx": 320, "cy": 240}


def written(path: Path, **changes: object) -> Path:
    document = {name: value for name, value in {**FILE, **changes}.items() if value is not None}
    path.write_text(json.dumps(document))
    return path


def test_a_camera_file_is_json_or_yaml_with_numbers_or_a_matrix(tmp_path: Path) -> None:
    plain = read_camera(written(tmp_path / "a.json"))
    assert (plain.width, plain.height, plain.rectified) == (WIDTH, HEIGHT, None)
    np.testing.assert_array_equal(plain.camera.P, PINHOLE.P)
    (tmp_path / "b.yaml").write_text("width: 640\nheight: 480\nK: [[400, 0, 320], [0, 400, 240], [0, 0, 1]]\n")
    np.testing.assert_array_equal(read_camera(tmp_path / "b.yaml").camera.P, PINHOLE.P)
    bent = read_camera(written(tmp_path / "c.json", distortion=RADIAL.tolist(), R=TILTED.ravel().tolist()))
    np.testing.assert_allclose(bent.distortion, RADIAL)
    np.testing.assert_allclose(bent.rotation, TILTED)
    for distortion in ({"fisheye": FISHEYE.tolist()}, {"model": "fisheye", "coefficients": FISHEYE.tolist()}):
        wide = read_camera(written(tmp_path / "d.json", distortion=distortion))
        assert wide.fisheye
        np.testing.assert_allclose(wide.distortion, FISHEYE)
    assert read_camera(written(tmp_path / "e.json", distortion=[0, 0, 0, 0, 0])).rectified is None
    for distortion in ({"fisheye": []}, {"model": "fisheye"}):  # no coefficients are still no pinhole
        wide = read_camera(written(tmp_path / "f.json", distortion=distortion))
        np.testing.assert_array_equal(wide.distortion, np.zeros(4))
        np.testing.assert_allclose(wide.pixels([[1.0, 0.0, 1.0]]), [[320 + 400 * np.pi / 4, 240]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": None}, "width: expected the picture's side in pixels, got None"),
        ({"focal": 3}, "got 'focal'"),
        ({"fx": None}, "expected either K or fx, fy, cx and cy, got fy, cx, cy: complete it"),
        ({"K": [1] * 9}, "expected either K or fx, fy, cx and cy, got fx, fy, cx, cy, K"),
        ({"fx": -4}, "expected focal lengths of at least 1 px"),
        ({"fx": "wide"}, "fx, fy, cx, cy: expected finite numbers"),
        ({"cx": float("nan")}, "expected finite numbers"),
        ({"distortion": [1, 2, 3]}, "distortion: expected 4, 5, 8, 12, 14 numbers for radial-tangential, got 3"),
        ({"distortion": {"model": "magic", "coefficients": []}}, "expected the model radial-tangential or fisheye"),
        ({"distortion": {"model": [0.1]}}, "expected the model radial-tangential or fisheye"),
        ({"distortion_model": [0.1]}, "expected the model radial-tangential or fisheye"),
        (
            {"distortion": {"k1": -0.3, "k2": 0.1}},
            "distortion: expected a list, .*got {'k1': -0.3, 'k2': 0.1}: correct",
        ),
        ({"distortion": {"fisheye": [0.1] * 4, "model": "fisheye"}}, "distortion: expected a list"),
        ({"R": [[1, 2, 3]]}, "R: expected 3 x 3 numbers"),
        ({"R": [2, 0, 0, 0, 2, 0, 0, 0, 2]}, "R: expected a rotation"),
        ({"cx": 10}, "got the principal point.*is given by a file with `crop`"),
        ({"crop": [0, 0, 641, 480]}, "crop: expected left, top, width and height of a part of 640 x 480 pixels, got"),
        ({"crop": [0, 0, 320]}, "crop: expected left, top"),
        ({"crop": [-1, 0, 320, 20]}, "crop: expected left, top"),
        ({"crop": [0, 0, 0.5, 20]}, "crop: expected left, top"),
    ],
)
def test_a_wrong_camera_file_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_camera(written(tmp_path / "camera.json", **changes))
    assert "camera.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_calibrations_is_read_as_that_of_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.tXt").write_text("P2: 700 0 600 0 0 700 180 0 0 0 1 0\n")
    assert CameraSource(calibration=tmp_path).lens("a", width=1200, height=360).camera.focal_px == 700
    (tmp_path / "a.txt").write_text("P2: 800 0 600 0 0 800 180 0 0 0 1 0\n")
    with pytest.raises(InputError, match=r"expected one file for each frame, got a\.tXt and a\.txt: remove one"):
        CameraSource(calibration=tmp_path)


def test_a_calibration_of_another_picture_size_says_which(tmp_path: Path) -> None:
    path = tmp_path / "000000.txt"
    path.write_text("P2: 721.5377 0 609.5593 44.85728 0 721.5377 172.854 0.2163791 0 0 1 0.002745884\n")
    assert CameraSource(calibration=path).lens("a", width=1242, height=375).camera.focal_px == pytest.approx(721.5377)
    with pytest.raises(InputError, match=r"P2: expected the camera of a 3840 x 2160 picture.* about 1219 x 346"):
        CameraSource(calibration=path).lens("a", width=3840, height=2160)
    with pytest.raises(InputError, match="expected the camera of a 500 x 375 picture"):
        CameraSource(calibration=path).lens("a", width=500, height=375)
    for share in (0.8, 1.25, 1.5):
        with pytest.raises(InputError, match="P2: expected the camera of a"):
            CameraSource(calibration=path).lens("a", width=round(1242 * share), height=round(375 * share))
    for height in (700, 900, 1242):
        with pytest.raises(InputError, match=f"P2: expected the camera of a 1242 x {height} picture"):
            CameraSource(calibration=path).lens("a", width=1242, height=height)
    camera = CameraSource(file=written(tmp_path / "camera.json"))
    with pytest.raises(
        InputError, match=r"camera\.json: expected the camera of 64 x 48 pictures .*, got one of 640 x 480"
    ):
        camera.lens("a", width=64, height=48)
    with pytest.raises(InputError, match=r"got one of 640 x 480: turn it as EXIF turns the picture upright"):
        camera.lens("a", width=480, height=640)


@pytest.mark.parametrize("changes", [{}, {"distortion": RADIAL.tolist()}, {"R": TILTED.tolist()}], ids=str)
def test_a_cropped_picture_shows_the_same_points_moved(tmp_path: Path, changes: dict[str, object]) -> None:
    whole = read_camera(written(tmp_path / "whole.json", **changes))
    part = read_camera(written(tmp_path / "part.json", crop=[330, 100, 300, 200], **changes))
    assert (part.width, part.height) == (300, 200)
    np.testing.assert_allclose(part.pixels(POINTS), whole.pixels(POINTS) - [330, 100], atol=1e-9)
    assert part.camera.focal_px == whole.camera.focal_px


@pytest.mark.parametrize(
    ("focal_px", "width", "height", "principal_point"),
    [
        (721.5, 1242, 375, (609.6, 172.9)),  # KITTI
        (552.6, 1408, 376, (682.0, 238.8)),  # KITTI-360
        (809.2, 1600, 900, (829.2, 481.8)),  # nuScenes, the rear camera of 89 degrees
        (388.4, 704, 256, (334.0, 55.3)),  # the same as detectors from above see it: 0.48 of its size, without its sky
        (607.6, 704, 256, (327.8, 60.0)),  # the same of the front camera
        (1266.4, 1600, 672, (816.3, 491.5)),  # the front camera without the bonnet
        (2055.0, 1920, 886, (960.0, 236.0)),  # of Waymo's kind, a side camera without its sky
    ],
)
def test_real_cameras_pass_also_where_the_sky_is_cut_off(
    focal_px: float, width: int, height: int, principal_point: tuple[float, float]
) -> None:
    K = np.array([[focal_px, 0, principal_point[0]], [0, focal_px, principal_point[1]], [0, 0, 1]])
    check_size(Camera(np.column_stack([K, np.zeros(3)])), width=width, height=height, where="P2")


@pytest.mark.parametrize("focal_px", [0.5, 7.2e6])
def test_no_camera_has_such_a_focal_length(focal_px: float) -> None:
    K = np.array([[focal_px, 0, 621.0], [0, focal_px, 187.0], [0, 0, 1]])
    with pytest.raises(InputError, match="P2: expected a focal length of 1 to 1000000 pixels, got"):
        check_size(Camera(np.column_stack([K, np.zeros(3)])), width=1242, height=375, where="P2")


def test_a_camera_may_come_from_exif_or_be_asked_for() -> None:
    lens = CameraSource().lens("photo", width=4000, height=3000, focal_35mm=26)
    assert float(lens.camera.focal_px) == pytest.approx(26 * 5000 / 43.2666, rel=1e-4)
    assert lens.source == "EXIF, 26 mm on 35 mm film"
    with pytest.raises(InputError, match=r"photo: expected a camera, got none.*--focal PX"):
        CameraSource().lens("photo", width=4000, height=3000)
    turned = CameraSource(focal_px=400.0, pitch_deg=5, roll_deg=-8).lens("a", width=WIDTH, height=HEIGHT)
    np.testing.assert_allclose(turned.rotation, TILTED)
