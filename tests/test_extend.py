"""The code of docs/extend.md, trained, validated, evaluated, predicted and resumed through the command line."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.kitti.io import read_calibration, read_image, read_objects, read_split
from monoskd.kitti.layout import KittiLayout
from monoskd.models.weights import load_model
from monoskd.testing import check_detector

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files."""
    folder = tmp_path_factory.mktemp("extensions")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (folder / name).write_text(code)
    return folder


@pytest.fixture(autouse=True)
def _on_the_path(extensions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(extensions)


def config(root: Path, out: Path, detector: str | None, **entries: object) -> Path:
    document: dict[str, object] = {
        "data": {"root": str(root), "batch_size": 2, "workers": 0, "min_height_px": 5, **entries.pop("data", {})},
        "out": str(out),
        "epochs": 8,  # past the first five, which task learning waits for
        "optimizer": {"schedule": {"warmup_epochs": 1}},
        "validation": {"every": 4},
        "log_every": 1,
        **entries,
    }
    if detector is not None:
        modality = "depth" if out.name == "teacher" else "rgb"
        document["detector"] = {"class_path": detector, "init_args": {"config": {"modality": modality}}}
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("modality", ["rgb", "depth"])
@pytest.mark.parametrize("name", ["dense.Dense", "queries.Queries"])
def test_the_detectors_of_the_page_keep_their_promises(name: str, modality: str) -> None:
    torch.manual_seed(0)
    module = import_module(name.split(".")[0])
    detector = getattr(module, name.split(".")[1])
    check_detector(detector(module.Config(modality=modality, input_size=(192, 64))))


@pytest.mark.parametrize(
    ("detector", "response"), [("dense.Dense", "dense.DenseResponse"), ("queries.Queries", "queries.QueryResponse")]
)
def test_a_detector_of_ones_own_goes_the_whole_way(
    detector: str, response: str, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("teacher", "baseline"):
        assert main(["train", str(config(mixed, tmp_path / name, detector))]) == 0, capsys.readouterr().err
    baseline = tmp_path / "baseline" / "model.safetensors"
    distillation = {
        "teacher": str(tmp_path / "teacher" / "model.safetensors"),
        "taps": [{"student": "neck", "adapter": "conv"}],
        "terms": {
            "rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss"}},
            "affinity": {"loss": {"class_path": "monoskd.distill.AffinityLoss"}},
            "response": {"loss": {"class_path": response}, "between": "output"},
        },
    }
    student = config(
        mixed,
        tmp_path / "student",
        None,
        start=str(baseline),
        distillation=distillation,
        data={"unlabelled": {"threshold": 0.0}},
    )
    assert main(["train", str(student), "--epochs", "4"]) == 0, capsys.readouterr().err
    assert main(["train", str(student), "--resume", str(tmp_path / "student")]) == 0, capsys.readouterr().err
    log = (tmp_path / "student" / "metrics.csv").read_text()
    assert "train/distill_response" in log
    assert "val/Car_3d" in log or "val/Car_bev" in log
    assert list((tmp_path / "student" / "detections").glob("*.txt"))

    model = tmp_path / "student" / "model.safetensors"
    loaded = load_model(model)
    assert f"{type(loaded).__module__}.{type(loaded).__name__}" == detector
    table = tmp_path / "table.json"
    assert main(["evaluate", "--model", str(model), "--data", str(mixed), "--json", str(table)]) == 0
    assert json.loads(table.read_text())["frames"] == 2
    picture = next(KittiLayout(mixed).folder("image_2").glob("*.png"))
    arguments = [
        "--model",
        str(model),
        "--focal",
        "240",
        "--score",
        "0",
        "--draw",
        "--out",
        str(tmp_path / "predicted"),
    ]
    assert main(["predict", str(picture), *arguments]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "predicted" / "detections.json").read_text())["images"][0]["detections"]


