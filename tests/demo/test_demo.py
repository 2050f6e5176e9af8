import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from monoskd.cli import main
from monoskd.demo.report import DRAWN, DemoReport, RunResult, write_report
from monoskd.demo.story import RUNS, STAGES, demo, launch, min_heights_px, recipes
from monoskd.engine.launch import Launch, is_finished
from monoskd.engine.load import find_config, load_config
from monoskd.errors import InputError
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.quality import label_quality
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.objects import Objects
from monoskd.structures import Views

RECIPES = recipes()


def test_every_detector_of_the_house_has_a_recipe() -> None:
    import monoskd.models

    folders = Path(monoskd.models.__file__).parent.glob("*/network.py")
    assert sorted(RECIPES) == sorted(path.parent.name for path in folders)
    assert next(iter(RECIPES.values())) == Path("demo")


@pytest.mark.parametrize("detector", RECIPES)
@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_a_command_that_a_user_could_type(name: str, detector: str, tmp_path: Path) -> None:
    words = launch(name, out=tmp_path, seed=3, size=(300, 90), recipe=RECIPES[detector]).command()
    assert words[1:4] == ["-m", "monoskd", "train"]
    loaded = load_config(Path(words[4]), words[5:])
    assert (loaded.seed, loaded.out) == (3, tmp_path / "runs" / name)
    assert Path(loaded.namespace.data.root) == tmp_path / "data"
    assert loaded.namespace.data.min_height_px == pytest.approx(25 * 90 / 375)
    assert loaded.namespace.epochs / loaded.namespace.validation.every == 4  # the last one too: it finds `best_score`
    if name in STAGES[0]:
        assert loaded.namespace.detector.init_args.config.input_size == (320, 96)  # 300 x 90 in whole cells


@pytest.mark.parametrize("detector", RECIPES)
def test_teacher_and_student_have_the_maps_that_are_compared(detector: str) -> None:
    for name in ("teacher", "baseline"):
        network = load_config(RECIPES[detector] / f"{name}.yaml").run().detector.eval()
        channels = {"rgb": 3, "depth": 1}[network.modality]
        camera = Camera(torch.tensor([[[250.0, 0, 160, 0], [0, 250, 48, 0], [0, 0, 1, 0]]]))
        views = Views(torch.rand(1, channels, 96, 320), camera, Letterbox(torch.ones(1), torch.zeros(1, 2), (320, 96)))
        with torch.inference_mode():
            features = network(views).features
        for student in STAGES[1][1:]:
            taps = load_config(RECIPES[detector] / f"{student}.yaml").namespace.distillation.taps
            assert {tap.student for tap in taps} <= features.keys()


@pytest.mark.parametrize("detector", RECIPES)
def test_the_last_three_take_as_many_steps_from_the_same_start(detector: str, tmp_path: Path) -> None:
    loaded = []
    for name in STAGES[1]:
        words = launch(name, out=tmp_path, seed=0, size=(320, 96), recipe=RECIPES[detector]).command()
        loaded.append(load_config(Path(words[4]), words[5:]).namespace)
    assert len({(one.epochs, one.data.batch_size, str(one.start), str(one.optimizer)) for one in loaded}) == 1


def test_heights_scale_with_the_picture() -> None:
    assert min_heights_px((1242, 375)) == (40, 25, 25)


@pytest.fixture
def report(tmp_path: Path) -> DemoReport:
    """A report of runs that detect nothing, with two lines of metrics each."""
    manifest: dict[str, Any] = {"train_seconds": 9.0, "images_per_second": 20.0, "peak_memory_mb": 500, "steps": 40}
    runs = {}
    for name in RUNS:
        folder = tmp_path / name
        folder.mkdir()
        columns = "step,epoch,train/loss,train/distill_response,flight/response/gradient_share,flight/response/floor"
        columns += ",flight/response/loss,val/Car_3d_loose,val/depth_error_m_median"
        lines = [columns, "0,0,3.5,1.5,0.25,0.75,0.5,5,1.5", "1,0,2.5,1.25,0.25,0.75,0.5,7,1.25"]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        nothing = {"median": None, "mean": None}
        rows = evaluate_kitti([Objects.empty()], [Objects.empty(scored=True)], classes=("Car",)).rows()
        runs[name] = RunResult(folder=folder, results=rows, depth_error_m=nothing, manifest=manifest)
    quality = [row.to_json() for row in label_quality([], [], classes=("Car",))]
    note = {"frames": 5, "threshold": 0.3, "measured_on": "unlabelled, labels held back", "quality": quality}
    (tmp_path / "monoskd_unlabelled" / "detections.json").write_text(json.dumps(note))
    frames = {"train": 4, "val": 5, "unlabelled": 16}
    shown: dict[str, Any] = {"runs": runs, "drawn": [], "seconds": 1.0, "versions": {}}
    return DemoReport(detector="did_m3d", seed=0, frames=frames, size=(320, 96), **shown)


