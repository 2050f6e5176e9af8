"""The whole job on rendered data: render, prepare, train five runs (see `STAGES`), evaluate, write the report.

Every training is the same command that a user would type, in a separate process with one thread; some run side by
side. On two cores this is faster than one after another with two threads.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monoskd.demo.report import DemoReport, DrawnFrame, RunResult, write_report
from monoskd.engine.callbacks import versions
from monoskd.engine.launch import Launch, is_finished, manifest_of, train_side_by_side
from monoskd.engine.load import MOST_SEEDS, find_config, load_config
from monoskd.engine.measure import Measurement, labelled_batches, measure
from monoskd.engine.run_folder import CONFIG, MODEL
from monoskd.errors import InputError
from monoskd.evaluation.evaluator import KittiEvaluator
from monoskd.evaluation.rules import MIN_HEIGHTS_PX, NEIGHBOURS
from monoskd.files import write_json
from monoskd.kitti.io import read_calibration, read_image, read_split
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import prepare
from monoskd.models.named import named
from monoskd.models.weights import load_model
from monoskd.objects import KITTI_HEIGHT_PX, Objects
from monoskd.structures import Detector
from monoskd.synthetic import MANIFEST, synthesize

VAL_SHARE = 5 / 9
UNLABELLED_SHARE = 16 / 9  # frames without labels per frame with labels: four per training frame
FRAMES, BATCH = 360, 4
DRAWN_FRAMES, OBJECTS_IN_DRAWN = 4, 5  # held-out frames that the report draws, and about how many objects they show

STAGES = (("teacher", "baseline"), ("control", "monoskd", "monoskd_unlabelled"))
"""Which runs go side by side. Those of the second stage begin with the baseline; all but control need the teacher."""

RUNS = tuple(name for stage in STAGES for name in stage)


def demo(
    out: Path,
    *,
    frames: int = FRAMES,
    seed: int = 0,
    size: tuple[int, int] = (320, 96),
    detector: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run every step; returns the path of `report.html`, with `report.json` beside it.

    out: folder for `data/`, `runs/` and the report. frames: number of rendered frames with labels, 5/9 of them held
    out; 16/9 of that number are rendered without labels. seed: of the scenes and of every training. size: (width,
    height) of the pictures [px]. detector: a name of `recipes()`, by default its first. say: called with each line of
    progress.

    After an interruption, a call with the same arguments keeps complete data and finished runs; a finished demo is
    trained again. Raises InputError where `out` holds anything else.
    """
    if frames < 2 * BATCH + 2:
        raise InputError(f"--frames: expected at least {2 * BATCH + 2}, a batch of {BATCH} to train on, got {frames}")
    if not 0 <= seed < MOST_SEEDS:
        raise InputError(f"--seed: expected 0 to {MOST_SEEDS - 1}, got {seed}")
    known_recipes = recipes()
    detector = detector or next(iter(known_recipes))
    if detector not in known_recipes:
        raise InputError(f"--detector: expected {', '.join(known_recipes)}, got {detector}")
    _check_ours(out, recipe=known_recipes[detector])
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
        launches = [launch(name, out=out, seed=seed, size=size, recipe=known_recipes[detector]) for name in stage]
        known = any(is_finished(run.out) for run in launches)
        say(f"{number}/5 training {', '.join(stage)} side by side{', or done before' if known else ''}")
        try:
            train_side_by_side(launches, finished=lambda run, manifest: say(f"    {_pace(run, manifest)}"))
        except InputError as error:
            few = (
                f"; with {frames} frames a teacher may learn too little, {FRAMES} are usual" if frames < FRAMES else ""
            )
            raise InputError(f"{error}{few}") from error
    say("5/5 evaluating on held-out frames")
    report = measure_runs(out, data=data, detector=detector, seed=seed, size=size, started=started)
    write_json(out / "report.json", report.to_json())
    return write_report(report, out / "report.html")


def measure_runs(
    out: Path, *, data: Path, detector: str, seed: int, size: tuple[int, int], started: float | None
) -> DemoReport:
    """Measure every run on the held-out frames. started: when the demo began; None if an earlier process began it."""
    layout, evaluator = KittiLayout(data), KittiEvaluator(min_heights_px=min_heights_px(size))
    runs, detections, truth = dict[str, RunResult](), dict[str, list[Objects]](), list[Objects]()
    for name in RUNS:
        folder = out / "runs" / name
        network = load_model(folder / MODEL)
        batches = labelled_batches(network, data, split="val", min_height_px=min_heights_px(size)[-1])
        measurement = measure(network, batches, Measurement(evaluator))
        truth, detections[name] = measurement.truth, measurement.detections
        runs[name] = RunResult(
            folder=folder,
            results=evaluator.evaluate(truth, detections[name]).rows(),
            depth_error_m=measurement.depth_error_m(),
            manifest=manifest_of(folder),
        )
    frames = {split: len(read_split(layout.split(split))) for split in ("train", "val", "unlabelled")}
    seconds = None if started is None else time.perf_counter() - started
    return DemoReport(
        detector=detector,
        seed=seed,
        frames=frames,
        size=size,
        runs=runs,
        drawn=_drawn(layout, truth, detections),
        seconds=seconds,
        versions=versions(),
    )


