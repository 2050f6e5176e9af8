"""The main job on rendered data: render, prepare, teacher, baseline, control, MonoSKD with and without further frames.

Every training is the same command that a user would type, in a process of its own with one thread; some run side by
side, which on two cores is faster than one after another with two threads.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from monoskd.demo.report import Report, RunResult, Scene, write_report
from monoskd.engine.callbacks import versions
from monoskd.engine.config import MOST_SEEDS
from monoskd.engine.measure import Measurement, labelled_batches, measure
from monoskd.errors import InputError
from monoskd.evaluation.evaluator import KittiEvaluator
from monoskd.evaluation.rules import MIN_HEIGHTS_PX, NEIGHBOURS
from monoskd.files import read_json, read_text, write_json
from monoskd.kitti.io import read_calibration, read_image, read_split
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import prepare
from monoskd.models.weights import load_model
from monoskd.objects import Objects
from monoskd.synthetic import MANIFEST, synthesize

VAL_SHARE = 5 / 9
UNLABELLED_SHARE = 16 / 9  # frames without labels for each with: four for each that is trained on
KITTI_HEIGHT_PX = 375  # the evaluation's least object heights are meant for images this tall
BATCH = 4
STRIDE = 32
SCENES, SCENE_OBJECTS = 4, 5  # held-out frames that the report draws, and about how many objects they show

STAGES = (("teacher", "baseline"), ("control", "monoskd", "monoskd_unlabelled"))
"""Which runs go side by side. Those of the second stage begin with the baseline; all but control need the teacher."""


def demo(
    out: Path,
    *,
    frames: int = 360,
    seed: int = 0,
    size: tuple[int, int] = (320, 96),
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Do it all; returns the path of `report.html`, with `report.json` beside it.

    out: folder for `data/`, `runs/` and the report. frames: rendered frames with labels, 5/9 of them held out; 16/9 as
    many without come on top. seed: of the scenes and of every training. size: (width, height) of the pictures [px].
    say: told what is going on.

    Interrupted and called again with the same arguments it goes on with the data and the runs that are whole; a
    finished demo is trained anew. Raises InputError where `out` holds anything else.
    """
    if frames < 2 * BATCH + 2:
        raise InputError(f"--frames: expected at least {2 * BATCH + 2}, a batch of {BATCH} to train on, got {frames}")
    if not 0 <= seed < MOST_SEEDS:
        raise InputError(f"--seed: expected 0 to {MOST_SEEDS - 1}, got {seed}")
    _check_ours(out)
    data = out / "data"
    started = None if data.exists() else time.perf_counter()
    unlabelled = round(frames * UNLABELLED_SHARE)
    say(f"1/5 rendering {frames} street scenes of {size[0]} x {size[1]} pixels, and {unlabelled} without labels")
    synthesize(data, frames=frames, val=VAL_SHARE, seed=seed, size=size, unlabelled=unlabelled)
    if (out / "report.html").exists():  # of the same arguments, or the data would have been refused
        shutil.rmtree(out / "runs", ignore_errors=True)
        (out / "report.html").unlink()
    say("2/5 depth maps from the LiDAR points")
    say(f"    {prepare(data)}")
    for number, stage in enumerate(STAGES, start=3):
        todo = [name for name in stage if not _finished(out / "runs" / name)]
        say(f"{number}/5 training {', '.join(stage)} side by side{'' if todo == [*stage] else ', or done before'}")
        train_side_by_side(todo, out=out, seed=seed, size=size, say=say)
    say("5/5 evaluating on held-out frames")
    report = examine(out, data=data, seed=seed, size=size, started=started)
    write_json(out / "report.json", report.to_json())
    return write_report(report, out / "report.html")


