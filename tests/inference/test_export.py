"""onnxruntime runs what PyTorch runs; the oracle is the detector itself."""

import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from monoskd import __version__
from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.frames import Frame
from monoskd.geometry.camera import Camera, Letterbox, PublishedLetterbox
from monoskd.inference import inputs
from monoskd.inference.export import calibration, check_batch_is_free, export, graph_of
from monoskd.inference.onnx_precision import in_half, in_int8
from monoskd.inference.onnx_predictor import OnnxPredictor
from monoskd.inference.onnx_seal import check_seal, sealed
from monoskd.inference.open_model import open_predictor
from monoskd.inference.predictor import Fit, Predictor
from monoskd.kitti.io import read_calibration, read_image
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.monocon import MonoCon, MonoConConfig
from monoskd.models.monocon.normalisation import AttentiveNorm
from monoskd.models.monodle import MonoDLE, MonoDLEConfig
from monoskd.models.weights import load_model, save_model
from monoskd.structures import Detector, Views

FOCALS_PX = (150.0, 300.0, 700.0)
FLAT = 0.11  # just above the prior of the heat, 0.1007
SMALL = {"pretrained": False, "backbone": "resnet10t", "head_width": 8, "input_size": (128, 64)}


def varied(detector: Detector) -> Detector:
    """The detector with weights that tell cells apart: an untrained one says nearly the same everywhere."""
    torch.manual_seed(1)
    for name, module in detector.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of all that it has seen
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            small = {
                "size_3d": 0.1,
                "heatmap": 0.3,
                "depth": 0.3,
                "log": 0.3,
            }  # no negative sizes, no heat of exactly 1
            gain = next((gain for part, gain in small.items() if part in name), 1.0)
            module.weight.data.normal_(std=gain / module.weight[0].numel() ** 0.5)
    width, height = detector.input_size
    images = torch.rand(4, 3, height, width) if detector.modality == "rgb" else 60 * torch.rand(4, 1, height, width)
    camera = Camera(torch.tensor([[[180.0, 0, 64, 0], [0, 180, 32, 0], [0, 0, 1, 0]]] * 4))
    letterbox = Letterbox(torch.ones(4), torch.zeros(4, 2), detector.input_size)
    if detector.published_input:
        region = torch.tensor([[[0.0, 0.0], detector.input_size]] * 4)
        letterbox = PublishedLetterbox(letterbox.scale, letterbox.shift, letterbox.size, region)
    with torch.no_grad():
        detector.train()(Views(images, camera, letterbox))
    return detector.eval()


def did_m3d(**settings: object) -> Detector:
    torch.manual_seed(0)
    return varied(DidM3D(DidM3DConfig(**{**SMALL, **settings})))  # type: ignore[arg-type]


def monodle(**settings: object) -> Detector:
    torch.manual_seed(0)
    return varied(MonoDLE(MonoDLEConfig(**{**SMALL, **settings})))  # type: ignore[arg-type]


def monocon(**settings: object) -> Detector:
    torch.manual_seed(0)
    detector = MonoCon(MonoConConfig(**{**SMALL, **settings}))  # type: ignore[arg-type]
    for module in detector.modules():
        if isinstance(module, AttentiveNorm):
            module.scale.data /= 5  # as large as what other detectors' hidden layers say
    return varied(detector)


@dataclass
class Exported:
    """A detector in both kinds of file."""

    model: Path
    graph: Path


def exported(detector: Detector, folder: Path) -> Exported:
    model, graph = folder / "model.safetensors", folder / "model.onnx"
    save_model(detector, model, provenance={"config": "made for a test", "best_score": 0.0625})
    assert main(["export", "--model", str(model), "--out", str(graph)]) == 0
    return Exported(model, graph)