def _drawn(
    layout: KittiLayout, truth: Sequence[Objects], detections: Mapping[str, Sequence[Objects]]
) -> list[DrawnFrame]:
    """The held-out frames that the report draws: those with about as many objects as fit, each run's best boxes."""
    names = read_split(layout.split("val"))
    counts = [_countable(objects) for objects in truth]
    typical = sorted(range(len(names)), key=lambda i: abs(counts[i] - OBJECTS_IN_DRAWN))[:DRAWN_FRAMES]
    return [
        DrawnFrame(
            frame=names[i],
            image=read_image(layout.image(names[i])),
            camera=read_calibration(layout.calibration(names[i])).camera,
            truth=truth[i],
            detections={name: objects[i][: counts[i]] for name, objects in detections.items()},
        )
        for i in typical
    ]


def recipes(config: Path = Path("demo/baseline.yaml")) -> dict[str, Path]:
    """The folder of the shipped configs of each detector that has `config`, by its folder's name under `models/`.

    The first is that of `config` itself; another detector's configs lie in a folder of its name beside it.
    """
    shipped = find_config(config)
    others = sorted(file.parent.name for file in shipped.parent.glob(f"*/{shipped.name}"))
    default = _detector_class(config).__module__.split(".")[-2]
    return {default: config.parent, **{name: config.parent / name for name in others}}


def launch(name: str, *, out: Path, seed: int, size: tuple[int, int], recipe: Path = Path("demo")) -> Launch:
    """The `monoskd train` call of one run of the demo. recipe: the folder of the detector's configs."""
    runs, heights = out / "runs", min_heights_px(size)
    options: dict[str, Any] = {
        "data.root": out / "data",
        "seed": seed,
        "data.min_height_px": heights[-1],
        "validation.min_heights_px": heights,
    }
    if name in STAGES[0]:
        option, multiple = _input_size_option(recipe / f"{name}.yaml")
        options[option] = [-(-side // multiple) * multiple for side in size]  # rounded up
    else:
        options["start"] = runs / "baseline" / MODEL
    if name not in (*STAGES[0], "control"):
        options["distillation.teacher"] = runs / "teacher" / MODEL
    return Launch(recipe / f"{name}.yaml", runs / name, options)


def _input_size_option(config: Path) -> tuple[str, int]:
    """The option for the input size of the run's detector, and what both sides are multiples of."""
    keys: list[str] = list(load_config(config).namespace.keys())
    option = next(key for key in keys if key.startswith("detector.") and key.endswith(".input_size"))
    return option, _detector_class(config).input_multiple


def _detector_class(config: Path) -> type[Detector]:
    """The class that a config names."""
    detector: type[Detector] = named(load_config(config).namespace.detector.class_path, words=("monoskd",))
    return detector


def _pace(run: Launch, manifest: dict[str, Any]) -> str:
    return f"{run.out.name}: {manifest['steps']} steps in {manifest['train_seconds']:.0f} s"


def _countable(truth: Objects) -> int:
    """How many objects of the three classes a frame shows: that many detections of each run are drawn."""
    return int((np.isin(truth.names, list(NEIGHBOURS)) & (truth.occlusion < 2)).sum())


def min_heights_px(size: tuple[int, int]) -> tuple[float, float, float]:
    """Least 2D heights of easy, moderate and hard objects, scaled from KITTI's pictures to these."""
    easy, moderate, hard = (height * size[1] / KITTI_HEIGHT_PX for height in MIN_HEIGHTS_PX)
    return easy, moderate, hard


def _check_ours(out: Path, *, recipe: Path) -> None:
    """Raise InputError where the folder holds files that no demo wrote, or runs of another detector."""
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    runs = {path.name for path in (out / "runs").iterdir()} if "runs" in names else set()
    ours = {"data", "runs", "report.html", "report.json"}
    known = names <= ours and runs <= {*RUNS}
    if names and not (known and (out / "data" / MANIFEST).is_file()):
        raise InputError(
            f"{out}: expected a new folder or an earlier demo's, found other files; choose another with --out"
        )
    expected = _detector_class(recipe / f"{STAGES[0][0]}.yaml")
    for begun in (out / "runs" / name / CONFIG for name in STAGES[0]):
        found = _detector_class(begun) if begun.is_file() else expected
        if found is not expected:
            raise InputError(
                f"{out}: expected runs of {expected.__name__}, got those of {found.__name__}; choose another with --out"
            )
