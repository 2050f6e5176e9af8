"""`--rerun`: what Rerun's own reader finds in the recording."""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.inference.cameras import CameraSource
from monoskd.inference.predict import predict_source
from monoskd.inference.predictor import Predictor

BOXES_2D = "/world/camera/picture/boxes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures."""
    path = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate("ab"):
        cv2.imwrite(str(path / f"{name}.png"), np.random.default_rng(seed).integers(0, 255, (60, 90, 3), np.uint8))
    return path


def recorded(path: Path) -> dict[str, dict[str, list[Any]]]:
    """The columns of each entity, over the timeline."""
    chunk = pytest.importorskip("rerun.chunk")
    found: dict[str, dict[str, list[Any]]] = {}
    for part in chunk.RrdReader(str(path)).stream():
        columns = found.setdefault(part.entity_path, {})
        batch = part.to_record_batch()
        numbers = [name for name in batch.schema.names if name != "log_time"]  # in Python, nanoseconds need pandas
        for name, values in batch.select(numbers).to_pydict().items():
            columns.setdefault(name, []).extend(values)
    return found


def written(model: Path, folder: Path, out: Path, **camera: float) -> tuple[dict[str, dict[str, list[Any]]], list[Any]]:
    """The recording, and what the document says of the same pictures."""
    cameras = CameraSource(focal_px=100.0, **camera)
    predict_source(Predictor(model), folder, cameras=cameras, out=out, score=0.0, rerun=out / "film.rrd")
    assert not list(out.glob(".*.rrd"))
    return recorded(out / "film.rrd"), json.loads((out / "detections.json").read_text())["images"]


def test_a_recording_that_does_not_fit_on_the_disk_is_said(
    model: Path, folder: Path, tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    pytest.importorskip("rerun")
    film, out = tmp_path / "film.rrd", tmp_path / "out"
    film.write_bytes(b"the recording that was there before")
    with (
        largest_file(8000),
        pytest.raises(InputError, match=r"film\.rrd: expected a recording of 2 pictures, .* \(File too large\)"),
    ):
        predict_source(Predictor(model), folder, cameras=CameraSource(focal_px=100.0), out=out, score=1.0, rerun=film)
    assert [path.read_bytes() for path in tmp_path.glob("*.rrd")] == [b"the recording that was there before"]
    assert not list(tmp_path.glob(".*"))


def test_a_recording_has_pictures_boxes_and_the_camera(model: Path, folder: Path, tmp_path: Path) -> None:
    found, said = written(model, folder, tmp_path)
    for entity in ("/world/camera", "/world/camera/picture", BOXES_2D, "/world/boxes"):
        assert found[entity]["frame"] == [0, 1]
    for frame, image in enumerate(said):
        camera, three, two = (found[name] for name in ("/world/camera", "/world/boxes", BOXES_2D))
        K = np.reshape(camera["Pinhole:image_from_camera"][frame][0], (3, 3)).T  # Rerun's are column by column
        np.testing.assert_allclose(K, np.array(image["camera"]["projection"])[:, :3])
        assert camera["Pinhole:resolution"][frame] == [[90, 60]]
        centres, half = (np.array(two[f"Boxes2D:{name}"][frame]) for name in ("centers", "half_sizes"))
        boxes = [one["box_2d_px"] for one in image["detections"]]
        np.testing.assert_allclose(np.hstack([centres - half, centres + half]), boxes, rtol=1e-4, atol=1e-3)
        corners = corners_of(three, frame)
        wanted = [np.array(one["corners_m"]) for one in image["detections"]]
        assert len(wanted) > 0
        for own, other in zip(corners, wanted, strict=True):
            far = np.linalg.norm(own[:, None] - other, axis=2)
            assert sorted(far.argmin(1)) == list(range(8))
            assert far.min(1).max() < 1e-4 * np.abs(other).max()
        jpeg = np.asarray(found["/world/camera/picture"]["EncodedImage:blob"][frame][0], np.uint8)
        assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (60, 90, 3)


def corners_of(boxes: dict[str, list[Any]], frame: int) -> np.ndarray:
    """Eight corners of each box, by scipy's rotations."""
    centres, half, turns = (
        np.array(boxes[f"Boxes3D:{name}"][frame]) for name in ("centers", "half_sizes", "quaternions")
    )
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    return np.array(
        [
            centre + Rotation.from_quat(turn).apply(signs * size)
            for centre, size, turn in zip(centres, half, turns, strict=True)
        ]
    )


def test_2d_boxes_of_a_tilted_camera_lie_on_the_picture_as_it_was(model: Path, folder: Path, tmp_path: Path) -> None:
    found, said = written(model, folder, tmp_path, pitch_deg=5.0)
    assert BOXES_2D not in found
    assert len(found["/picture/boxes"]["Boxes2D:centers"][0]) == len(said[0]["detections"])
    shapes = [
        cv2.imdecode(np.asarray(found[name]["EncodedImage:blob"][0][0], np.uint8), cv2.IMREAD_COLOR).shape[:2]
        for name in ("/picture", "/world/camera/picture")
    ]
    assert shapes[0] == (60, 90)
    assert found["/world/camera"]["Pinhole:resolution"][0] == [[shapes[1][1], shapes[1][0]]]


def test_a_frame_without_detections_clears_those_before_it(model: Path, folder: Path, tmp_path: Path) -> None:
    predict_source(
        Predictor(model),
        folder,
        cameras=CameraSource(focal_px=100.0),
        out=tmp_path,
        score=1.0,
        rerun=tmp_path / "film.rrd",
    )
    found = recorded(tmp_path / "film.rrd")
    assert found["/world/boxes"]["Boxes3D:centers"] == found[BOXES_2D]["Boxes2D:centers"] == [[], []]


def refusal(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*map(str, words)]) == 2
    return capsys.readouterr().err.strip()


def test_what_cannot_be_recorded_is_one_line(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", folder, "--model", model, "--focal", 100, "--out", tmp_path / "out", "--rerun"]
    assert refusal([*words, tmp_path / "film.mp4"], capsys).endswith(
        "film.mp4: expected a name that ends in .rrd, got film.mp4: change it"
    )
    assert "--rerun: expected no --ray" in refusal([*words, tmp_path / "film.rrd", "--ray", "local"], capsys)
    monkeypatch.setitem(sys.modules, "rerun", None)
    line = refusal([*words, tmp_path / "film.rrd"], capsys)
    assert "--rerun: expected the package rerun-sdk, got" in line
    assert line.endswith("pip install 'monoskd[viz]'")
    assert "\n" not in line
    assert not (tmp_path / "out").exists()