def test_a_resumed_run_is_the_run_that_was_not_interrupted(mixed: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", str(config(mixed, whole, "queries.Queries"))]) == 0
    file = config(mixed, parts, "queries.Queries")
    assert main(["train", str(file), "--epochs", "3"]) == 0
    assert main(["train", str(file), "--resume", str(parts)]) == 0
    first, second = (load_model(run / "model.safetensors").state_dict() for run in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_file_opens_in_another_process(mixed: Path, tmp_path: Path, extensions: Path) -> None:
    assert main(["train", str(config(mixed, tmp_path / "run", "dense.Dense")), "--epochs", "1"]) == 0
    model = str(tmp_path / "run" / "model.safetensors")
    code = f"from monoskd import load_model; print(type(load_model({model!r})).__name__)"
    environment = {"PYTHONPATH": f"{extensions}:{Path(__file__).parents[1] / 'src'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Dense", done.stderr


@pytest.fixture
def recording(scenes: Path, tmp_path: Path) -> Path:
    """The rendered scenes as pictures with one JSON for each split, their cars called forklifts."""
    root, layout = tmp_path / "my_frames", KittiLayout(scenes)
    root.mkdir()
    for split in ("train", "val"):
        frames = {}
        for number, frame in enumerate(read_split(layout.split(split))):
            name = f"aisle {split} {number}"
            Image.fromarray(read_image(layout.image(frame))).save(root / f"{name}.png")
            objects = read_objects(layout.label(frame), scored=False)
            objects = objects[(objects.names == "Car") & (objects.occlusion >= 0)]
            boxes = [
                {"class": "Forklift", "box_2d": box, "size": size, "bottom": bottom, "yaw": yaw}
                for box, size, bottom, yaw in zip(
                    objects.boxes_2d.tolist(),
                    objects.dimensions.tolist(),
                    objects.bottom.tolist(),
                    objects.yaw.tolist(),
                    strict=True,
                )
            ]
            frames[name] = {"P": read_calibration(layout.calibration(frame)).camera.P.tolist(), "boxes": boxes}
        (root / f"{split}.json").write_text(json.dumps(frames))
    return root


def test_a_recording_of_ones_own_is_trained_validated_and_predicted(recording: Path, tmp_path: Path) -> None:
    page = yaml.safe_load(re.search(r"```yaml\n# recording.yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    page["data"] |= {"root": str(recording), "batch_size": 2, "workers": 0, "min_height_px": 5}
    page |= {"out": str(tmp_path / "run"), "epochs": 2}
    page["validation"] |= {"every": 1, "min_heights_px": [5, 5, 5]}
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(page))
    assert main(["train", str(tmp_path / "page.yaml")]) == 0
    log = (tmp_path / "run" / "metrics.csv").read_text()
    assert "val/Forklift_3d" in log
    assert "val/depth_error_m_median" in log
    model, picture = tmp_path / "run" / "model.safetensors", recording / "aisle val 0.png"
    assert (
        main(
            [
                "predict",
                str(picture),
                "--model",
                str(model),
                "--hfov",
                "80",
                "--score",
                "0",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert (tmp_path / "out" / "kitti" / "aisle val 0.txt").read_text().startswith("Forklift")
    table = tmp_path / "table.json"
    words = [
        "--data",
        str(recording),
        "--dataset",
        "recording.Recording",
        "--classes",
        "Forklift",
        "--json",
        str(table),
    ]
    assert main(["evaluate", "--model", str(model), *words]) == 0
    assert {row["class"] for row in json.loads(table.read_text())["results"]} == {"Forklift"}


def test_a_metric_of_ones_own_is_logged(mixed: Path, tmp_path: Path) -> None:
    validation = {"every": 1, "evaluator": {"class_path": "metric.Count"}}
    assert (
        main(["train", str(config(mixed, tmp_path / "run", "dense.Dense", validation=validation)), "--epochs", "1"])
        == 0
    )
    log = (tmp_path / "run" / "metrics.csv").read_text()
    assert "val/found" in log
    assert "val/there" in log


def test_a_task_graph_that_does_not_fit_is_refused(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dense

    from monoskd.engine.load import load_config
    from monoskd.engine.run import train

    monkeypatch.setattr(dense.Dense, "task_graph", {"depth": ("heat",), "heat": ()}, raising=False)
    with pytest.raises(InputError, match=r"task_learning: expected a loss for every task .* got none for 'depth'"):
        train(load_config(config(mixed, tmp_path / "run", "dense.Dense")))
    monkeypatch.setattr(dense.Dense, "task_graph", {"values": ("size",)}, raising=False)
    with pytest.raises(InputError, match=r"task_graph: expected every prerequisite to be a task .* 'size'"):
        train(load_config(config(mixed, tmp_path / "other", "dense.Dense")))


def test_depth_of_the_page_is_in_metres(scenes: Path) -> None:
    """A dense network that says exactly its targets decodes to the labelled boxes."""
    import dense

    from monoskd.data.samples import Samples
    from monoskd.kitti.source import KittiFrames
    from monoskd.structures import Batch, DetectorOutput

    detector = dense.Dense(dense.Config(input_size=(416, 128)))
    samples = Samples(
        KittiFrames(scenes, "train"), input_size=(416, 128), targets=detector.target_maker(min_height_px=8)
    )
    batch = Batch.collate([samples[0]])
    targets, views = batch.targets, batch.views("rgb")
    heads = {"heat": torch.logit(targets.heatmap.clamp(1e-4, 1 - 1e-4)), "values": torch.zeros(1, 8, 32, 104)}
    heads["values"][0, :, targets.cell[:, 1], targets.cell[:, 0]] = targets.values.T
    detections = detector.decode(DetectorOutput({}, heads), views)[0].above(0.99)
    depth_m = heads["values"][0, 2, targets.cell[:, 1], targets.cell[:, 0]].exp()  # two objects may share a cell
    assert len(detections) == len(depth_m.unique()) > 0
    np.testing.assert_allclose(detections.boxes_3d.bottom[:, 2].sort().values, depth_m.unique(), rtol=1e-4)
