import json
from pathlib import Path
from typing import Any

import pytest

from monoskd.demo.report import DemoReport, RunResult, write_report
from monoskd.demo.story import STAGES, demo, launch, min_heights_px
from monoskd.engine.launch import Launch, is_finished
from monoskd.engine.load import load_config
from monoskd.errors import InputError
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.quality import label_quality
from monoskd.objects import Objects

RUNS = [name for stage in STAGES for name in stage]


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_a_command_that_a_user_could_type(name: str, tmp_path: Path) -> None:
    words = launch(name, out=tmp_path, seed=3, size=(300, 90)).command()
    assert words[1:4] == ["-m", "monoskd", "train"]
    loaded = load_config(Path(words[4]), words[5:])
    assert (loaded.seed, loaded.root, loaded.out) == (3, tmp_path / "data", tmp_path / "runs" / name)
    assert loaded.namespace.data.min_height_px == pytest.approx(25 * 90 / 375)
    if name in STAGES[0]:
        assert loaded.namespace.detector.init_args.config.input_size == (320, 96)  # 300 x 90 in whole cells


def test_the_last_three_take_as_many_steps_from_the_same_start(tmp_path: Path) -> None:
    loaded = [
        load_config(Path(words[4]), words[5:]).namespace
        for words in (launch(name, out=tmp_path, seed=0, size=(320, 96)).command() for name in STAGES[1])
    ]
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
        lines = [f"{columns},flight/response/loss", "0,0,3.5,1.5,0.25,0.75,0.5", "1,0,2.5,1.25,0.25,0.75,0.5"]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        nothing = {"median": None, "mean": None}
        rows = evaluate_kitti([Objects.empty()], [Objects.empty(scored=True)], classes=("Car",)).rows()
        runs[name] = RunResult(folder=folder, results=rows, depth_error_m=nothing, manifest=manifest)
    quality = [row.to_json() for row in label_quality([], [], classes=("Car",))]
    note = {"frames": 5, "threshold": 0.3, "measured_on": "unlabelled, labels held back", "quality": quality}
    (tmp_path / "monoskd_unlabelled" / "detections.json").write_text(json.dumps(note))
    frames = {"train": 4, "val": 5, "unlabelled": 16}
    return DemoReport(seed=0, frames=frames, size=(320, 96), runs=runs, drawn=[], seconds=1.0, versions={})


def test_the_report_has_every_run_as_json(report: DemoReport) -> None:
    document = json.loads(json.dumps(report.to_json()))
    assert document["schema"] == "monoskd/demo/1"
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
    assert page.count("<svg") == 3 + 2  # losses, and the flight recorder's shares


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
