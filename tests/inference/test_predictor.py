import json
import resource
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.frames import shown
from monoskd.geometry.camera import Camera
from monoskd.inference.cameras import CameraSource
from monoskd.inference.outputs import Film
from monoskd.inference.predict import complaint, predict_source
from monoskd.inference.predictor import Fit, Predictor
from monoskd.kitti.io import read_calibration, read_image, read_objects
from monoskd.models.did_m3d import DidM3D
from monoskd.models.weights import load_model, save_model
from monoskd.serve.answer import Answerer
from monoskd.serve.limits import Limits
from monoskd.serve.question import Model
from monoskd.structures import Batch, Frame

FOCAL = CameraSource(focal_px=100.0)


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor(model)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures a.png, b.jpg, c.png of two sizes."""
    path = tmp_path / "pictures"
    path.mkdir()
    for name, size in (("a.png", (90, 60)), ("b.jpg", (120, 40)), ("c.png", (90, 60))):
        cv2.imwrite(str(path / name), picture(*size))
    return path


def document(out: Path) -> dict:
    return json.loads((out / "detections.json").read_text())


@pytest.mark.parametrize("size", [(160, 90), (90, 160), (416, 128), (1, 1)])
def test_a_picture_of_any_shape_has_boxes_in_its_own_pixels(predictor: Predictor, size: tuple[int, int]) -> None:
    width, height = size
    camera = Camera.from_focal(100.0, width=width, height=height)
    found = predictor(picture(width, height), camera)
    assert len(found) > 0
    assert (found.scores.diff() <= 0).all()
    u, v = ((found.boxes_2d[:, :2] + found.boxes_2d[:, 2:]) / 2).unbind(-1)
    cells = 4 / min(128 / width, 64 / height)  # a cell of the network in original pixels
    sideways, down = (128 * cells / 4 - width) / 2, (64 * cells / 4 - height) / 2  # the empty bars around the picture
    assert (u > -sideways - 6 * cells).all()
    assert (u < width + sideways + 6 * cells).all()
    assert (v > -down - 6 * cells).all()
    assert (v < height + down + 6 * cells).all()


def test_a_folder_becomes_text_json_and_pictures(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    (folder / "drive.mp4").write_bytes(b"")
    out, told = tmp_path / "out", []
    done = predict_source(
        predictor, folder, cameras=FOCAL, out=out, score=0.0, draw=True, progress=lambda *now: told.append(now)
    )
    assert (done.images, done.left_out) == (3, 1)
    assert done.detections == sum(len(one["detections"]) for one in document(out)["images"])
    assert told == [(1, 3), (2, 3), (3, 3)]
    written = document(out)
    assert written["schema"] == "monoskd/detections/1"
    assert [one["image"] for one in written["images"]] == ["a", "b", "c"]
    for one in written["images"]:
        text = read_objects(out / "kitti" / f"{one['image']}.txt", scored=True)
        assert len(text) == len(one["detections"]) > 0
        first = one["detections"][0]
        assert first["class"] == text.names[0]
        assert np.allclose(first["box_2d_px"], text.boxes_2d[0], atol=1e-6)
        assert np.allclose(first["bottom_centre_m"], text.bottom[0], atol=1e-6)
        assert np.allclose(first["height_width_length_m"], text.dimensions[0], atol=1e-6)
        assert np.allclose((first["score"], first["yaw_rad"]), (text.scores[0], text.yaw[0]), atol=1e-6)
        drawn = read_image(out / "drawn" / f"{one['image']}.jpg")
        assert drawn.shape[0] >= 40
        assert drawn.std() > 0


def test_the_command_says_that_videos_are_left_out(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "drive.mp4").write_bytes(b"")
    assert main(["predict", str(folder), "--model", str(model), "--focal", "50", "--out", str(tmp_path / "out")]) == 0
    assert f"1 videos in {folder} are left out: predict them one by one\n" in capsys.readouterr().out


def test_scores_below_the_least_are_left_out(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    predict_source(predictor, folder / "a.png", cameras=FOCAL, out=tmp_path / "all", score=0.0)
    scores = sorted(one["score"] for one in document(tmp_path / "all")["images"][0]["detections"])
    middle = (scores[-1] + scores[0]) / 2
    predict_source(predictor, folder / "a.png", cameras=FOCAL, out=tmp_path / "some", score=middle)
    kept = sorted(one["score"] for one in document(tmp_path / "some")["images"][0]["detections"])
    assert kept == [score for score in scores if score >= middle]


def test_by_default_the_score_is_the_best_of_the_models_validation(model: Path, folder: Path, tmp_path: Path) -> None:
    detector, source = load_model(model), folder / "a.png"
    predict_source(Predictor(detector), source, cameras=FOCAL, out=tmp_path / "all", score=0.0)
    scores = np.array([one["score"] for one in document(tmp_path / "all")["images"][0]["detections"]])
    middle = float(np.median(scores))
    for number, (noted, expected) in enumerate([(middle, middle), (None, 0.2), ("0.1", 0.2), (True, 0.2), (7.0, 0.2)]):
        path, out = tmp_path / f"{number}.safetensors", tmp_path / str(number)
        save_model(detector, path, provenance={"best_score": noted})
        assert Predictor(path).score == expected
        done = predict_source(Predictor(path), source, cameras=FOCAL, out=out)
        assert done.score == expected
        assert done.detections == (scores >= expected).sum() == len(document(out)["images"][0]["detections"])
    assert Predictor(detector).score == 0.2


def test_a_reason_that_several_pictures_share_is_said_once(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^a, b, c: expected a camera, got none, .*") as error:
        predict_source(predictor, folder, cameras=CameraSource(), out=tmp_path / "out")
    assert str(error.value).count("--hfov DEG") == 1
    broken = [*(f"{name}: no camera" for name in "abcde"), "f.jpg: cut off", "g: x: y", "h: z", "i: z"]
    told = "a, b, c and 2 more: no camera; f.jpg: cut off; g: x: y, and 2 more"
    assert complaint(broken, done=4, out=Path("out")) == f"{told}; 4 others are done and kept in out"


def test_a_broken_picture_is_named_and_what_was_done_is_kept(
    predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    told: list[tuple[int, int]] = []
    with pytest.raises(InputError, match=r"b\.jpg: expected a whole image.*; 2 others are done and kept in"):
        predict_source(
            predictor, folder, cameras=FOCAL, out=tmp_path / "out", progress=lambda *now: told.append(now), batch_size=2
        )
    assert told == [(2, 3), (3, 3)]
    assert [one["image"] for one in document(tmp_path / "out")["images"]] == ["a", "c"]
    assert (tmp_path / "out" / "kitti" / "c.txt").is_file()


def test_a_failed_attempt_leaves_earlier_results_alone(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_source(predictor, folder, cameras=FOCAL, out=out)
    before = (out / "detections.json").read_text()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png: expected an image"):
        predict_source(predictor, folder, cameras=FOCAL, out=out)
    assert (out / "detections.json").read_text() == before


def test_a_prediction_that_a_full_disk_ends_goes_on(
    predictor: Predictor,
    folder: Path,
    tmp_path: Path,
    largest_file: Callable[[int], AbstractContextManager[None]],
) -> None:
    out, film = tmp_path / "out", tmp_path / "film.mp4"
    with largest_file(300), pytest.raises(InputError, match=r"out/.*'File too large': free some space"):
        predict_source(predictor, folder, cameras=FOCAL, out=out, score=0.0, video=film)
    assert not list(tmp_path.glob(".*"))
    assert predict_source(predictor, folder / "a.png", cameras=FOCAL, out=out, score=0.0).images == 1


def test_a_second_picture_joins_the_first(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_source(predictor, folder, cameras=FOCAL, out=out, score=0.0)
    predict_source(predictor, folder / "b.jpg", cameras=FOCAL, out=out, score=1.0)
    counts = {one["image"]: len(one["detections"]) for one in document(out)["images"]}
    assert list(counts) == ["a", "b", "c"]
    assert counts["b"] == 0 < counts["a"]


def test_pictures_of_earlier_predictions_are_counted(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    earlier = [
        predict_source(predictor, source, cameras=FOCAL, out=out, score=1.0).earlier
        for source in (folder, folder / "b.jpg", folder)
    ]
    assert earlier == [0, 2, 0]


def test_detections_beside_the_picture_as_it_was_are_left_out(trained: Predictor, folder: Path, tmp_path: Path) -> None:
    cameras = CameraSource(focal_px=100.0, roll_deg=25)  # has corners without a picture
    lens = cameras.lens("a", width=90, height=60)
    assert lens.rectified is not None
    seen = trained(lens.rectified.picture(read_image(folder / "a.png")), lens.camera)
    predict_source(trained, folder / "a.png", cameras=cameras, out=tmp_path / "out", score=0.0)
    objects = read_objects(tmp_path / "out" / "kitti" / "a.txt", scored=True)
    assert 0 < len(objects) < len(seen)
    assert (objects.boxes_2d[:, :2] < objects.boxes_2d[:, 2:]).all()
    assert (objects.boxes_2d >= 0).all()
    assert (objects.boxes_2d <= [90, 60, 90, 60]).all()
    assert len(document(tmp_path / "out")["images"][0]["detections"]) == len(objects)


def test_detections_beside_a_picture_through_a_longer_lens_are_left_out(
    trained: Predictor, folder: Path, tmp_path: Path
) -> None:
    focal_px = 400.0  # the network's input is larger than the picture
    frame = Frame(image=read_image(folder / "a.png"), camera=Camera.from_focal(focal_px, width=90, height=60))
    views = Batch.collate([trained.sample(frame)]).views("rgb")
    decoded = trained.detector.decode(trained.detector(views), views)[0]
    seen = trained(frame.image, frame.camera)
    assert 0 < len(seen) < len(decoded)
    assert ((seen.boxes_2d[:, 2:] > 0) & (seen.boxes_2d[:, :2] < torch.tensor([90, 60]))).all()
    predict_source(trained, folder / "a.png", cameras=CameraSource(focal_px=focal_px), out=tmp_path / "out", score=0.0)
    assert len(read_objects(tmp_path / "out" / "kitti" / "a.txt", scored=True)) == len(seen)
    assert [*map(len, shown([decoded], [(90, 60)], published=True))] == [len(decoded)]


def test_what_is_read_is_never_written_over(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "drawn")
    with pytest.raises(InputError, match=r"expected a place that no drawings go to, got .*: change `--out`"):
        predict_source(predictor, tmp_path / "drawn" / "b.jpg", cameras=FOCAL, out=tmp_path, draw=True)
    (tmp_path / "kitti").mkdir()
    cameras = CameraSource(calibration=tmp_path / "kitti")
    with pytest.raises(InputError, match="expected a place that no results go to"):
        predict_source(predictor, folder, cameras=cameras, out=tmp_path)
    (tmp_path / "mine" / "kitti").mkdir(parents=True)
    (tmp_path / "mine" / "kitti" / "b.txt").write_text("mine")
    with pytest.raises(
        InputError, match=r"b\.txt: expected detections\.json of the prediction that it is from, got none"
    ):
        predict_source(predictor, folder, cameras=FOCAL, out=tmp_path / "mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "detections.json").write_text('{"schema": "monoskd/detections-as-labels/1"}')
    with pytest.raises(InputError, match=r"detections\.json: expected an earlier prediction, got another file"):
        predict_source(predictor, folder, cameras=FOCAL, out=tmp_path / "out")


@pytest.mark.parametrize("cameras", [CameraSource(hfov_deg=179.0), CameraSource(focal_px=1e6)])
def test_a_picture_is_drawn_whatever_the_lens(
    predictor: Predictor, folder: Path, tmp_path: Path, cameras: CameraSource
) -> None:
    found = predict_source(predictor, folder, cameras=cameras, out=tmp_path / "out", score=0.0, draw=True)
    assert found.images == 3


def test_a_picture_too_wide_to_draw_is_named(predictor: Predictor, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), picture(2000, 5))
    with pytest.raises(InputError, match="expected a drawing of at most 65500 pixels each way, got 192432 x 480"):
        predict_source(predictor, tmp_path / "wide.png", cameras=FOCAL, out=tmp_path / "out", draw=True)


def test_a_video_is_a_picture_after_the_other(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (160, 96))
    for seed in range(3):
        writer.write(picture(160, 96, seed))
    writer.release()
    told: list[tuple[int, int]] = []
    found = predict_source(predictor, path, cameras=FOCAL, out=tmp_path / "out", progress=lambda *now: told.append(now))
    assert found.images == 3
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert sorted(one.name for one in (tmp_path / "out" / "kitti").iterdir()) == [f"00000{i}.txt" for i in range(3)]


@pytest.mark.parametrize("name", ["fake.avi", "fake.png", "nowhere.png", "empty", "twins"])
def test_what_is_no_source_is_named(predictor: Predictor, tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    if name.startswith("fake"):
        source.write_bytes(b"no picture")
    elif name in ("empty", "twins"):
        source.mkdir()
    if name == "twins":
        for suffix in ("png", "jpg"):
            cv2.imwrite(str(source / f"a.{suffix}"), picture(40, 40))
    with pytest.raises(InputError, match=rf"{name}: (expected|no such)") as caught:
        predict_source(predictor, source, cameras=FOCAL, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_calibration_comes_from_a_file_a_folder_or_a_number(scenes: Path) -> None:
    calib = scenes / "training" / "calib"
    truth = read_calibration(calib / "000001.txt").camera.P
    of_file = CameraSource(calibration=calib / "000001.txt").lens("anything", width=416, height=128)
    of_folder = CameraSource(calibration=calib).lens("000001", width=416, height=128)
    assert (truth == of_file.camera.P).all()
    assert (truth == of_folder.camera.P).all()
    with pytest.raises(InputError, match=r"calib/photo\.txt: expected a readable file"):
        CameraSource(calibration=calib).lens("photo", width=416, height=128)
    assert CameraSource(focal_px=50.0).lens("", width=100, height=40).camera.focal_px == 50
    assert CameraSource(hfov_deg=90.0).lens("", width=100, height=40).camera.focal_px == pytest.approx(50)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"focal_px": 3.0, "hfov_deg": 3.0}, "got 2"),
        ({"focal_px": 0.0}, "--focal: expected 1 to 1000000 pixels, got 0"),
        ({"focal_px": 1e300}, r"--focal: expected 1 to 1000000 pixels, got 1e\+300"),
        ({"focal_px": float("nan")}, "--focal: expected 1 to 1000000 pixels, got nan"),
        ({"hfov_deg": 180.0}, "--hfov: expected 1 to 179 degrees, got 180"),
        ({"calibration": Path("nowhere")}, "nowhere: expected a calibration file or a folder"),
    ],
)
def test_a_camera_is_given_once_and_sensibly(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CameraSource(**given)


def test_a_teacher_needs_depth(teacher: Path, scenes: Path) -> None:
    predictor = Predictor(teacher)
    image, camera = picture(416, 128), Camera.from_focal(200.0, width=416, height=128)
    with pytest.raises(InputError, match="a depth network needs a depth map beside each picture"):
        predictor(image, camera)
    assert len(predictor(image, camera, np.full((128, 416), 20, np.float32))) > 0


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "meta", "hip", "hpu"])
def test_a_missing_device_is_named(model: Path, device: str) -> None:
    expected = f"device: expected one that this machine has, such as cpu, got {device}: .{{10,200}}$"
    with pytest.raises(InputError, match=expected):
        Predictor(model, device=device)


@pytest.mark.kitti
def test_real_frames(predictor: Predictor, kitti: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in (kitti / "training" / "image_2").iterdir())[:2]
    for name in names:
        shutil.copy(kitti / "training" / "image_2" / f"{name}.png", tmp_path / f"{name}.png")
    cameras = CameraSource(calibration=kitti / "training" / "calib")
    assert predict_source(predictor, tmp_path, cameras=cameras, out=tmp_path / "out", draw=True).images == 2
    assert {path.stem for path in (tmp_path / "out" / "drawn").iterdir()} == set(names)


# --- any camera -------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(make_detector: Callable[..., DidM3D]) -> Predictor:
    """A predictor of a detector that saw a focal length of 100 network pixels in training."""
    return Predictor(make_detector(reference_focal_px=100.0, input_focal_px=100.0))


@pytest.mark.parametrize("fit", ["focal", "size"])
def test_the_same_picture_in_other_pixels_has_the_same_boxes(make_detector: Callable[..., DidM3D], fit: Fit) -> None:
    detector = make_detector(reference_focal_px=100.0, input_focal_px=200.0)
    predictor = Predictor(detector, fit=fit)
    street = cv2.GaussianBlur(picture(256, 128), (0, 0), 9)
    street = cv2.normalize(street, None, 0, 255, cv2.NORM_MINMAX)
    found = []
    for size in (0.5, 1, 2, 4):
        image = cv2.resize(street, None, fx=size, fy=size, interpolation=cv2.INTER_LINEAR)
        camera = Camera.from_focal(200.0 * size, width=image.shape[1], height=image.shape[0])
        found.append(predictor(image, camera).boxes_3d.bottom[:, 2].median().item())
    assert np.allclose(found, found[1], rtol=0.01)


def test_twice_the_focal_length_is_twice_the_distance_at_the_same_size(predictor: Predictor) -> None:
    # No training, so no apparent size to bring pictures to: k alone.
    image = picture(128, 64)
    z = [
        predictor(image, Camera.from_focal(f, width=128, height=64)).boxes_3d.bottom[:, 2].median().item()
        for f in (100.0, 200.0, 1970.0)
    ]
    assert z[1] / z[0] == pytest.approx(2, rel=0.05)
    assert z[2] / z[0] == pytest.approx(19.7, rel=0.05)


@pytest.mark.parametrize(
    ("size", "focal_px", "network", "zoom"),
    [
        ((128, 64), 100.0, (128, 64), 1.0),  # as in training
        ((120, 60), 95.0, (128, 64), 128 / 120),  # nearly: as in training
        ((256, 64), 100.0, (256, 64), 1.0),  # a wider picture through the same lens
        ((64, 160), 100.0, (128, 160), 1.0),  # portrait: never less around the picture than in training
        ((300, 100), 200.0, (160, 64), 0.5),  # a longer lens
        ((128, 64), 50.0, (256, 128), 2.0),  # a wider lens, at the limit of four times the pixels
        ((128, 64), 10.0, (256, 128), 2.0),  # beyond it
        ((90, 60), 1e6, (128, 64), 1e-4),
        ((2000, 20), 100.0, (512, 64), 0.256),  # a panorama, at the limit: it has fewer pixels than the input
        ((20, 2000), 100.0, (128, 256), 0.128),
    ],
)
def test_pictures_are_brought_to_the_focal_length_of_training(
    trained: Predictor, size: tuple[int, int], focal_px: float, network: tuple[int, int], zoom: float
) -> None:
    frame = Frame(picture(*size), Camera.from_focal(focal_px, width=size[0], height=size[1]))
    sample = trained.sample(frame)
    assert sample.letterbox.size == network
    assert tuple(sample.image.shape[1:]) == network[::-1]
    assert float(sample.letterbox.scale) == pytest.approx(zoom)
    middle = sample.letterbox.apply(torch.tensor([size[0] / 2, size[1] / 2]))
    torch.testing.assert_close(middle, torch.tensor(network) / 2)
    assert trained(frame.image, frame.camera) is not None


def test_a_batch_of_pictures_is_each_alone(trained: Predictor) -> None:
    frames = [
        Frame(picture(width, 64, seed), Camera.from_focal(100.0, width=width, height=64))
        for seed, width in enumerate((128, 256, 128, 200))
    ]
    for together, frame in zip(trained.batch(frames), frames, strict=True):
        alone = trained(frame.image, frame.camera)
        torch.testing.assert_close(together.boxes_3d.bottom, alone.boxes_3d.bottom, rtol=1e-3, atol=1e-3)


def test_half_precision_is_for_layers_alone(
    make_detector: Callable[..., DidM3D], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    detector = make_detector(reference_focal_px=100.0, input_focal_px=100.0)
    types = set()
    for module in detector.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    frame = Frame(cv2.GaussianBlur(picture(128, 64), (0, 0), 5), Camera.from_focal(100.0, width=128, height=64))
    whole, half = (Predictor(detector, half=half)(frame.image, frame.camera) for half in (False, True))
    assert types == {torch.float32, torch.bfloat16}
    assert half.boxes_3d.bottom.dtype == half.scores.dtype == torch.float32
    assert len(set(half.scores.tolist())) > 40  # bfloat16 itself has a few values in so narrow a range
    torch.testing.assert_close(half.scores, whole.scores, rtol=0.02, atol=0)
    assert half.boxes_3d.bottom[:, 2].median().item() == pytest.approx(
        whole.boxes_3d.bottom[:, 2].median().item(), rel=0.02
    )


def test_half_precision_that_would_be_slow_is_refused(
    model: Path,
    folder: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    for words in (
        ["predict", str(folder), "--focal", "100", "--out", str(tmp_path / "out")],
        ["evaluate", "--data", str(scenes)],
        ["submit", "--data", str(scenes), "--out", str(tmp_path / "results.zip")],
    ):
        assert main([*words, "--model", str(model), "--half"]) == 2
        assert "float32 is faster here" in capsys.readouterr().err
        assert main([*words, "--model", "some.onnx", "--half"]) == 2
        assert "monoskd export --half" in capsys.readouterr().err
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which a worker of `serve` sets for itself
    with pytest.raises(InputError, match="float32 is faster here"):
        Answerer(Model(model, half=True), Limits())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((20, 30, 3), np.float32), r"got float32 of shape \(20, 30, 3\): multiply by 255"),
        (np.zeros((20, 30, 3), np.uint16), r"got uint16 .*: scale to 0 .. 255"),
        (np.zeros((3, 20, 30), np.uint8), r"move the channels last: `image.transpose\(1, 2, 0\)`"),
        (np.zeros((20, 30), np.uint8), "repeat the grey channel"),
        (np.zeros((20, 30, 1), np.uint8), "repeat the grey channel"),
        (np.zeros((20, 30, 4), np.uint8), "leave out alpha"),
        (np.zeros((1, 20, 30, 3), np.uint8), "one picture at a time"),
        (np.zeros((0, 30, 3), np.uint8), "is there a picture"),
        (torch.zeros(3, 20, 30), "got Tensor: call `np.asarray"),
        ("photo.jpg", "got str"),
        (None, "got NoneType"),
    ],
)
def test_a_wrong_array_is_named(predictor: Predictor, image: object, message: str) -> None:
    with pytest.raises(InputError, match=f"image: expected a numpy array of RGB pixels.*{message}"):
        predictor(image, Camera.from_focal(100, width=30, height=20))  # type: ignore[arg-type]


def test_a_wrong_camera_or_fit_is_named(predictor: Predictor) -> None:
    with pytest.raises(InputError, match=r"camera: expected the `Camera` of one picture.* got float"):
        predictor(picture(30, 20), 700.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"got \(2, 3, 4\)"):
        predictor(picture(30, 20), Camera(np.zeros((2, 3, 4))))
    with pytest.raises(InputError, match="focal lengths above 0 px"):
        predictor(picture(30, 20), Camera(np.zeros((3, 4))))
    with pytest.raises(InputError, match="fit: expected focal or size, got 'width'"):
        Predictor(predictor.detector, fit="width")  # type: ignore[arg-type]


def test_the_document_says_camera_deviation_and_corners(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    cameras = CameraSource(focal_px=100.0, pitch_deg=5, roll_deg=3)
    for batch_size in (1, 2):
        out = tmp_path / f"out{batch_size}"
        predict_source(predictor, folder, cameras=cameras, out=out, score=0, draw=True, batch_size=batch_size)
    first = document(out)["images"][0]
    assert first["camera"]["focal_px"] == [100, 100]
    assert (first["camera"]["width"], first["camera"]["source"]) == (90, "--focal")
    assert np.shape(first["camera"]["rotation_to_level"]) == (3, 3)
    box = first["detections"][0]
    assert box["depth_std_m"] > 0
    corners = np.array(box["corners_m"])
    np.testing.assert_allclose(corners[:4].mean(0), box["bottom_centre_m"], atol=1e-4)
    assert box["depth_m"] == box["bottom_centre_m"][2]
    left, top, right, bottom = box["box_2d_px"]
    assert 0 <= left <= right <= 90
    assert 0 <= top <= bottom <= 60
    one, two = (document(tmp_path / f"out{size}")["images"] for size in (1, 2))
    assert [len(entry["detections"]) for entry in one] == [len(entry["detections"]) for entry in two]


def test_a_video_that_does_not_fit_on_the_disk_is_said(tmp_path: Path) -> None:
    film, former = Film(tmp_path / "film.mp4", 10.0), resource.getrlimit(resource.RLIMIT_FSIZE)
    film.path.write_bytes(b"the film that was there before")
    noise = np.random.default_rng(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, former[1]))
    try:
        for _ in range(10):
            film.add(noise.integers(0, 255, (64, 96, 3), np.uint8))
        with pytest.raises(
            InputError, match=r"film\.mp4: expected a video of 10 pictures, got one that is cut off, as on"
        ):
            film.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the film that was there before"]


def test_a_video_of_the_drawings_is_written(predictor: Predictor, teacher: Path, folder: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    with pytest.raises(InputError, match="b: expected 90 x 60 pixels, as of the video's first picture, got 120 x 40"):
        predict_source(predictor, folder, cameras=FOCAL, out=tmp_path / "out", video=film)
    capture = cv2.VideoCapture(str(film))
    assert [capture.read()[0] for _ in range(3)] == [True, True, False]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    with pytest.raises(InputError, match=r"expected a name that ends in \.mp4, got film\.gif"):
        predict_source(predictor, folder, cameras=FOCAL, out=tmp_path / "other", video=tmp_path / "film.gif")
    with pytest.raises(InputError, match=r"expected an rgb network, got .*: give the student's model"):
        predict_source(Predictor(teacher), folder, cameras=FOCAL, out=tmp_path / "third")