def examine(out: Path, *, data: Path, seed: int, size: tuple[int, int], started: float | None) -> Report:
    """Measure every run on the held-out frames. started: when it all began, None if not in this process."""
    runs, found = {}, {}
    for name in (name for stage in STAGES for name in stage):
        folder = out / "runs" / name
        evaluator = KittiEvaluator(min_heights_px=min_heights_px(size))
        measurement = Measurement(evaluator)
        detector = load_model(folder / "model.safetensors")
        batches = labelled_batches(detector, data, split="val", min_height_px=min_heights_px(size)[-1])
        measure(detector, batches, measurement)
        runs[name] = RunResult(
            folder=folder,
            results=evaluator.evaluate(measurement.truth, measurement.detections).rows(),
            depth_error_m=measurement.depth_error_m(),
            manifest=read_json(folder / "manifest.json"),
        )
        pairs = zip(measurement.detections, measurement.truth, strict=True)
        found[name] = [one[: _countable(truth)] for one, truth in pairs]  # detections come best first
    layout = KittiLayout(data)
    names = read_split(layout.split("val"))
    truth = measurement.truth
    typical = sorted(range(len(names)), key=lambda i: abs(_countable(truth[i]) - SCENE_OBJECTS))[:SCENES]
    scenes = [
        Scene(
            frame=names[i],
            image=read_image(layout.image(names[i])),
            camera=read_calibration(layout.calibration(names[i])).camera,
            truth=truth[i],
            found={name: objects[i] for name, objects in found.items()},
        )
        for i in typical
    ]
    frames = {split: len(read_split(layout.split(split))) for split in ("train", "val", "unlabelled")}
    seconds = None if started is None else time.perf_counter() - started
    return Report(seed=seed, frames=frames, size=size, runs=runs, scenes=scenes, seconds=seconds, versions=versions())


def train_side_by_side(
    names: Sequence[str], *, out: Path, seed: int, size: tuple[int, int], say: Callable[[str], None]
) -> None:
    """Train `configs/demo/<name>.yaml` for each name, each in its own process; raises InputError if one fails."""
    processes = {}
    for name in names:
        folder = out / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run has left
        folder.mkdir(parents=True)
        output = (folder / "log.txt").open("wb")
        command = train_command(name, out=out, seed=seed, size=size)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes[name] = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        for name, process in processes.items():
            if process.wait() != 0:
                log = out / "runs" / name / "log.txt"
                last = (read_text(log).strip().splitlines() or ["no output"])[-1]
                hint = (
                    "; so few frames teach the teacher too little, raise `--frames`" if "find something" in last else ""
                )
                raise InputError(
                    f"training {name} stopped with exit code {process.returncode}: {last}; see {log}{hint}"
                )
            manifest = read_json(out / "runs" / name / "manifest.json")
            say(f"    {name}: {manifest['steps']} steps in {manifest['train_seconds']:.0f} s")
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()


def train_command(name: str, *, out: Path, seed: int, size: tuple[int, int]) -> list[str]:
    """The `monoskd train` call of one run of the demo."""
    runs = out / "runs"
    options = {
        "data.root": str(out / "data"),
        "out": str(runs / name),
        "seed": str(seed),
        "data.min_height_px": str(min_heights_px(size)[-1]),
        "validation.min_heights_px": json.dumps(min_heights_px(size)),
    }
    if name in STAGES[0]:
        options["detector.init_args.config.input_size"] = json.dumps(input_size(size))
    else:
        options["start"] = str(runs / "baseline" / "model.safetensors")
    if name not in (*STAGES[0], "control"):
        options["distillation.teacher"] = str(runs / "teacher" / "model.safetensors")
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return [sys.executable, "-m", "monoskd", "train", f"demo/{name}.yaml", *words]


def input_size(size: tuple[int, int]) -> tuple[int, int]:
    """The picture's size rounded up to whole cells of the coarsest map."""
    return (-(-size[0] // STRIDE) * STRIDE, -(-size[1] // STRIDE) * STRIDE)


def _countable(truth: Objects) -> int:
    """How many objects of the three classes a frame shows: that many detections of each run are drawn."""
    return int((np.isin(truth.names, list(NEIGHBOURS)) & (truth.occlusion < 2)).sum())


def min_heights_px(size: tuple[int, int]) -> tuple[float, float, float]:
    """Least 2D heights of easy, moderate and hard objects, scaled from KITTI's pictures to these."""
    easy, moderate, hard = (height * size[1] / KITTI_HEIGHT_PX for height in MIN_HEIGHTS_PX)
    return easy, moderate, hard


def _finished(run: Path) -> bool:
    """Whether this run of the demo went to its end."""
    try:
        return bool(read_json(run / "manifest.json")["finished"])
    except (InputError, ValueError, KeyError, TypeError):  # not there, or damaged
        return False


def _check_ours(out: Path) -> None:
    """Anything that is not a demo's is left alone."""
    names = {one.name for one in out.iterdir()} if out.exists() else set()
    runs = {one.name for one in (out / "runs").iterdir()} if "runs" in names else set()
    known = names <= {"data", "runs", "report.html", "report.json"} and runs <= {name for one in STAGES for name in one}
    if names and not (known and (out / "data" / MANIFEST).is_file()):
        raise InputError(
            f"{out}: expected a new folder or an earlier demo's, found other files; choose another with --out"
        )