@pytest.fixture(scope="module", params=[did_m3d, monodle, monocon])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A student that was trained at 180 network pixels."""
    return exported(request.param(input_focal_px=180.0), tmp_path_factory.mktemp("exported"))


def noise(width: int, height: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def assert_equal(files: Exported, frames: list[Frame], *, fit: Fit = "focal", least: int = 1) -> None:
    """Both kinds of file find the same, within 1e-3, where the heat map is higher than on the black bars.

    There it is that of the heads' prior in many cells, and rounding says which of them count as a peak. What lies
    wholly beside the picture is compared, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "shown", lambda detections, sizes, published: list(detections))
        wanted_rows = Predictor(files.model, fit=fit).batch(frames)
        found_rows = OnnxPredictor(files.graph, fit=fit).batch(frames)
    for wanted, found in zip(wanted_rows, found_rows, strict=True):
        wanted, found = wanted[wanted.heat > FLAT], found[found.heat > FLAT]
        assert len(found) == len(wanted) >= least
        assert found.classes == wanted.classes
        assert (np.diff(found.scores) <= 0).all()
        far = np.abs(wanted.boxes_2d.numpy()[:, None] - found.boxes_2d).max(2)
        far[wanted.labels.numpy()[:, None] != found.labels] = np.inf
        row = far.argmin(1)  # scores that are equal to the last digit may swap places
        assert sorted(row) == list(range(len(wanted)))
        found = found[row]
        for name in ("labels", "scores", "boxes_2d", "alpha", "heat", "depth_std_m"):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-3, rtol=1e-3, err_msg=name)
        for name in ("bottom", "dimensions", "yaw"):
            of_both = (getattr(boxes, name) for boxes in (found.boxes_3d, wanted.boxes_3d))
            np.testing.assert_allclose(*of_both, atol=1e-3, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("fit", ["focal", "size"])
def test_random_pictures(pair: Exported, fit: Fit) -> None:
    for count in (1, 3):
        for focal_px in FOCALS_PX:
            camera = Camera.from_focal(focal_px, width=160, height=80)
            assert_equal(pair, [Frame(noise(160, 80, seed), camera) for seed in range(count)], fit=fit)


def test_pictures_of_streets(pair: Exported, scenes: Path) -> None:
    assert_equal(pair, frames_of(scenes, 3))
    assert_equal(pair, frames_of(scenes, 1), fit="size")


@pytest.mark.kitti
def test_real_pictures(pair: Exported, kitti: Path) -> None:
    assert_equal(pair, frames_of(kitti, 3))


def frames_of(root: Path, count: int) -> list[Frame]:
    paths = sorted((root / "training" / "image_2").glob("*.png"))[:count]
    calibrations = [root / "training" / "calib" / f"{path.stem}.txt" for path in paths]
    return [
        Frame(read_image(path), read_calibration(calibration).camera)
        for path, calibration in zip(paths, calibrations, strict=True)
    ]


def test_the_file_says_what_it_is(pair: Exported) -> None:
    model = onnx.load(pair.graph)
    onnx.checker.check_model(model, full_check=True)
    assert (model.producer_name, model.producer_version) == ("monoskd", __version__)
    said = json.loads({entry.key: entry.value for entry in model.metadata_props}["monoskd"])
    detector = load_model(pair.model)
    assert said["schema"] == "monoskd/onnx/1"
    assert tuple(said["classes"]) == detector.classes
    assert (said["modality"], said["input_size"], said["input_multiple"]) == ("rgb", [128, 64], 32)
    assert (said["input_focal_px"], said["reference_focal_px"]) == (180.0, 721.5377)
    assert said["precision"] == "float32"
    assert "KITTI" in said["licence"]
    assert said["provenance"] == {"config": "made for a test", "best_score": 0.0625}
    assert OnnxPredictor(pair.graph).score == Predictor(pair.model).score == 0.0625
    assert b"src/monoskd" not in pair.graph.read_bytes()  # the exporter notes where the source of each node is


def test_the_graph_takes_pixels_and_the_camera_and_any_batch(pair: Exported) -> None:
    graph = onnx.load(pair.graph).graph
    assert "GridSample" not in {node.op_type for node in graph.node}  # TensorRT is known to get it wrong
    session = onnxruntime.InferenceSession(pair.graph, providers=["CPUExecutionProvider"])
    kinds = {part.name: (part.type, part.shape[-1]) for part in session.get_inputs()}
    wanted = {"pixels": ("tensor(uint8)", 3), "projection": ("tensor(float)", 4), "letterbox": ("tensor(float)", 3)}
    assert kinds == wanted
    outputs = {part.name: part.shape for part in session.get_outputs()}
    assert outputs["score"] == ["batch", 50]
    assert outputs["bottom_centre_m"] == ["batch", 50, 3]
    assert all(shape[0] == "batch" for shape in outputs.values())


def test_a_picture_of_the_networks_size_needs_no_letterbox(pair: Exported) -> None:
    """What docs/export.md shows: the camera of the resized picture and the letterbox 1, 0, 0 give the same metres."""
    image = noise(64, 32, 0)
    large = cv2.resize(image, (128, 64))
    camera = Camera.from_focal(180.0, width=128, height=64)
    session = onnxruntime.InferenceSession(pair.graph, providers=["CPUExecutionProvider"])
    inputs = {
        "pixels": large[None],
        "projection": camera.P[None].astype(np.float32),
        "letterbox": np.array([[1, 0, 0]], np.float32),
    }
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, inputs), strict=True))
    wanted = OnnxPredictor(pair.graph)(large, camera)
    assert (found["score"][0, :-1] >= found["score"][0, 1:]).all()
    boxes = found["box_2d_px"][0]
    chosen = (boxes[:, 2:] > 0).all(1) & (boxes[:, :2] < [128, 64]).all(1) & (found["score"][0] >= 0)
    assert 0 < chosen.sum() == len(wanted)
    assert np.array_equal(found["score"][0, chosen], wanted.scores)
    assert np.array_equal(found["bottom_centre_m"][0, chosen], wanted.boxes_3d.bottom)


