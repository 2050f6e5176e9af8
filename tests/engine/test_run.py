import csv
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import get_worker_info

from monoskd.data.samples import Samples
from monoskd.engine import callbacks
from monoskd.engine.config import RunConfig
from monoskd.engine.frames import Frames
from monoskd.engine.load import load_config
from monoskd.engine.log import csv_logger
from monoskd.engine.machine import channels_last_of, one_line
from monoskd.engine.measure import Measurement
from monoskd.engine.run import build_student, build_training
from monoskd.engine.schedule import TaskWeights
from monoskd.engine.sources import Sources
from monoskd.engine.training import Training
from monoskd.errors import InputError
from monoskd.kitti.doctor_checks import facts_of
from monoskd.kitti.io import read_depth, read_split, write_depth, write_split
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.source import KittiFrames
from monoskd.models.checkpoints import check_seal, read_checkpoint
from monoskd.models.weights import describe_model, load_model
from monoskd.objects import is_supervised
from monoskd.structures import Batch, Frame, FrameSource

Run = Callable[..., Path]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def losses(folder: Path) -> list[str]:
    return [row["train/loss"] for row in rows(folder) if row["train/loss"]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(run: Path, expected: Path) -> None:
    first, second = weights(run), weights(expected)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_the_model_file_says_which_scores_are_worth_showing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    heights = []

    def best_score(self: Measurement, classes: Sequence[str]) -> float:
        assert self.detections
        assert tuple(classes) == ("Pedestrian", "Car", "Cyclist")
        heights.append(self.min_height_px)
        return 0.125

    monkeypatch.setattr(Measurement, "best_score", best_score)
    folder = run("--data.min_height_px", "7", validation={"every": 2}, epochs=2)
    assert heights == [7]
    assert describe_model(folder / "model.safetensors")["provenance"]["best_score"] == 0.125
    run("--data.min_height_px", "7", resume=folder, validation={"every": 2}, epochs=3)  # no validation is left
    assert describe_model(folder / "model.safetensors")["provenance"]["best_score"] == 0.125
    assert heights == [7]


def test_a_run_folder_holds_all_that_is_promised(run: Run) -> None:
    folder = run(validation={"every": 1})
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "model.safetensors", "manifest.json", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert len(losses(folder)) == 4
    terms = ("heatmap", "offset_2d", "size_2d", "offset_3d", "size_3d", "heading", "depth")
    assert all(any(float(row[f"train/{term}"] or 0) for row in rows(folder)) for term in terms)
    assert [sum(row[f"val/Car_3d{which}"] != "" for row in rows(folder)) for which in ("", "_loose")] == [2, 2]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["schema"] == "monoskd/run/1"
    assert (manifest["seed"], manifest["steps"], manifest["epochs"]) == (0, 4, 2)
    assert manifest["frames"] == {"train": 4, "val": 2}


def test_the_same_seed_gives_the_same_run_whatever_the_workers(run: Run, tmp_path: Path) -> None:
    first = run(out=str(tmp_path / "first"))
    again = run("--data.workers", "1", out=str(tmp_path / "again"))
    other = run(out=str(tmp_path / "other"), seed=1)
    assert losses(first) == losses(again)
    assert_same_weights(first, again)
    assert losses(first) != losses(other)


def test_a_resumed_run_is_the_run_that_was_never_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskWeights, "over", lambda epochs, graph: TaskWeights(graph, epochs=6, history=3))
    straight = run(out=str(tmp_path / "straight"), task_learning=True, epochs=5)
    stopped = run(out=str(tmp_path / "stopped"), task_learning=True, epochs=3)
    resumed = run(out=str(stopped), task_learning=True, epochs=5, resume=stopped)
    assert resumed == stopped
    late = torch.load(resumed / "checkpoints" / "last.ckpt", weights_only=True)["weights"]
    assert 0 < late["depth"] < 1, "task learning is at work, or this test says nothing of it"
    assert (resumed / "metrics.csv").read_text() == (straight / "metrics.csv").read_text()
    assert_same_weights(straight, resumed)


def test_a_run_that_has_all_its_epochs_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(epochs=1)
    said, at_start = f"{folder}: all 1 epochs are done; raise `--epochs` to train on", capsys.readouterr().err
    assert said not in at_start
    assert "optimizer.schedule: a warm-up of 1 epochs in a run of 1: lower" in at_start
    run(epochs=1, resume=folder)
    assert said in capsys.readouterr().err
    run(epochs=2, resume=folder)
    assert "epochs are done" not in capsys.readouterr().err


