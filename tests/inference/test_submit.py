"""The archive for KITTI's server, unpacked and read as the server does."""

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.inference.cameras import CameraSource
from monoskd.inference.predict import predict_source
from monoskd.inference.predictor import Predictor
from monoskd.inference.submit import check_archive, in_range, write_submission
from monoskd.kitti.io import format_objects, parse_objects
from monoskd.models.did_m3d import DidM3D
from monoskd.models.weights import save_model
from monoskd.objects import Objects

LINE = "Car -1 -1 0.1 10.0 20.0 30.0 40.0 1.5 1.6 4.0 1.0 1.6 20.0 0.2 0.9\n"


@pytest.fixture
def root(scenes: Path, tmp_path: Path) -> Path:
    """Three testing frames without labels."""
    for kind in ("image_2", "calib"):
        folder = tmp_path / "data" / "testing" / kind
        folder.mkdir(parents=True)
        for number, path in enumerate(sorted((scenes / "training" / kind).iterdir())[:3]):
            shutil.copy(path, folder / f"{number:06d}{path.suffix}")
    return tmp_path / "data"


def archive_of(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_archive_unpacks_into_the_files_that_the_server_reads(
    root: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.zip"
    words = ["submit", "--model", str(model), "--data", str(root), "--out", str(out), "--batch-size", "2"]
    assert main(words) == 0
    shutil.unpack_archive(out, tmp_path / "unpacked")
    files = sorted((tmp_path / "unpacked").rglob("*"))
    assert [str(path.relative_to(tmp_path / "unpacked")) for path in files] == [f"00000{i}.txt" for i in range(3)]
    for path in files:
        lines = path.read_text().splitlines()
        assert lines
        assert {len(line.split()) for line in lines} == {16}
    text = capsys.readouterr().out
    assert "3 files (0 empty)" in text
    assert "it asks for 7518 files" in text


def test_frames_without_detections_have_empty_files(root: Path, model: Path, tmp_path: Path) -> None:
    submission = write_submission(Predictor(model), root, tmp_path / "results.zip", score=1.0)
    assert (submission.empty, submission.detections) == (3, 0)
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert [entry.file_size for entry in archive.infolist()] == [0, 0, 0]


def test_results_are_those_of_prediction_and_equal_each_time(root: Path, model: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "first.zip", tmp_path / "second.zip"]
    for batch_size, out in enumerate(outs, start=1):
        write_submission(Predictor(model), root, out, score=0.01, batch_size=batch_size)
    words = ["predict", str(root / "testing" / "image_2"), "--calib", str(root / "testing" / "calib")]
    assert main([*words, "--model", str(model), "--out", str(tmp_path / "out"), "--score", "0.01"]) == 0
    for out in outs:
        with zipfile.ZipFile(out) as archive:
            for name in archive.namelist():
                expected = parse_objects((tmp_path / "out" / "kitti" / name).read_text(), source="", scored=True)
                objects = parse_objects(archive.read(name).decode(), source="", scored=True)
                assert len(objects) > 0
                expected = expected[in_range(expected)]
                rows = [np.flatnonzero((expected.boxes_2d == box).all(1)) for box in objects.boxes_2d]
                if out == outs[0]:
                    assert all(len(row) for row in rows)
    write_submission(Predictor(model), root, tmp_path / "again.zip", score=0.01)
    assert (tmp_path / "again.zip").read_bytes() == outs[0].read_bytes()


def test_pixels_that_are_not_square_are_those_of_prediction(root: Path, model: Path, tmp_path: Path) -> None:
    calibrations = root / "testing" / "calib"
    for path in calibrations.iterdir():
        path.write_text("P2: 240 0 200 9 0 200 60 0.05 0 0 1 0.003\n")
    write_submission(Predictor(model), root, tmp_path / "results.zip", score=0.01)
    predict_source(
        Predictor(model),
        root / "testing" / "image_2",
        cameras=CameraSource(calibration=calibrations),
        out=tmp_path / "out",
        score=0.01,
    )
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        for name in archive.namelist():
            objects = parse_objects((tmp_path / "out" / "kitti" / name).read_text(), source="", scored=True)
            assert archive.read(name).decode() == format_objects(objects[in_range(objects)])


def test_a_picture_of_another_size_than_its_calibration_is_refused(root: Path, model: Path, tmp_path: Path) -> None:
    path = next((root / "testing" / "image_2").glob("000001.*"))
    with Image.open(path) as image:
        image.resize((2 * image.width, 2 * image.height)).save(path)
    with pytest.raises(InputError, match=r"000001\.txt: P2: expected the camera of a 832 x 256 picture"):
        write_submission(Predictor(model), root, tmp_path / "results.zip")
    assert not (tmp_path / "results.zip").exists()


def test_complete_is_only_what_the_server_asks_for(root: Path, model: Path, tmp_path: Path) -> None:
    submission = write_submission(Predictor(model), root, tmp_path / "results.zip")
    assert not submission.is_complete
    assert replace(submission, frames=tuple(f"{number:06d}" for number in range(7518))).is_complete


def test_missing_files_are_named_before_prediction(root: Path, model: Path, tmp_path: Path) -> None:
    predictor, out = Predictor(model), tmp_path / "results.zip"
    with pytest.raises(InputError, match="expected the pictures of KITTI's testing part, got none"):
        write_submission(predictor, tmp_path, out)
    (root / "testing" / "calib" / "000001.txt").unlink()
    with pytest.raises(InputError, match=r"calib: expected a file for each of 3 frames.*first is 000001"):
        write_submission(predictor, root, out)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "test.txt").write_text("000000\n000009\n")
    with pytest.raises(InputError, match=r"image_2: expected a file for each of 4 frames.*first is 000009"):
        write_submission(predictor, root, out)
    assert not out.exists()


def test_damaged_picture_keeps_the_older_archive(root: Path, model: Path, tmp_path: Path) -> None:
    out = archive_of(tmp_path / "results.zip", {"000000.txt": LINE})
    before = out.read_bytes()
    next((root / "testing" / "image_2").glob("000002.*")).write_bytes(b"no picture")
    with pytest.raises(InputError, match="000002"):
        write_submission(Predictor(model), root, out)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_wrong_names_and_detectors_are_refused(
    root: Path, teacher: Path, model: Path, make_detector: Callable[..., DidM3D], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in \.zip, got results\.txt"):
        write_submission(Predictor(model), root, tmp_path / "results.txt")
    with pytest.raises(InputError, match="expected an rgb network"):
        write_submission(Predictor(teacher), root, tmp_path / "results.zip")
    trams = make_detector(classes=("Tram",), mean_sizes={"Tram": (3.5, 2.5, 16.0)})
    save_model(trams, tmp_path / "trams.safetensors", provenance={})
    with pytest.raises(InputError, match=r"expected a detector of Car, Pedestrian, Cyclist, got one of Tram"):
        write_submission(Predictor(tmp_path / "trams.safetensors"), root, tmp_path / "results.zip")


def test_detections_that_kitti_does_not_count_are_left_out(
    root: Path, make_detector: Callable[..., DidM3D], tmp_path: Path
) -> None:
    detector = make_detector()
    with torch.no_grad():
        detector.dense.size_2d[-1].bias.fill_(-5.0)  # boxes turned inside out
    submission = write_submission(Predictor(detector), root, tmp_path / "results.zip")
    assert (submission.detections, submission.empty) == (0, 3)
    assert submission.dropped > 0


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"000000.txt": LINE}, r"expected 2 files, got none for 1 \(the first is 000001\.txt\)"),
        ({"results/000000.txt": LINE, "results/000001.txt": ""}, "without a folder, got results/000000.txt"),
        ({"000000.txt": LINE, "000001.txt": "", "readme.txt": ""}, "got also readme.txt"),
        ({"000000.txt": LINE.rsplit(" ", 1)[0], "000001.txt": ""}, "expected 16 fields .a result., got 15"),
        ({"000000.txt": LINE.replace("0.9", "nan"), "000001.txt": ""}, "field 16"),
        ({"000000.txt": LINE.replace("10.0", "31.0"), "000001.txt": ""}, "000000.txt, object 1: expected left < right"),
        ({"000000.txt": LINE.replace("1.5 ", "0.0000001 "), "000001.txt": ""}, "dimensions above 0 m"),
        ({"000000.txt": LINE.replace(" 0.2 ", " 3.2 "), "000001.txt": ""}, "angles from -pi to pi"),
        ({"000000.txt": LINE, "000001.txt": "Café" + LINE[3:]}, "000001.txt: expected ASCII text"),
        ({"000000.txt": LINE, "000001.txt": LINE * 20_000}, "000001.txt: expected at most 1048576 bytes"),
    ],
)
def test_faulty_archive_is_refused_with_its_reason(files: dict[str, str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        check_archive(archive_of(tmp_path / "results.zip", files), ["000000", "000001"])


def test_good_archive_passes_and_other_files_are_no_archives(tmp_path: Path) -> None:
    check_archive(archive_of(tmp_path / "good.zip", {"000000.txt": LINE, "000001.txt": ""}), ["000000", "000001"])
    (tmp_path / "bad.zip").write_text(LINE)
    with pytest.raises(InputError, match="expected a zip archive"):
        check_archive(tmp_path / "bad.zip", [])
    with pytest.raises(InputError, match=r"expected a zip archive, got .*No such file"):
        check_archive(tmp_path / "none.zip", [])


def test_range_is_judged_as_written() -> None:
    objects = parse_objects(LINE * 3, source="", scored=True)
    objects.yaw[0] = -np.pi
    objects.boxes_2d[1, 2] = objects.boxes_2d[1, 0] + 1e-8
    objects.scores[2] = np.inf  # type: ignore[index]
    assert in_range(objects).tolist() == [True, False, False]
    assert in_range(Objects.empty(scored=True)).tolist() == []