def test_an_exported_network_is_evaluated_as_its_model_file(
    pair: Exported, scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate, asked = evaluate_kitti, []
    monkeypatch.setattr(
        "monoskd.engine.evaluate.evaluate_kitti", lambda *given, **options: asked.append(given) or evaluate(*given)
    )
    words = ["evaluate", "--data", str(scenes), "--batch-size", "3"]
    tables = []
    for model in (pair.model, pair.graph):
        assert main([*words, "--model", str(model)]) == 0
        tables.append(capsys.readouterr().out)
    (truth, wanted), (same_truth, found) = asked
    assert tables[0] == tables[1]
    assert [*map(len, truth)] == [*map(len, same_truth)]
    assert [*map(len, wanted)] == [*map(len, found)]
    assert sum(map(len, found))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)


def test_predict_writes_the_same_without_torch(pair: Exported, tmp_path: Path) -> None:
    for seed in range(2):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), noise(160, 96, seed))  # it fills the input: no plateau of equal heat
    words = ["predict", str(tmp_path / "*.png"), "--focal", "180", "--score", "0.01", "--draw", "--batch-size", "2"]
    outs = [tmp_path / "torch", tmp_path / "onnx"]
    assert main([*words, "--model", str(pair.model), "--out", str(outs[0])]) == 0
    words += ["--model", str(pair.graph), "--out", str(outs[1])]
    code = f"import sys; from monoskd.cli import main; sys.exit(main({words!r}) or 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert all(len(list((out / "drawn").iterdir())) == 2 for out in outs)
    written = [json.loads((out / "detections.json").read_text())["images"] for out in outs]
    for wanted, found in zip(*written, strict=True):
        assert found["camera"] == wanted["camera"]
        assert len(found["detections"]) == len(wanted["detections"]) > 0
        for one, other in zip(found["detections"], wanted["detections"], strict=True):
            assert one["class"] == other["class"]
            for key in one.keys() - {"class"}:
                np.testing.assert_allclose(one[key], other[key], atol=1e-3, rtol=1e-3)


def test_convolutions_in_float16_leave_positions_alone(pair: Exported, tmp_path: Path) -> None:
    half = in_half(onnx.load(pair.graph))
    onnx.checker.check_model(half, full_check=True)
    (tmp_path / "half.onnx").write_bytes(sealed(half))
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    weights = [kinds[node.input[1]] for node in half.graph.node if node.op_type == "Conv"]
    assert set(weights) == {onnx.TensorProto.FLOAT16}
    assert_near(pair.graph, tmp_path / "half.onnx", pixels=0.1, metres=0.05)


def test_int8_is_calibrated_on_training_frames(pair: Exported, scenes: Path, tmp_path: Path) -> None:
    whole = onnx.load(pair.graph)
    network = OnnxPredictor(pair.graph).input
    inputs = list(calibration(network, scenes))
    assert [one["pixels"].shape[0] for one in inputs] == [1] * 4
    small = in_int8(whole, inputs)
    (tmp_path / "int8.onnx").write_bytes(sealed(small))
    weights = {tensor.data_type for tensor in small.graph.initializer if len(tensor.dims) == 4}
    assert onnx.TensorProto.INT8 in weights
    assert (tmp_path / "int8.onnx").stat().st_size < 0.4 * pair.graph.stat().st_size
    assert OnnxPredictor(tmp_path / "int8.onnx").classes == OnnxPredictor(pair.graph).classes


