from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from monoskd.engine.evaluate import evaluate_folders, evaluate_predictor
from monoskd.engine.measure import Measurement, labelled_batches, measure
from monoskd.errors import InputError
from monoskd.frames import Frame, Modality
from monoskd.inference.cameras import CameraSource
from monoskd.inference.predict import predict_source
from monoskd.inference.predictor import Predictor
from monoskd.kitti.io import read_split
from monoskd.kitti.source import KittiFrames
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.weights import save_model
from monoskd.objects import Objects

CONFIG = DidM3DConfig(
    pretrained=False, backbone_arguments={"channels": [4, 4, 8, 8, 8, 8]}, head_width=8, input_size=(128, 64)
)


@pytest.fixture(scope="module")
def detector() -> DidM3D:
    torch.manual_seed(0)
    return DidM3D(CONFIG)


def test_a_model_scores_as_its_predicted_files_do(detector: DidM3D, scenes: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    save_model(detector, model, provenance={})
    progress: list[tuple[int, int]] = []
    source = KittiFrames(scenes, split="val", depth=False)
    direct = evaluate_predictor(Predictor(model), source, progress=lambda *now: progress.append(now))
    assert progress == [(1, 2), (2, 2)]

    training = scenes / "training"
    cameras = CameraSource(calibration=training / "calib")
    predict_source(Predictor(model), training / "image_2", cameras=cameras, out=tmp_path / "out", score=0.0)
    folders = {"labels": training / "label_2", "predictions": tmp_path / "out" / "kitti"}
    from_files = evaluate_folders(**folders, split=scenes / "ImageSets" / "val.txt")
    assert from_files.frames == direct.frames == 2
    for row, expected in zip(from_files.rows(), direct.rows(), strict=True):
        assert row == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("modality", ["rgb", "depth"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_predictor_is_asked_what_validation_asks(
    modality: Modality, batch_size: int, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    detector = DidM3D(replace(CONFIG, modality=modality)).eval()
    compared: list[list[Objects]] = []
    monkeypatch.setattr("monoskd.engine.evaluate.evaluate_kitti", lambda *given, **options: compared.extend(given))
    source = KittiFrames(scenes, split="trainval", depth=modality == "depth")
    evaluate_predictor(Predictor(detector), source, batch_size=batch_size)
    measured = measure(detector, labelled_batches(detector, scenes, split="trainval"), Measurement())
    for objects, expected in zip(compared, (measured.truth, measured.detections), strict=True):
        assert [*map(len, objects)] == [*map(len, expected)]
        assert sum(map(len, objects))
    for found, expected_objects in zip(compared[1], measured.detections, strict=True):
        assert found.scores == pytest.approx(expected_objects.scores, rel=1e-4)
        assert found.bottom == pytest.approx(expected_objects.bottom, rel=1e-3, abs=1e-3)


class Odd(KittiFrames):
    """A recording of one's own that goes wrong at its second frame."""

    def __init__(self, root: Path, go_wrong: Callable[[Frame], Frame]) -> None:
        super().__init__(root, split="trainval", depth=False)
        self.go_wrong = go_wrong

    def read(self, name: str) -> Frame:
        frame = super().read(name)
        return self.go_wrong(frame) if name == self.names[1] else frame


def test_a_frame_that_cannot_be_predicted_is_named(detector: DidM3D, scenes: Path) -> None:
    def grey(frame: Frame) -> Frame:
        return replace(frame, image=frame.image[..., 0])

    source = Odd(scenes, grey)
    with pytest.raises(InputError, match=f"^{source.names[1]}: image: expected a numpy array of RGB pixels"):
        evaluate_predictor(Predictor(detector), source)
    with pytest.raises(InputError, match=f"^{source.names[0]} to {source.names[3]}: image: expected"):
        evaluate_predictor(Predictor(detector), source, batch_size=4)


def test_a_recording_that_stops_early_is_no_evaluation_of_its_first_frames(detector: DidM3D, scenes: Path) -> None:
    source = Odd(scenes, lambda frame: next(iter([])))
    with pytest.raises(RuntimeError, match="StopIteration"):
        evaluate_predictor(Predictor(detector), source)


def test_a_class_that_nobody_knows_is_refused_before_the_work(detector: DidM3D, scenes: Path) -> None:
    frames: list[int] = []
    with pytest.raises(InputError, match="classes: expected some of Pedestrian, Car, Cyclist, got 'Tram'"):
        evaluate_predictor(
            Predictor(detector),
            KittiFrames(scenes, split="val", depth=False),
            classes=["Tram"],
            progress=lambda done, total: frames.append(done),
        )
    assert not frames


def test_the_files_of_a_split_hold_what_measuring_saw(detector: DidM3D, scenes: Path, tmp_path: Path) -> None:
    measured = measure(detector, labelled_batches(detector, scenes, split="trainval"), Measurement())
    names = read_split(scenes / "ImageSets" / "trainval.txt")
    assert len(measured.detections) == len(measured.truth) == len(names)
    predictor, layout = Predictor(detector), scenes / "training"
    cameras = CameraSource(calibration=layout / "calib")
    for name, objects in zip(names[:2], measured.detections, strict=False):
        out = tmp_path / name
        predict_source(predictor, layout / "image_2" / f"{name}.png", cameras=cameras, out=out, score=0.0)
        lines = (out / "kitti" / f"{name}.txt").read_text().splitlines()
        assert len(lines) == len(objects)
        scores = sorted(float(line.split()[-1]) for line in lines)
        assert scores == pytest.approx(sorted(objects.scores), abs=1e-5)


def test_the_depth_error_is_that_of_every_supervised_object(detector: DidM3D, scenes: Path) -> None:
    batches = labelled_batches(detector, scenes, split="trainval")
    supervised = sum(len(batch.targets.label) for batch in batches)
    measured = measure(detector, batches, Measurement())
    assert len(measured.errors["depth_error_m"]) == supervised > 0
    errors = measured.depth_error_m()
    assert errors["median"] == pytest.approx(
        float(torch.tensor(measured.errors["depth_error_m"]).quantile(0.5)), rel=1e-5
    )
    assert errors["mean"] == pytest.approx(sum(measured.errors["depth_error_m"]) / supervised)


def test_measuring_in_parts_is_measuring_at_once(detector: DidM3D, scenes: Path, tmp_path: Path) -> None:
    whole = measure(detector, labelled_batches(detector, scenes, split="trainval"), Measurement())
    single = labelled_batches(detector, scenes, split="trainval", batch_size=1)
    parts = measure(detector, single, Measurement())
    assert parts.errors["depth_error_m"] == pytest.approx(whole.errors["depth_error_m"], abs=1e-3)
    assert [*map(len, parts.detections)] == [*map(len, whole.detections)]


def test_without_objects_there_is_no_depth_error() -> None:
    empty = Measurement(truth=[Objects.empty()], detections=[Objects.empty(scored=True)])
    assert empty.depth_error_m() == {"median": None, "mean": None}
    assert not any(name.startswith("depth_error") for name in empty.summary())
    empty.clear()
    assert empty.truth == empty.detections == []