def test_the_report_has_every_run_as_json(report: DemoReport) -> None:
    document = json.loads(json.dumps(report.to_json()))
    assert (document["schema"], document["detector"]) == ("monoskd/demo/1", "did_m3d")
    assert list(document["runs"]) == ["teacher", "baseline", "control", "monoskd", "monoskd_unlabelled"]
    for run in document["runs"].values():
        assert {"results", "depth_error_m", "train_seconds", "images_per_second", "peak_memory_mb"} <= run.keys()


def test_the_page_has_every_run_and_the_quality_of_the_pseudo_labels(report: DemoReport, tmp_path: Path) -> None:
    page = write_report(report, tmp_path / "report.html").read_text()
    for name in RUNS:
        assert f'<td class="label">{name}</td>' in page
    assert "These are results of one seed." in page
    assert "nothing here is about a student that has converged" in page
    assert "detections with a score of at least 0.3 on 5 frames" in page
    assert "unlabelled, labels held back" in page
    assert '<td class="label">monoskd_unlabelled, response</td><td>0.500</td><td>0.750</td>' in page
    assert page.count("<svg") == 2 + 3 + 2  # validations, losses, and the flight recorder's shares


def test_a_demo_goes_on_where_it_was_interrupted_and_a_finished_one_is_made_anew(
    report: DemoReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = tmp_path / "demo", []

    def data(root: Path, **options: object) -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "synthetic.json").write_text("{}")

    def train(launches: list[Launch], **options: object) -> None:
        names = [run.out.name for run in launches if not is_finished(run.out)]
        trained.append(names)
        for name in names:
            (out / "runs" / name).mkdir(parents=True, exist_ok=True)
            done = len(trained) != 2 or name == "control"
            (out / "runs" / name / "manifest.json").write_text(json.dumps({"finished": done}))
        if len(trained) == 2:
            raise KeyboardInterrupt

    for name, stub in {"synthesize": data, "prepare": print, "train_side_by_side": train}.items():
        monkeypatch.setattr(f"monoskd.demo.story.{name}", stub)
    times: list[float | None] = []
    monkeypatch.setattr("monoskd.demo.story.measure_runs", lambda *_, started, **__: times.append(started) or report)
    with pytest.raises(KeyboardInterrupt):
        demo(out)
    demo(out)
    assert trained == [["teacher", "baseline"], [*STAGES[1]], [], ["monoskd", "monoskd_unlabelled"]]
    assert times == [None]
    demo(out)
    assert trained[4:] == [[*stage] for stage in STAGES]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new folder or an earlier demo's, found other files"):
        demo(out)


def test_where_a_training_fails_few_frames_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InputError("training stopped: nothing found")

    for name, stub in {"synthesize": lambda *_, **__: None, "prepare": print, "train_side_by_side": fail}.items():
        monkeypatch.setattr(f"monoskd.demo.story.{name}", stub)
    with pytest.raises(
        InputError, match=r"nothing found; with 18 frames a teacher may learn too little, 360 are usual"
    ):
        demo(tmp_path / "few", frames=18)
    with pytest.raises(InputError, match=r"nothing found$"):
        demo(tmp_path / "many")


def test_another_detectors_runs_are_refused_and_so_is_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--detector: expected .*, got yolo"):
        demo(tmp_path / "new", detector="yolo")
    assert not (tmp_path / "new").exists()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "synthetic.json").write_text("{}")
    run = tmp_path / "runs" / "teacher"
    run.mkdir(parents=True)
    shutil.copy(find_config(Path("demo/teacher.yaml")), run / "config.yaml")
    with pytest.raises(InputError, match=r"expected runs of .*, got those of DidM3D; choose another with --out"):
        demo(tmp_path, detector=list(RECIPES)[-1])


def test_the_last_line_serves_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("monoskd.demo.story.demo", lambda out, **_options: out / "report.html")
    out = tmp_path / "a demo"
    assert main(["demo", "--out", str(out)]) == 0
    _, _, command = capsys.readouterr().out.splitlines()[-1].partition(": ")
    words = shlex.split(command)
    assert words[:3] == ["monoskd", "serve", "--model"]
    assert Path(words[3]) == out / "runs" / DRAWN / "model.safetensors"
    assert DRAWN in RUNS
