import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from monoskd import cli
from monoskd.cli import build_parser, main
from monoskd.cli.terminal import progress_of
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.results import Evaluation
from monoskd.evaluation.rules import MIN_HEIGHTS_PX
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.weights import save_model

COMMANDS = [command.__name__.rpartition(".")[2].strip("_") for command in cli.COMMANDS]
CAR = "Car 0.00 0 0.00 100.00 100.00 200.00 200.00 1.50 1.60 4.00 0.00 1.60 20.00 0.00"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    narrow = {"channels": [4, 4, 8, 8, 8, 8]}
    config = DidM3DConfig(pretrained=False, backbone_arguments=narrow, head_width=8, input_size=(128, 64))
    save_model(DidM3D(config), path, provenance={})
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenes: Path, model: Path) -> Path:
    """A working folder with `data` (rendered frames), `model.safetensors` and things that are none of these."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scenes, "data")
    shutil.copy(model, "model.safetensors")
    Path("empty").mkdir()
    Path("mine/runs/precious").mkdir(parents=True)
    shutil.copytree(scenes, "mine/data")
    Path("words.txt").write_text("no checkpoint, no picture\n")
    Path("label_2").mkdir()
    Path("results").mkdir()
    Path("label_2/000000.txt").write_text(f"{CAR}\n")
    Path("results/000000.txt").write_text(f"{CAR} 0.5\n")
    return tmp_path


def damage(kind: str) -> None:
    """Break frame 000001 of `data` in one way, or its splits."""
    training = Path("data/training")
    image, label, calib = (
        training / f"{k}/000001.{s}" for k, s in (("image_2", "png"), ("label_2", "txt"), ("calib", "txt"))
    )
    if kind == "truncated image":
        image.write_bytes(image.read_bytes()[:900])
    elif kind == "no P2":
        calib.write_text("".join(f"{line}\n" for line in calib.read_text().splitlines() if not line.startswith("P2")))
    elif kind == "NaN":
        label.write_text(f"{CAR.replace('20.00', 'nan')}\n")
    elif kind == "no label":
        label.unlink()
    elif kind == "short sweep":
        sweep = training / "velodyne/000001.bin"
        sweep.write_bytes(sweep.read_bytes()[:-3])
    else:
        assert kind == "no depth"
        shutil.rmtree(training / "depth_2")


def complaint(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The complaint of a command that must fail: one line, the last, with exit code 2."""
    assert main(words.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    complaints = [line for line in lines if line.startswith("monoskd: ")]
    assert complaints == lines[-1:]
    assert "Traceback" not in "".join(lines)
    return complaints[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    example = text.partition(f"example: monoskd {command} ")[2].split()
    assert example
    build_parser().parse_known_args([command, *example])


def test_help_shows_defaults_as_a_user_would_type_them(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ""
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown += " ".join(capsys.readouterr().out.split())
    assert "default: None" not in shown
    assert "default: False" not in shown
    assert "default: (" not in shown
    for typed in ("1242x375", "Pedestrian,Car,Cyclist", "40,25,25", "0.25"):
        assert f"(default: {typed})" in shown


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {command}" in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "required: COMMAND"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("synth new", "required: --frames"),
        ("synth new --frames 0", "expected a whole number of at least 1, got '0'"),
        ("synth new --frames ²", "expected a whole number of at least 1, got '²'"),
        ("synth new --frames 2 --val 2", "expected a number from 0 to 1, got '2'"),
        ("synth new --frames 2 --val 1", "val: expected a share of the frames"),
        ("synth new --frames 2 --size big", "expected WIDTHxHEIGHT such as 416x128, got 'big'"),
        ("synth new --frames 2 --size 10x10", "size: expected 32 to 4096 pixels"),
        ("synth new --frames 2 --seed -1", "seed: expected 0 or more, got -1"),
        ("synth empty --frames 2 --frobnicate", "unknown option '--frobnicate'; see `monoskd synth --help`"),
        ("synth label_2 --frames 2", "label_2: expected an empty or new folder"),
        ("prepare nowhere", "nowhere: expected a data set's folder"),
        ("prepare empty", "empty/training/velodyne: expected LiDAR sweeps"),
        ("prepare words.txt", "words.txt: expected a data set's folder"),
        ("prepare data --raw empty", "prepare: expected --raw and --mapping together"),
        ("prepare data --raw empty --mapping empty", "empty: expected raw drives such as 2011_09_26/"),
        ("synth new --frames 2 --unlabelled -1", "expected a whole number of at least 1, got '-1'"),
        ("doctor nowhere", "nowhere: expected a data set"),
        ("doctor empty", "empty: expected a data set"),
        ("doctor nowhere --html empty", "empty: expected to write here, got 'Is a directory'"),
        ("doctor data --json empty", "empty: expected to write here, got 'Is a directory'"),
        ("demo --frames 3", "--frames: expected at least 10"),
        ("demo --out data", "data: expected a new folder or an earlier demo's"),
        ("demo --out mine", "mine: expected a new folder or an earlier demo's"),
        ("train", "required: CONFIG.yaml"),
        ("train nowhere.yaml", "nowhere.yaml: no such configuration file"),
        ("train words.txt", "words.txt: expected a YAML mapping"),
        ("train kitti/baseline.yaml --epocs 3", "unknown key 'epocs'; did you mean 'epochs'?"),
        ("train kitti/baseline.yaml words.txt", "unrecognized arguments: words.txt"),
        ("train kitti/baseline.yaml --resume empty", "empty: expected a run folder"),
        ("evaluate", "expected either --labels and --predictions, or --model and --data"),
        ("evaluate --labels label_2", "expected either --labels and --predictions"),
        ("evaluate --labels label_2 --model m --data data", "expected either --labels and --predictions"),
        ("evaluate --labels nowhere --predictions results", "nowhere: expected a folder of .txt files"),
        ("evaluate --labels empty --predictions empty", "expected a .txt file for each frame with a label, got none"),
        ("evaluate --labels label_2 --predictions label_2", "expected 16 fields (a result), got 15"),
        ("evaluate --labels label_2 --predictions results --classes Tram", "got 'Tram'"),
        ("evaluate --labels label_2 --predictions results --classes ,", "expected comma-separated names, got ','"),
        ("evaluate --labels label_2 --predictions results --split nowhere", "nowhere: expected a readable file"),
        ("evaluate --labels label_2 --predictions results --json empty", "empty: expected to write here, got 'Is a"),
        ("evaluate --labels nowhere --predictions no --html words.txt/a/b", "b: expected to write here, got 'Not a"),
        ("evaluate --min-heights 40,25", "expected three heights above 0 px such as 40,25,25, got '40,25'"),
        ("evaluate --min-heights 40,0,25", "expected three heights above 0 px such as 40,25,25, got '40,0,25'"),
        ("evaluate --min-heights 40,25,nan", "expected three heights above 0 px such as 40,25,25, got '40,25,nan'"),
        ("evaluate --min-heights a,b,c", "expected three heights above 0 px such as 40,25,25, got 'a,b,c'"),
        ("evaluate --model words.txt --data data", "words.txt: expected a model file"),
        ("evaluate --labels label_2 --predictions results --device cuda", "--device: expected a --model that predicts"),
        ("evaluate --labels label_2 --predictions results --half", "--half: expected a --model that predicts"),
        ("evaluate --model model.safetensors --data data --device abacus", "expected one that this machine has"),
        ("evaluate --model model.safetensors --data nowhere", "nowhere: no such data set: check the path"),
        ("evaluate --model model.safetensors --data data --split no", "no.txt: expected the frames of split 'no'"),
        ("evaluate --model model.safetensors --data data --split=", "expected the frames of split ''"),
        ("evaluate --labels label_2 --predictions results --split=", ".: expected a readable file, got 'Is a"),
        ("evaluate --model model.safetensors --data data --classes Tram", "got 'Tram'"),
        ("predict words.txt --focal 9", "required: --model"),
        (
            "predict words.txt --model model.safetensors --focal 9 --hfov 9",
            "expected one of --calib, --camera, --focal",
        ),
        ("predict words.txt --model model.safetensors --focal 9", "words.txt: expected an image"),
        ("predict nowhere --model model.safetensors --focal 9", "nowhere: no such image, folder or video"),
        ("predict empty --model model.safetensors --focal 9", "empty: expected images"),
        ("predict empty --model nowhere --focal 9", "nowhere: expected a model file, got no file"),
        ("predict empty --model words.txt --focal 9", "words.txt: expected a model file"),
        ("predict empty --model empty --focal 9", "empty: expected a model file, got a folder"),
        ("predict empty --model model.safetensors --focal x", "expected a number, got 'x'"),
        ("predict empty --model model.safetensors --focal 1_000", "expected a number, got '1_000'"),
        ("predict empty --model model.safetensors --focal -3", "--focal: expected 1 to 1000000 pixels"),
        ("predict empty --model model.safetensors --focal 9 --score 2", "expected a number from 0 to 1, got '2'"),
        ("predict empty --model model.safetensors --focal 9 --device toaster", "device: expected one"),
        ("convert nowhere out", "nowhere: expected a PyTorch checkpoint, got no file"),
        ("convert words.txt out", "words.txt: expected a PyTorch checkpoint"),
        ("convert model.safetensors out", "expected a checkpoint of MonoSKD, MonoDistill or DID-M3D"),
    ],
)
def test_bad_words_are_one_line(here: Path, words: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert expected in complaint(words, capsys)
    assert {path: path.read_bytes() for path in before} == before
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("truncated image", "prepare data --workers 1 --force", "000001.png: expected a whole image"),
        ("no P2", "prepare data --workers 1 --force", "000001.txt: expected a line 'P2: <12 numbers>'"),
        ("short sweep", "prepare data --workers 1 --force", "000001.bin: expected points of 16 bytes"),
        ("NaN", "prepare data --workers 1 --force", "line 1, field 14 (z): expected a finite number, got 'nan'"),
        ("no P2", "doctor data", "data: not fit to use: 1 error,"),
        ("NaN", "doctor data", "data: not fit to use: 1 error,"),
        ("no label", "doctor data", "data: not fit to use"),
        ("truncated image", "evaluate --model M --data data --split trainval", "000001.png: expected a whole image"),
        ("no P2", "evaluate --model M --data data --split trainval", "expected a line 'P2: <12 numbers>'"),
        ("NaN", "evaluate --model M --data data --split trainval", "expected a finite number, got 'nan'"),
        ("no label", "evaluate --model M --data data --split trainval", "the first is 000001"),
        ("no P2", "predict data/training/image_2 --model M --calib data/training/calib", "expected a line 'P2:"),
        ("truncated image", "predict data/training/image_2 --model M --hfov 80", "000001.png: expected a whole"),
        ("no depth", "train run.yaml", "depth_2: expected a file for each of the split's 6 frames"),
        ("no label", "train run.yaml", "label_2: expected a file for each of the split's 6 frames, got none for 1"),
        ("NaN", "train run.yaml", "000001.txt, line 1, field 14 (z): expected a finite number, got 'nan'"),
        ("no P2", "train run.yaml", "000001.txt: expected a line 'P2: <12 numbers>'"),
        ("truncated image", "train run.yaml", "000001.png: expected a whole image"),
    ],
)
def test_damaged_data_is_named(
    here: Path, kind: str, words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(kind)
    write_run_config()
    assert expected in complaint(words.replace(" M ", " model.safetensors "), capsys)


def write_run_config() -> None:
    document = {
        "data": {"root": "data", "train": "trainval", "val": "trainval", "batch_size": 2, "workers": 0},
        "out": "run",
        "start": "model.safetensors",
        "epochs": 1,
        "validation": {"every": 0},
    }
    Path("run.yaml").write_text(json.dumps(document))


def test_debug_adds_the_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "nowhere", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "InputError" in error
    assert error.splitlines()[-1].startswith("monoskd: nowhere: expected")


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("monoskd.kitti.prepare.prepare", interrupted)
    assert main(["prepare", "anywhere"]) == 130
    assert capsys.readouterr().err == "interrupted; what was done is kept\n"


def test_the_way_from_frames_to_boxes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run_config()
    assert main(["doctor", "data", "--json", "doctor.json", "--html", "doctor.html"]) == 0
    assert main(["train", "run.yaml", "--epochs", "2"]) == 0
    predict = "predict data/training/image_2 --model run/model.safetensors --calib data/training/calib --score 0"
    assert main(predict.split()) == 0
    evaluate = "evaluate --labels data/training/label_2 --predictions predictions/kitti --json evaluation.json"
    assert main(evaluate.split()) == 0
    assert "run folder: run" in capsys.readouterr().out
    schemas = {
        "doctor.json": "monoskd/doctor/1",
        "run/manifest.json": "monoskd/run/1",
        "predictions/detections.json": "monoskd/detections/1",
        "evaluation.json": "monoskd/evaluation/1",
    }
    assert {name: json.loads(Path(name).read_text())["schema"] for name in schemas} == schemas


def test_the_least_heights_reach_the_evaluation_of_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "evaluate --labels label_2 --predictions results --classes Car --min-heights 99.9,100,25"
    assert main(words.split()) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["Car", "2D"])
    assert row.split()[-3:] == ["9.09", "0.00", "9.09"]  # the car is 100 px high