def test_other_frames_in_a_resumed_run_are_said(
    run: Run, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    place = ("--data.root", str(root))
    folder = run(*place, epochs=1)
    capsys.readouterr()
    run(*place, epochs=2, resume=folder)
    assert "frames:" not in capsys.readouterr().err
    split = root / "ImageSets" / "train.txt"
    for epochs, names in ((3, split.read_text().split()[::-1]), (4, split.read_text().split()[:-1])):
        write_split(split, names)
        run(*place, epochs=epochs, resume=folder)
        assert f"frames: train had 4 frames before and has {len(names)} now, not the same; " in capsys.readouterr().err


def test_a_resumed_run_with_loader_processes_is_the_one_that_was_never_stopped(run: Run, tmp_path: Path) -> None:
    straight = run(out=str(tmp_path / "straight"), epochs=2)
    stopped = run("--data.workers", "1", out=str(tmp_path / "stopped"), epochs=1)
    resumed = run("--data.workers", "1", out=str(stopped), epochs=2, resume=stopped)
    assert losses(resumed) == losses(straight)
    assert_same_weights(straight, resumed)


EMA = ("--optimizer.ema", "0.5")


def test_the_average_of_the_weights_is_kept(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def look(self: Training, *_: object) -> None:
        seen.append({name: value.detach().clone() for name, value in self.student.state_dict().items()})

    monkeypatch.setattr(Training, "on_train_batch_end", look)
    averaged = run(*EMA, out=str(tmp_path / "averaged"), validation={"every": 1})
    assert len(seen) == 4
    name = "neck.rounds.0.project.0.0.weight"
    expected = seen[0][name]
    for weights_of_step in seen[1:]:
        expected = 0.5 * expected + 0.5 * weights_of_step[name]
    torch.testing.assert_close(weights(averaged)[name], expected)
    plain = run(out=str(tmp_path / "plain"))
    torch.testing.assert_close(weights(plain)[name], seen[3][name])  # the average changes no step
    assert losses(plain) == losses(averaged)


def test_a_resumed_average_is_the_one_that_was_never_stopped(run: Run, tmp_path: Path) -> None:
    straight = run(*EMA, out=str(tmp_path / "straight"), epochs=3)
    stopped = run(*EMA, out=str(tmp_path / "stopped"), epochs=2)
    resumed = run(*EMA, out=str(stopped), epochs=3, resume=stopped)
    assert losses(resumed) == losses(straight)
    assert_same_weights(straight, resumed)


def test_a_run_that_was_killed_before_its_model_file_still_keeps_the_average(run: Run, tmp_path: Path) -> None:
    straight = run(*EMA, out=str(tmp_path / "straight"))
    killed = shutil.copytree(straight, tmp_path / "killed")
    (killed / "model.safetensors").unlink()
    resumed = run(*EMA, out=str(killed), resume=killed)
    assert losses(resumed) == losses(straight)
    assert_same_weights(straight, resumed)


def test_a_resumed_run_in_float64_is_the_one_that_was_never_stopped(run: Run, tmp_path: Path) -> None:
    straight = run(out=str(tmp_path / "straight"), epochs=3, precision="64-true")
    stopped = run(out=str(tmp_path / "stopped"), epochs=2, precision="64-true")
    resumed = run(out=str(stopped), epochs=3, resume=stopped, precision="64-true")
    assert losses(resumed) == losses(straight)
    assert_same_weights(straight, resumed)


def test_a_resumed_running_mean_is_the_one_that_was_never_stopped(run: Run, tmp_path: Path) -> None:
    teacher = run("--detector.init_args.config.modality", "depth", out=str(tmp_path / "teacher"), epochs=1)
    loss = {"class_path": "monoskd.distill.SpearmanLoss", "init_args": {"center": "running"}}
    recipe = {
        "teacher": str(teacher / "model.safetensors"),
        "taps": [{"student": "neck.4", "adapter": "conv"}],
        "terms": {"rank": {"loss": loss}},
    }
    straight = run(out=str(tmp_path / "straight"), epochs=3, distillation=recipe)
    stopped = run(out=str(tmp_path / "stopped"), epochs=2, distillation=recipe)
    resumed = run(out=str(stopped), epochs=3, resume=stopped, distillation=recipe)
    assert losses(resumed) == losses(straight)
    assert_same_weights(straight, resumed)


@pytest.mark.parametrize("where", ["on_train_batch_end", "on_validation_batch_end"])
def test_an_interrupted_run_keeps_the_average(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole = run(*EMA, out=str(tmp_path / "whole"), epochs=2, validation={"every": 2})

    def interrupt(self: Training, *_: object) -> None:
        if self.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(*EMA, out=str(tmp_path / "cut"), epochs=2, validation={"every": 2})
    assert_same_weights(whole, tmp_path / "cut")


def test_neck_and_heads_are_inherited(run: Run, tmp_path: Path) -> None:
    teacher = run("--detector.init_args.config.modality", "depth", out=str(tmp_path / "teacher")) / "model.safetensors"
    config = load_config(tmp_path / "config.yaml", ["--start", json.dumps({"inherit": str(teacher)}), "--seed", "5"])
    student, given = build_student(config.run()).state_dict(), load_model(teacher).state_dict()
    inherited = {name for name in given if torch.equal(student[name], given[name])}
    assert {name for name in given if not name.startswith("backbone.")} <= inherited
    assert not any(name in inherited for name in given if name.endswith("conv1.weight"))
    folder = run(out=str(tmp_path / "student"), start={"inherit": str(teacher)})
    assert (folder / "model.safetensors").is_file()
    with pytest.raises(InputError, match=r"start.inherit: expected the student's neck and heads, with dense.*: take a"):
        run("--detector.init_args.config.head_width", "4", out=str(tmp_path / "no"), start={"inherit": str(teacher)})


def test_rows_that_a_resumed_run_repeats_are_dropped(run: Run, tmp_path: Path) -> None:
    straight = run(out=str(tmp_path / "straight"), epochs=2)
    folder = run(out=str(tmp_path / "killed"), epochs=1)
    first_s = json.loads((folder / "manifest.json").read_text())["train_seconds"]
    with (folder / "metrics.csv").open("a") as file:  # as if it had been killed in the second epoch
        file.write((folder / "metrics.csv").read_text().splitlines()[-1].replace("0,1,", "1,2,", 1) + "\n")
    run(out=str(folder), epochs=2, resume=folder)
    assert [row["step"] for row in rows(folder)] == ["0", "1", "2", "3"]
    assert losses(folder) == losses(straight)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["steps"] == 4
    assert manifest["finished"]
    assert manifest["total_seconds"] > manifest["train_seconds"] > first_s
    assert manifest["images_per_second"] == pytest.approx(8 / manifest["train_seconds"], rel=0.05)
    run(out=str(folder), epochs=2, resume=folder)  # there is nothing left to do
    again = json.loads((folder / "manifest.json").read_text())
    assert again["train_seconds"] == pytest.approx(manifest["train_seconds"], abs=0.01)
    assert again["train_seconds"] < again["total_seconds"] < manifest["total_seconds"] + 60


def test_a_resumed_run_is_the_same_run(run: Run) -> None:
    folder = run(epochs=1)
    with pytest.raises(InputError, match=r"got detector\.init_args.config.head_width: 16 instead of 8; resume with"):
        run("--detector.init_args.config.head_width", "16", epochs=2, resume=folder)
    with pytest.raises(InputError, match="got task_learning: True instead of False"):
        run(task_learning=True, epochs=2, resume=folder)
    for damage in ("step,epoch\none,2\n", "step,epoch\n1,2,3\n", f"step\n{'9' * 5000}\n", f"step\n{'9' * 200_000}\n"):
        (folder / "metrics.csv").write_text(damage)
        with pytest.raises(InputError, match=r"metrics\.csv: expected a step in every row"):
            run(epochs=2, resume=folder)
        assert (folder / "metrics.csv").read_text() == damage
    torch.save({"state_dict": {}}, folder / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match=r"last\.ckpt: expected a run's checkpoint, got one without optimizer_states"):
        run(epochs=2, resume=folder)


def test_a_refused_resumption_changes_nothing(run: Run) -> None:
    folder, last = run(epochs=2), "checkpoints/last.ckpt"
    kept = {name: (folder / name).read_bytes() for name in ("config.yaml", "metrics.csv", last)}
    with pytest.raises(InputError, match=r"last\.ckpt: expected less than the 1 epochs of the config behind it, got 2"):
        run(epochs=1, resume=folder)
    with pytest.raises(InputError, match="expected what this machine can do"):
        run("--accelerator", "toaster", epochs=3, resume=folder)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    state = torch.load(folder / last, weights_only=True)
    for change, message in (
        ({"loops": None}, "got one without loops: it is damaged"),
        (
            {"state_dict": {"student.other": torch.zeros(3)}},
            r"got student\.\S+ of shape None instead of .* another network's",
        ),
    ):
        damaged = {name: value for name, value in {**state, **change}.items() if value is not None}
        torch.save(damaged, folder / last)
        with pytest.raises(InputError, match=message):
            run(epochs=3, resume=folder)
    (folder / "config.yaml").write_text("{{{")
    torch.save(state, folder / last)
    with pytest.raises(InputError, match=r"config\.yaml: expected YAML"):
        run(epochs=3, resume=folder)


def test_a_run_leaves_other_files_alone(run: Run, tmp_path: Path, scenes: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("# my notes")
    with pytest.raises(InputError, match=r"mine: expected a new folder, got one with config\.yaml"):
        run(out=str(tmp_path / "mine"))
    for inside in (scenes, scenes / "training" / "label_2"):
        with pytest.raises(InputError, match="expected a folder outside the data set, got one in it"):
            run(out=str(inside))


def test_a_run_that_diverges_stops_and_keeps_its_last_good_epoch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(epochs=1)
    kept = {name: (folder / name).read_bytes() for name in ("checkpoints/last.ckpt", "model.safetensors")}
    step = Training.training_step
    monkeypatch.setattr(Training, "training_step", lambda self, *batch: step(self, *batch) * float("nan"))
    with pytest.raises(InputError, match=r"epoch 2: expected finite weights, got nan in \S+: lower"):
        run(epochs=2, resume=folder)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert not json.loads((folder / "manifest.json").read_text())["finished"]


@pytest.mark.parametrize(("number", "said"), [(28, "No space left on device"), (27, "File too large")])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    folder = run(epochs=1)
    kept = (folder / "checkpoints" / "last.ckpt").read_bytes()

    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        write(self, content[:20_000])
        if len(content) > 20_000:
            raise OSError(number, said)
        return len(content)

    monkeypatch.setattr(Path, "write_bytes", full)
    message = rf"run: expected room for the run's files, got '{said}': .* `--resume .*run`: its last whole"
    with pytest.raises(InputError, match=message):
        run(epochs=2, resume=folder)
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == kept
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_log_that_cannot_be_written_keeps_its_rows(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    log, before = tmp_path / "metrics.csv", [{"step": "0", "loss": "1.5"}, {"step": "1", "loss": "1.25"}]
    csv_logger(log, before)
    kept = log.read_bytes()
    with largest_file(len(kept) - 2), pytest.raises(InputError, match=r"metrics\.csv: .*got 'File too large'"):
        csv_logger(log, before)
    assert log.read_bytes() == kept
    logger = csv_logger(log, before)
    logger.log_metrics({"val/depth": 3.0}, step=2)
    with largest_file(len(kept) + 2), pytest.raises(InputError, match="File too large"):
        logger.save()
    assert log.read_bytes() == kept
    logger.save()
    assert log.read_text().split() == ["loss,step,val/depth", "1.5,0,", "1.25,1,", ",2,3.0"]


def test_a_thread_that_meets_a_full_disk_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: said.append(failed.exc_value))

    def fail(error: Exception) -> None:
        raise error

    faults = [OSError(28, "No space left on device"), ValueError("a fault")]
    with one_line(tmp_path):
        for fault in faults:
            thread = threading.Thread(target=fail, args=[fault])
            thread.start()
            thread.join()
    assert said == faults[1:]


def test_the_end_of_a_loader_process_that_python_drops_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: said.append(dropped.exc_value))

    class Failing:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def __del__(self) -> None:
            raise self.error

    faults = [RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), ValueError("a fault")]
    with one_line(tmp_path):
        for fault in faults:
            Failing(fault)
    assert said == faults[1:]


def test_a_run_of_fewer_steps_than_it_logs_has_a_log(run: Run) -> None:
    assert [row["step"] for row in rows(run(log_every=100))] == ["3"]


def test_ctrl_c_keeps_model_and_manifest(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Training, *_: object) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "on_train_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(epochs=3)
    load_model(tmp_path / "run" / "model.safetensors")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["steps"] == 3
    assert len(losses(tmp_path / "run")) >= 2
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_damaged_frame_is_one_line_and_what_was_learnt_is_kept(
    run: Run, scenes: Path, tmp_path: Path, workers: str
) -> None:
    root = shutil.copytree(scenes, tmp_path / "data")
    frame = (root / "ImageSets" / "val.txt").read_text().split()[0]
    image = root / "training" / "image_2" / f"{frame}.png"
    image.write_bytes(image.read_bytes()[:900])
    with pytest.raises(InputError, match=rf"^{image}: expected a whole image, got one without its end"):
        run("--data.root", str(root), "--data.workers", workers, validation={"every": 1})
    load_model(tmp_path / "run" / "model.safetensors")


@pytest.mark.parametrize("modality", ["depth", "rgbd"])
def test_the_teacher_only_teaches(run: Run, tmp_path: Path, modality: str) -> None:
    teacher = run("--detector.init_args.config.modality", modality, out=str(tmp_path / "teacher")) / "model.safetensors"
    before = load_file(teacher)
    terms = {
        "rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss"}},
        "head": {"loss": {"class_path": "monoskd.models.did_m3d.teaching.HeadLoss"}, "between": "output"},
        "depth": {
            "loss": {"class_path": "monoskd.models.DepthMapLoss"},
            "between": "targets",
            "key": "features:neck.4",
        },
    }
    taps = [{"student": tap, "adapter": "conv"} for tap in ("neck.4", "neck.8")]
    recipe = {"teacher": str(teacher), "taps": taps, "terms": terms, "record_every": 2}
    captured = {}

    def keep(config: RunConfig, student: object) -> Training:
        captured["training"] = build_training(config, student)
        return captured["training"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monoskd.engine.run.build_training", keep)
        folder = run("--log_every", "3", out=str(tmp_path / "student"), distillation=recipe)
    after = captured["training"].distiller.teacher.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert weights(folder).keys() == load_model(folder / "model.safetensors").state_dict().keys()
    table = rows(folder)
    assert all(any(row[f"train/distill_{term}"] for row in table) for term in terms)
    readings = {row["step"]: row["flight/rank/loss"] for row in table if row["flight/rank/loss"]}
    assert list(readings) == ["0", "2"]
    assert len({*readings.values()}) == 2


def test_a_distillation_of_predictions_alone_needs_no_taps(run: Run, tmp_path: Path) -> None:
    teacher = run(epochs=1, out=str(tmp_path / "teacher")) / "model.safetensors"
    head = {"loss": {"class_path": "monoskd.models.did_m3d.teaching.HeadLoss"}, "between": "output"}
    folder = run(epochs=1, distillation={"teacher": str(teacher), "taps": [], "terms": {"head": head}})
    assert all(row["train/distill_head"] for row in rows(folder))


def test_a_student_that_reads_depth_maps_is_said(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = run(epochs=1, out=str(tmp_path / "student")) / "model.safetensors"
    depth = ("--detector.init_args.config.modality", "depth")
    teacher = run(*depth, epochs=1, out=str(tmp_path / "teacher")) / "model.safetensors"
    head = {"loss": {"class_path": "monoskd.models.did_m3d.teaching.HeadLoss"}, "between": "output"}
    said = "are `start` and `distillation.teacher` swapped?"
    run(epochs=1, distillation={"teacher": str(teacher), "taps": [], "terms": {"head": head}})
    assert said not in capsys.readouterr().err
    recipe = {"teacher": str(student), "taps": [], "terms": {"head": head}}
    run(*depth, epochs=1, out=str(tmp_path / "swapped"), distillation=recipe)
    assert said in capsys.readouterr().err


def test_a_run_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    folder = run(epochs=1)
    kept = (folder / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"run: holds a run; go on with `--resume"):
        run(epochs=1)
    other = run(epochs=1, out=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"run: holds a run; go on with `--resume"):
        run(epochs=2, resume=other)
    assert (folder / "model.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--detector.init_args.config.geometry", "published"], "detector: expected geometry `corrected`"),
        (["--data.published.per_axis_decoding", "true"], "detector: expected geometry `published`"),
        (["--data.batch_size", "5"], r"expected at least one batch of 5 frames in split train, got 4 frames"),
        (["--data.root", "nowhere"], r"nowhere: no such data set"),
        (["--data.train", "nosuch"], r"nosuch.txt: expected the frames of split 'nosuch'"),
        (["--data.dataset", "pathlib.Path"], "data.dataset: expected a FrameSource such as"),
        (["--start", "nowhere"], "nowhere: expected a model file, got no file"),
        (["--detector", "null"], "expected `detector` .* or `start`"),
        (["--accelerator", "toaster"], "expected what this machine can do, .*toaster"),
        (["--threads", "100000"], "threads: expected at most 1024, got 100000"),
        (["--data.min_height_px", "-3"], "data.min_height_px: expected at least 0, got -3"),
        (["--devices", "9999"], "devices: expected at most [0-9]+, the cores of this machine .*, got 9999"),
        (["--accelerator", "tpu"], "expected what this machine can do, "),
        (["--optimizer.gradient_clip", ".nan"], "optimizer.gradient_clip: expected at least 0, got nan"),
        (["--out", __file__], r"test_run\.py: expected to write here, got 'Not a directory': choose a writable folder"),
        (
            ["--data.val", "nosuch", "--detector.init_args.config.pretrained", "true"],
            r"nosuch.txt: expected the frames of split 'nosuch'",
        ),
        (["--seed", "-1"], "seed: expected 0 to 4294967295, got -1"),
        (["--optimizer.ema", "1"], "optimizer.ema: expected more than 0 and less than 1, got 1"),
        (["--start.inherit", "nowhere"], "nowhere: expected a model file, got no file"),
        (["--epochs", "0"], "epochs: expected at least 1, got 0"),
        (["--optimizer.schedule.base", "0"], "schedule: expected rates and decay above 0"),
        (["--validation.classes", "[Tram]"], "expected some of Pedestrian, Car, Cyclist, got 'Tram'"),
        (["--epocs", "3"], r"unknown key 'epocs'; did you mean 'epochs'\?"),
        (["--data.batchsize=3"], r"unknown key 'data.batchsize'; did you mean 'batch_size'\?"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(run: Run, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run(*overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_resuming_needs_a_checkpoint(run: Run, tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "old" / "checkpoints").mkdir(parents=True)
    if content is not None:
        (tmp_path / "old" / "checkpoints" / "last.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=r"old: expected a run folder|last.ckpt: expected a PyTorch checkpoint"):
        run(resume=tmp_path / "old")


def test_weights_of_another_network_are_refused(run: Run, tmp_path: Path) -> None:
    start = run(epochs=1, out=str(tmp_path / "first")) / "model.safetensors"
    with pytest.raises(InputError, match=r"model.safetensors: expected weights that fit the configured `detector`"):
        run("--start", str(start), "--detector.init_args.config.head_width", "16")


def test_resuming_fetches_no_pretrained_weights(run: Run, tmp_path: Path) -> None:
    folder = run(epochs=1)
    lost = ("--detector.init_args.config.pretrained", str(tmp_path / "lost.safetensors"), "--epochs", "2")
    with pytest.raises(InputError, match=r"lost\.safetensors"):
        run(*lost, out=str(tmp_path / "fresh"))
    assert json.loads((run(*lost, resume=folder) / "manifest.json").read_text())["epochs"] == 2


# --- runs that ended early --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "resumed"), [(KeyboardInterrupt(), False), (RuntimeError("killed"), True)])
def test_a_run_without_a_whole_epoch_begins_anew(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException, resumed: bool
) -> None:
    straight, folder = run(out=str(tmp_path / "straight")), tmp_path / "run"

    def stop(*_: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "on_train_batch_end", stop)
        with pytest.raises(type(error)):
            run()
    (folder / ".0123456789abcdef.partial").write_bytes(b"half")
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.part").write_bytes(b"half")
    with pytest.raises(InputError, match=r"expected the config that the run began with, got seed: 1 instead of 0"):
        run(seed=1)
    capsys.readouterr()
    assert run(resume=folder if resumed else None) == folder
    assert "the run in this folder ended before its first whole epoch; it begins anew" in capsys.readouterr().err
    assert losses(folder) == losses(straight)
    assert_same_weights(folder, straight)
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert not [*folder.rglob("*.partial"), *folder.rglob("*.part")]


@pytest.mark.parametrize("left", [None, ".lock"])
def test_a_run_that_was_killed_before_its_first_file_resumes(run: Run, tmp_path: Path, left: str | None) -> None:
    folder = tmp_path / "run"
    if left is not None:
        folder.mkdir()
        (folder / left).touch()
    assert json.loads((run(epochs=1, resume=folder) / "manifest.json").read_text())["epochs"] == 1
    with pytest.raises(InputError, match="holds a run"):
        run()


def test_a_refused_run_leaves_a_folder_that_can_be_used(run: Run) -> None:
    with pytest.raises(InputError, match="expected what this machine can do"):
        run("--accelerator", "toaster")
    run(epochs=1)


def test_rows_that_are_cut_off_or_gone_are_said(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    straight, folder = run(out=str(tmp_path / "straight"), epochs=3), run(epochs=2)
    log = folder / "metrics.csv"
    log.write_bytes(log.read_bytes()[:-7])
    capsys.readouterr()
    run(epochs=3, resume=folder)
    assert "metrics.csv: its last row is cut off and is left out; the other 3 are kept" in capsys.readouterr().err
    assert [row["step"] for row in rows(folder)] == ["0", "1", "2", "4", "5"]
    assert losses(folder) == [loss for step, loss in enumerate(losses(straight)) if step != 3]
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]) + "1,3,0.\n")
    checkpoint = (folder / "checkpoints/last.ckpt").read_bytes()
    run(epochs=4, resume=folder)
    assert "of the 5 rows of the first 6 steps 3 are gone; the others are kept" in capsys.readouterr().err
    assert [row["step"] for row in rows(folder)] == ["0", "1", "6", "7"]
    (folder / "checkpoints/last.ckpt").write_bytes(checkpoint)
    log.unlink()
    run(epochs=4, resume=folder)
    assert "metrics.csv: the rows of the first 6 steps are gone; it begins anew" in capsys.readouterr().err
    assert [row["step"] for row in rows(folder)] == ["6", "7"]


def test_a_flipped_bit_in_a_checkpoint_is_refused(run: Run) -> None:
    folder = run(epochs=1)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    content, draw = checkpoint.read_bytes(), random.Random(0)
    for place in [*draw.sample(range(len(content)), 30), *range(len(content) - 73, len(content), 6)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        checkpoint.write_bytes(damaged)
        with pytest.raises(InputError, match=r"last\.ckpt: expected a PyTorch checkpoint as it was written") as caught:
            check_seal(checkpoint)
        assert "\n" not in str(caught.value)
    for cut in (1, 71, 72):  # 71: the whole seal
        checkpoint.write_bytes(content[:-cut])
        with pytest.raises(InputError, match="expected a PyTorch checkpoint as it was written"):
            run(epochs=2, resume=folder)
    torch.save(torch.load(io.BytesIO(content), weights_only=True), checkpoint)  # as earlier versions wrote it
    run(epochs=2, resume=folder)


def test_under_slurm_all_files_are_in_the_run_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(out=str(tmp_path / "straight"))
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for folder in (tmp_path / "here", tmp_path / "run"):
        folder.mkdir()
        shutil.copy(straight / "checkpoints" / "last.ckpt", folder / "hpc_ckpt_1.ckpt")
    monkeypatch.chdir(tmp_path / "here")
    before, during = signal.getsignal(signal.SIGUSR1), []
    monkeypatch.setattr(Training, "on_train_batch_end", lambda *_: during.append(signal.getsignal(signal.SIGUSR1)))
    assert losses(run()) == losses(straight), "a foreign checkpoint was picked up"
    assert set(during) == {before}, "Lightning would requeue the job"
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["hpc_ckpt_1.ckpt"]


# PyTorch may be opening files of its own when the signal of the dead process interrupts it: these stay open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_loader_process_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Samples.read

    def killed(self: Samples, name: str) -> object:
        return os.kill(os.getpid(), signal.SIGKILL) if get_worker_info() and name == "000003" else read(self, name)

    monkeypatch.setattr(Samples, "read", killed)
    with pytest.raises(InputError, match=r"data.workers: .* ended by .* at frame 000003, .* repeat the command"):
        run("--data.workers", "1")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), (KeyboardInterrupt, None)),
        (RuntimeError("DataLoader worker (pid(s) 7) is killed by signal: Killed."), (InputError, "by signal Killed")),
    ],
)
def test_what_ends_a_run_while_its_loaders_start_is_not_hidden(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, said: tuple[type[BaseException], str | None]
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr("torch.utils.data.dataloader._SingleProcessDataLoaderIter.__init__", failing)
    with pytest.raises(said[0], match=said[1]):
        run()


def by_ranks(teacher: Path, **terms: object) -> dict[str, object]:
    """Distillation from a run's model, by ranks at the finest map, and by further terms."""
    return {
        "teacher": str(teacher / "model.safetensors"),
        "taps": [{"student": "neck.4", "adapter": "conv"}],
        "terms": {"rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss"}}, **terms},
    }