def assert_near(whole: Path, small: Path, *, pixels: float, metres: float) -> None:
    """The best detection of a small file is, nearly, one of the whole file."""
    camera = Camera.from_focal(300.0, width=160, height=80)
    wanted, found = (OnnxPredictor(path)(noise(160, 80, 0), camera) for path in (whole, small))
    row = np.abs(wanted.boxes_2d - found.boxes_2d[0]).max(1).argmin()
    assert np.abs(wanted.boxes_2d[row] - found.boxes_2d[0]).max() < pixels
    assert np.abs(wanted.boxes_3d.bottom[row] - found.boxes_3d.bottom[0]).max() < metres


def test_int8_needs_frames_to_calibrate_on(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--model", str(model), "--out", str(tmp_path / "m.onnx")]
    assert main([*words, "--int8"]) == 2
    assert "--data: expected a data set to calibrate int8 with, got none" in capsys.readouterr().err
    assert main([*words, "--half", "--data", str(tmp_path)]) == 2
    assert f"got {tmp_path} for float16: give both or neither" in capsys.readouterr().err
    assert main([*words, "--half", "--int8"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("make", [did_m3d, monodle, monocon])
def test_a_teacher(make: object, tmp_path: Path) -> None:
    files = exported(make(modality="depth", input_focal_px=180.0), tmp_path)  # type: ignore[operator]
    rng = np.random.default_rng(0)
    for count in (1, 3):
        for focal_px in FOCALS_PX:
            camera = Camera.from_focal(focal_px, width=160, height=80)
            maps = [rng.uniform(0, 60, (80, 160)).astype(np.float32) for _ in range(count)]
            assert_equal(files, [Frame(noise(160, 80, 0), camera, depth_m) for depth_m in maps])
    with pytest.raises(InputError, match="a depth network needs a depth map beside each picture"):
        OnnxPredictor(files.graph)(noise(160, 80, 0), camera)


def test_pictures_with_depth_are_not_exported() -> None:
    with pytest.raises(InputError, match="a network that sees pictures or depth maps, got one that needs both"):
        graph_of(DidM3D(DidM3DConfig(**{**SMALL, "modality": "rgbd"})))


@pytest.mark.slow
@pytest.mark.parametrize("make", [did_m3d, monodle])
def test_a_published_network(make: object, tmp_path: Path) -> None:
    """Its letterbox is another one, and its input has one size."""
    files = exported(make(geometry="published"), tmp_path)  # type: ignore[operator]
    for size in ((160, 80), (90, 160)):
        camera = Camera.from_focal(300.0, width=size[0], height=size[1])
        assert_equal(files, [Frame(noise(*size, seed), camera) for seed in range(3)])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of somebody else."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, real, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", ends[:1], ends[1:])
    path = tmp_path_factory.mktemp("foreign") / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def described(foreign: Path, out: Path, **changes: object) -> Path:
    """Somebody else's graph with a description such as ours, changed."""
    said = {"schema": "monoskd/onnx/1", "version": "0", "commit": None, "detector": "x", "modality": "rgb"}
    said |= {"classes": ["Car"], "input_size": [128, 64], "input_multiple": 32, "input_focal_px": None}
    said |= {"reference_focal_px": None, "published_input": False, "precision": "float32", "licence": ""}
    model = onnx.load(foreign)
    onnx.helper.set_model_props(model, {"monoskd": json.dumps({**said, "provenance": {}, **changes})})
    out.write_bytes(sealed(model))
    return out


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema": "monoskd/onnx/9"}, "expected schema monoskd/onnx/1, got monoskd/onnx/9"),
        ({"classes": []}, r"expected a description in JSON, got .*classes.*; the file is damaged"),
        ({"input_size": 3}, r"expected a description in JSON, got .*; the file is damaged"),
        ({"input_multiple": 0}, r"expected a description in JSON, got .*input_multiple.*; the file is damaged"),
        ({"input_focal_px": -1}, r"expected a description in JSON, got .*input_focal_px.*; the file is damaged"),
        ({"more": 1}, r"expected a description in JSON, got .*more.*; the file is damaged"),
        ({}, r"expected the inputs pixels, projection and letterbox .*, got x and y: export it again"),
    ],
)
def test_a_wrong_description_is_one_line(foreign: Path, tmp_path: Path, changes: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        OnnxPredictor(described(foreign, tmp_path / "changed.onnx", **changes))


def test_files_that_are_none_of_ours(foreign: Path, pair: Exported, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an ONNX file of monoskd, got one without its description"):
        open_predictor(foreign)
    with pytest.raises(InputError, match="expected an ONNX file, got no file; `monoskd export` writes them"):
        open_predictor(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match="expected an ONNX file, got a folder"):
        open_predictor(tmp_path / "folder.onnx")
    content = pair.graph.read_bytes()
    for name, bad in {"cut": content[: len(content) // 2], "empty": b"", "text": b"no network"}.items():
        (tmp_path / f"{name}.onnx").write_bytes(bad)
        expected = "the file as it was exported" if name == "cut" else "an ONNX file"
        with pytest.raises(InputError, match=rf"{name}\.onnx: expected {expected}.*") as caught:
            open_predictor(tmp_path / f"{name}.onnx")
        assert "\n" not in str(caught.value)


def test_any_flipped_bit_is_found(foreign: Path, tmp_path: Path) -> None:
    content, path = described(foreign, tmp_path / "small.onnx").read_bytes(), tmp_path / "flipped.onnx"
    assert len(content) < 1000
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=r"flipped\.onnx: expected the file as it was exported, got a changed one"):
            check_seal(path)


def test_a_huge_sparse_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(InputError, match=r"huge\.onnx: expected a file of at most 2048 MiB, got 3072 MiB"):
        check_seal(tmp_path / "huge.onnx")


def test_a_changed_file_is_not_run_until_it_is_sealed_again(pair: Exported, tmp_path: Path) -> None:
    graph, path = onnx.load(pair.graph), tmp_path / "changed.onnx"
    (seal,) = (entry for entry in graph.metadata_props if entry.key == "monoskd_sha256")
    graph.metadata_props.remove(seal)
    onnx.save(graph, path)
    with pytest.raises(InputError, match="got a changed one: its checksum differs or is missing; copy or export it"):
        OnnxPredictor(path)
    path.write_bytes(sealed(graph))
    assert OnnxPredictor(path).classes == OnnxPredictor(pair.graph).classes


def test_a_device_that_is_not_there(pair: Exported) -> None:
    with pytest.raises(InputError, match=r"device: expected one that onnxruntime has here, such as cpu, got quantum"):
        OnnxPredictor(pair.graph, device="quantum")
    with pytest.raises(InputError, match="fit: expected focal or size, got 'width'"):
        OnnxPredictor(pair.graph, fit="width")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_one_line(
    module: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["export", "--model", str(model), "--out", str(tmp_path / "m.onnx")]) == 2
    assert f"expected the package {module}" in (said := capsys.readouterr().err)
    assert "pip install 'monoskd[export]'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "m.onnx").exists()


def test_running_without_onnxruntime_says_what_to_install(pair: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"expected onnxruntime to run it.*pip install 'monoskd\[export\]'"):
        open_predictor(pair.graph)


def test_a_fixed_number_of_images_is_refused(foreign: Path, pair: Exported) -> None:
    check_batch_is_free(onnx.load(pair.graph))
    with pytest.raises(InputError, match="got one whose x have a fixed number: take it from a tensor's shape"):
        check_batch_is_free(onnx.load(foreign))


def test_what_the_exporter_advises_is_not_shown(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object, **__: object) -> None:
        logging.getLogger("onnxscript").warning("not folded")
        raise torch.onnx.errors.OnnxExporterError("no such operation")

    monkeypatch.setattr(torch.onnx, "export", failing)
    with pytest.raises(InputError, match="whose operations ONNX has, got DidM3D: no such operation"):
        graph_of(load_model(model))
    assert not caplog.records


def test_names_and_detectors_that_cannot_be_exported(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in \.onnx, got m\.pt"):
        export(model, tmp_path / "m.pt")
    with pytest.raises(InputError, match="expected a model file, got no file"):
        export(tmp_path / "none.safetensors", tmp_path / "m.onnx")

    class Bare(DidM3D):
        candidates = Detector.candidates

    with pytest.raises(InputError, match="got Bare, which has no `candidates`"):
        graph_of(Bare(DidM3DConfig(**SMALL)))  # type: ignore[arg-type]