def test_the_least_heights_reach_the_evaluation_of_a_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def recording(*frames: Any, **options: Any) -> Evaluation:
        asked.append(options["min_heights"])
        return evaluate_kitti(*frames, **options)

    monkeypatch.setattr("monoskd.engine.evaluate.evaluate_kitti", recording)
    words = "evaluate --model model.safetensors --data data"
    assert main([*words.split(), "--min-heights", "20,12.5,12.5"]) == main(words.split()) == 0
    assert asked == [(20, 12.5, 12.5), MIN_HEIGHTS_PX]


def test_evaluation_starts_without_torch(here: Path) -> None:
    program = (
        "import sys; from monoskd.cli import main;"
        "code = main('evaluate --labels label_2 --predictions results'.split());"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_exit_code_reaches_the_shell(here: Path) -> None:
    command = [sys.executable, "-m", "monoskd", "prepare", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_an_interruption_inside_of_exec_is_130_too() -> None:
    """As in the middle of an import, where dataclasses are made so: Python would end by SIGINT."""
    program = """import sys
from monoskd.cli import main, prepare
def run(options):
    exec("raise KeyboardInterrupt")
prepare.run = run
sys.argv = ["monoskd", "prepare", "nowhere"]
exit(main())"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "interrupted; what was done is kept\n"


def test_a_run_folder_that_was_moved_goes_on_where_it_is(here: Path, recwarn: pytest.WarningsRecorder) -> None:
    write_run_config()
    assert main(["train", "run.yaml", "--epochs", "1"]) == 0
    Path("run").rename("moved")
    assert main(["train", "moved/config.yaml", "--resume", "moved", "--epochs", "2"]) == 0
    assert not Path("run").exists()
    assert json.loads(Path("moved/manifest.json").read_text())["epochs"] == 2
    assert "out: moved\n" in Path("moved/config.yaml").read_text()
    assert not [warning for warning in recwarn if "dirpath" in str(warning.message)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_training_is_130_and_keeps_the_model(here: Path, number: signal.Signals, workers: int) -> None:
    """The whole process group gets the signal, as from a terminal."""
    write_run_config()
    command = [sys.executable, "-m", "monoskd", "train", "run.yaml", "--epochs", "100000"]
    command += ["--data.workers", str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert process.stderr is not None
    while "epoch 2/" not in process.stderr.readline():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.splitlines()[-1] == "interrupted; what was done is kept"
    assert Path("run/model.safetensors").is_file()


def test_progress_is_about_ten_lines_also_of_work_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of("work") as progress:
        for done in (*range(16, 200, 16), 200):
            progress(done, 200)
    lines = capsys.readouterr().err.splitlines()
    assert 9 <= len(lines) <= 11
    assert lines[-1] == "work: 200/200"
    with progress_of("work") as progress:
        progress(1, 0)
    assert capsys.readouterr().err == "work: 1\n"