def test_channels_last_changes_the_layout_and_rounding_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts, outputs = [], Training.outputs

    def watched(self: Training, batch: object) -> object:
        networks = [self.student, *(self.distiller.teachers.values() if self.distiller else ())]
        weights = [weight for network in networks for weight in network.parameters() if weight.ndim == 4]
        layouts.append(all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights))
        return outputs(self, batch)

    monkeypatch.setattr(Training, "outputs", watched)
    teacher = run("--detector.init_args.config.modality", "depth", out=str(tmp_path / "teacher"), epochs=1)
    head = {"loss": {"class_path": "monoskd.models.did_m3d.teaching.HeadLoss"}, "between": "output"}
    recipe = by_ranks(teacher, head=head)
    found = []
    for last in (False, True):
        layouts.clear()
        folder = run(out=str(tmp_path / str(last)), distillation=recipe, channels_last=last, epochs=1)
        assert set(layouts) == {last}
        load_model(folder / "model.safetensors")
        found.append([float(loss) for loss in losses(folder)])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize(("precision", "given", "expected"), [
    ("bf16-mixed", None, (True, True)),
    ("16-mixed", None, (True, True)),
    ("32-true", None, (False, False)),
    ("bf16-mixed", False, (False, False)),
    ("32-true", True, (True, True)),
])  # fmt: skip
def test_the_layout_is_the_one_that_suits_the_device(
    write_config: Run,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    given: bool | None,
    expected: tuple[bool, bool],
) -> None:
    chosen = {} if given is None else {"channels_last": given}
    config = load_config(write_config(precision=precision, **chosen)).run()
    found = []
    for gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        found.append(channels_last_of(config))
    assert tuple(found) == expected


@pytest.mark.parametrize("there", [True, False])
def test_a_teacher_runs_in_bfloat16_where_the_machine_has_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: there)
    types, outputs = set(), Training.outputs

    def watched(self: Training, batch: object) -> object:
        output, distilled = outputs(self, batch)
        if distilled:
            types.add((output.features["neck.4"].dtype, distilled.maps["neck.4"].teacher.dtype))
        return output, distilled

    monkeypatch.setattr(Training, "outputs", watched)
    teacher = run("--detector.init_args.config.modality", "depth", out=str(tmp_path / "teacher"), epochs=1)
    types.clear()
    recipe = by_ranks(teacher)
    found = []
    for precision in (None, "bf16-mixed"):
        folder = run(
            out=str(tmp_path / str(precision)),
            distillation={**recipe, "teacher_precision": precision},
            epochs=1,
        )
        found.append([float(loss) for loss in losses(folder)])
    assert types == {(torch.float32, torch.float32), (torch.float32, torch.bfloat16 if there else torch.float32)}
    assert (found[0] == found[1]) != there
    assert found[1] == pytest.approx(found[0], rel=1e-2)
    assert ("the teacher runs as the student does" in capsys.readouterr().err) != there


def test_a_teacher_of_a_run_in_float64_is_in_float64_and_the_run_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    teacher = run("--detector.init_args.config.modality", "depth", out=str(tmp_path / "teacher"), epochs=1)
    recipe = by_ranks(teacher) | {"teacher_precision": "bf16-mixed"}
    run("--precision", "64-true", distillation=recipe, epochs=1)
    assert "64-true is for all networks; the teacher runs as the student does" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_a_gpu_lie_in_pinned_memory(
    write_config: Run, scenes: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    config = load_config(write_config(data={"root": str(scenes), "batch_size": 2, "workers": workers})).run()
    student, pinned = build_student(config), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    frames = Frames(config, student, Sources.open(config.data))
    monkeypatch.undo()
    assert frames.pin == bool(workers)
    batch = Batch.collate([frames.train[0]])
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    other = batch.pin_memory()
    assert len(pinned) > 10
    assert other.image is not batch.image
    torch.testing.assert_close(other.targets, batch.targets)
    moved = batch.to("cpu", copy=True)
    assert moved.image is not batch.image
    assert moved.frames == other.frames == batch.frames


def test_half_precision_on_a_cpu_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("--accelerator", "cpu", "--precision", "16-mixed", epochs=1, validation={"every": 1})
    stderr = capsys.readouterr().err
    assert "precision: a CPU has no 16-mixed; the run uses bf16-mixed" in stderr
    assert re.search(r"^epoch 1/1  validation  .*Car_3d \d", stderr, re.MULTILINE)


def test_two_processes_do_not_share_a_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = f"""import time
from pathlib import Path
from monoskd.engine.machine import alone
with alone(Path({str(folder)!r})):
    print("held", flush=True)
    time.sleep(600)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(InputError, match="run: expected a folder of this run alone, got one in which another"):
                run()
        finally:
            other.kill()
    run()
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("encoded_anew", [False, True])
def test_a_copy_of_a_validation_frame_is_not_trained_on(
    run: Run, scenes: Path, tmp_path: Path, encoded_anew: bool
) -> None:
    root = tmp_path / "copied"
    shutil.copytree(scenes, root)
    layout = KittiLayout(root)
    known, copied = read_split(layout.split("val"))[0], "900000"
    for kind in ("image_2", "calib", "label_2", "depth_2", "velodyne"):
        path = next(layout.folder(kind).glob(f"{known}.*"))
        shutil.copy(path, path.with_name(f"{copied}{path.suffix}"))
    if encoded_anew:
        layout.velodyne(copied).unlink()
        with Image.open(layout.image(known)) as image:
            image.save(layout.image(copied), compress_level=9)
        assert layout.image(copied).read_bytes() != layout.image(known).read_bytes()
    write_split(layout.split("train"), [*read_split(layout.split("train")), copied])
    with pytest.raises(InputError, match=rf"expected no copy of a frame of val, got {copied}, which shows {known}"):
        run("--data.root", str(root))


def test_a_split_without_objects_to_train_on_is_refused(run: Run) -> None:
    with pytest.raises(InputError, match=r"expected objects to train on in split train, got none of the classes"):
        run("--data.min_height_px", "100000")


def test_depth_maps_in_another_unit_are_refused(run: Run, scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "millimetres"
    shutil.copytree(scenes, root)
    layout = KittiLayout(root)
    for frame in read_split(layout.split("train")):
        write_depth(layout.depth(frame), read_depth(layout.depth(frame)) * 1000 / 256)
    with pytest.raises(InputError, match=r"expected depth maps on the labelled objects, got a median of .* train"):
        run("--data.root", str(root))


def test_labels_of_2d_boxes_only_are_counted_as_the_doctor_counts_them(
    run: Run, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "flat"
    shutil.copytree(scenes, root)
    layout = KittiLayout(root)
    train = read_split(layout.split("train"))
    for frame in (train[0], read_split(layout.split("val"))[0]):
        lines = [line.split() for line in layout.label(frame).read_text().splitlines()]
        only_2d = [" ".join([*words[:8], "-1", "-1", "-1", *words[11:]]) for words in lines]
        dont_care = "DontCare -1 -1 -10 5 5 20 20 -1 -1 -1 -1000 -1000 -1000 -10"
        layout.label(frame).write_text("\n".join([*only_2d, dont_care]))
    facts = [facts_of(layout, frame, depths=False) for frame in train]
    counts = [sum(fact.only_2d for fact in facts), sum(fact.objects for fact in facts)]
    assert 0 < counts[0] < counts[1]
    expected = f"{counts[0]} of {counts[1]} objects of split train are left out: they are labelled in 2D only"
    folder = run("--data.root", str(root), epochs=1)
    assert capsys.readouterr().err.count(expected) == 1
    run("--data.root", str(root), epochs=2, resume=folder)
    assert capsys.readouterr().err.count(expected) == 1


def test_small_objects_that_are_left_out_are_said_where_they_are_most(write_config: Callable[..., Path]) -> None:
    config = load_config(write_config()).run(resumed=False)
    data, student, sources = config.data, build_student(config), Sources.open(config.data)
    frames = [objects for objects in map(sources.train.objects, sources.train.names) if objects is not None]
    labelled = sum(int((objects.names != "DontCare").sum()) for objects in frames)
    fits, tall = (
        sum(int(is_supervised(objects, student.classes, min_height_px=least).sum()) for objects in frames)
        for least in (0, 60)
    )
    assert 0 < tall < fits - tall
    assert sources.check_supervised(replace(data, min_height_px=0), student) == []
    (said,) = sources.check_supervised(replace(data, min_height_px=60), student)
    assert f"{fits - tall} of {labelled} objects of split train are left out: they are lower than 60 px" in said
    assert f"{tall} remain. For pictures smaller than KITTI's lower `--data.min_height_px`" in said


def test_pictures_are_not_read_to_count_labels(write_config: Callable[..., Path], scenes: Path) -> None:
    reads = []

    class Recording(FrameSource):
        def __init__(self, kitti: FrameSource) -> None:
            self.kitti, self.names = kitti, kitti.names * 10

        def read(self, name: str) -> Frame:
            reads.append(name)
            return self.kitti.read(name)

    config = load_config(write_config()).run(resumed=False)
    source = Recording(KittiFrames(scenes))
    Sources(source, lambda *, depth: source, None).check_supervised(config.data, build_student(config))
    assert len(reads) <= len(source.kitti.names)


def test_an_epoch_that_is_printed_is_safe(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = []

    def read_back(line: str) -> None:
        if said := re.match(r"epoch (\d)/2  (validation|step)", line):
            checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
            validated = [row["epoch"] for row in rows(tmp_path / "run") if row["val/Car_3d"]]
            printed.append((said[1], said[2], checkpoint["epoch"], validated))

    monkeypatch.setattr(callbacks, "say", read_back)
    run(epochs=2, validation={"every": 1})
    words = ("validation", "step")
    assert printed == [(f"{epoch + 1}", word, epoch, ["0", "1"][: epoch + 1]) for epoch in (0, 1) for word in words]
