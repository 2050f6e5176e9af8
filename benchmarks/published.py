"""What each switch of the published mode is worth: `python benchmarks/published.py --out runs/published`.

On rendered frames, for each seed: a baseline and a teacher, then the MonoSKD recipe of `configs/demo`, corrected; with
one published switch on at a time; and with all of them. Each training is `monoskd train` in a process of its own with
one thread. Every run of a seed starts from the same baseline; a run whose depth is scaled twice has a teacher that was
trained with such depth, for any other would see nothing. The pictures have KITTI's proportions, which the network's
input has not, so that the two letterboxes differ. Called again, it goes on where it stopped.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.stats import t as student_t
from torch.utils.data import DataLoader

from monoskd.data.samples import Samples
from monoskd.demo.story import min_heights_px
from monoskd.engine.callbacks import commit, versions
from monoskd.engine.launch import Launch, train_side_by_side
from monoskd.engine.load import find_config
from monoskd.engine.measure import Measurement, measure
from monoskd.evaluation.evaluator import KittiEvaluator
from monoskd.kitti.prepare import prepare
from monoskd.kitti.source import KittiFrames
from monoskd.models.weights import load_model, save_model
from monoskd.structures import Batch, PublishedData
from monoskd.synthetic import synthesize

SIZE = (318, 96)  # width / height as KITTI's 1242 / 375; the network's input is 320 x 96
DATA_SEED = 0
CONFIDENCE = 0.95
AS_PUBLISHED = "published.safetensors"


@dataclass(frozen=True)
class Run:
    """One training of a seed.

    changes: what differs from the demo's recipe. recipe: its file in `configs/demo`. teacher: the run it learns from.
    against: the run it is compared with.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    recipe: str = "monoskd"
    teacher: str = "teacher"
    against: str = "corrected"


def loss_of(term: str, **arguments: Any) -> dict[str, Any]:
    """The change that gives a term's loss these arguments."""
    return {"distillation": {"terms": {term: {"loss": {"init_args": arguments}}}}}


DOUBLE_SCALE = {"data": {"published": {"double_depth_scale": True}}}
DIVIDE_BY_Z = {
    "data": {"published": {"divide_by_z": True}}
}  # alone it does nothing here: rendered cameras have p23 = 0
ORDINARY: dict[str, dict[str, Any]] = {
    "data.published.per_axis_decoding": {"data": {"published": {"per_axis_decoding": True}}},
    "data.published.plain_bilinear": {"data": {"published": {"plain_bilinear": True}}},
    "data.published.truncated_cells": {"data": {"published": {"truncated_cells": True}}},
    "distillation.teacher_batch_statistics": {"distillation": {"teacher_batch_statistics": True}},
    "rank: published": loss_of("rank", mode="published"),
    "affinity: published": loss_of("affinity", mode="published"),
    "head: published": loss_of("head", published=True),
    "schedule.milestones_after_warmup": {"optimizer": {"schedule": {"milestones_after_warmup": True}}},
    "schedule.once_an_epoch": {"optimizer": {"schedule": {"once_an_epoch": True}}},
}
LEARNING, SHIFTED = {"task_learning": True}, {"task_learning": True, "shifted_task_names": True}


def merged(*documents: dict[str, Any]) -> dict[str, Any]:
    """Mappings laid over one another, the last one on top."""
    result: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            below = result.get(key)
            result[key] = merged(below or {}, value) if isinstance(value, dict) else value
    return result


FIRST = {
    "baseline": Run(recipe="baseline"),
    "teacher": Run(recipe="teacher"),
    "teacher, double_depth_scale": Run(DOUBLE_SCALE, recipe="teacher"),
}
THEN = {
    "corrected": Run(),
    "data.published.double_depth_scale": Run(DOUBLE_SCALE, teacher="teacher, double_depth_scale"),
    **{name: Run(changes) for name, changes in ORDINARY.items()},
    "corrected, task_learning": Run(LEARNING),
    "shifted_task_names": Run(SHIFTED, against="corrected, task_learning"),
    "all together": Run(
        merged(DOUBLE_SCALE, DIVIDE_BY_Z, *ORDINARY.values(), SHIFTED),
        teacher="teacher, double_depth_scale",
        against="corrected, task_learning",
    ),
}
RUNS = FIRST | THEN


@dataclass(frozen=True)
class Plan:
    """How much is done: folder, frames and epochs of each recipe."""

    out: Path
    train: int
    val: int
    epochs: dict[str, int]

    def folder(self, name: str, seed: int) -> Path:
        """Where a run is."""
        words = name.replace(":", "").replace(",", "").replace(".", " ").split()
        return self.out / f"seed{seed}" / "-".join(words)

    def document(self, name: str, seed: int) -> dict[str, Any]:
        """The configuration of a run, complete."""
        run = RUNS[name]
        epochs = self.epochs[run.recipe]
        own = {
            "data": {"root": str(self.out / "data"), "min_height_px": min_heights_px(SIZE)[-1]},
            "out": str(self.folder(name, seed)),
            "seed": seed,
            "epochs": epochs,
            "optimizer": {"schedule": {"milestones": [math.ceil(0.7 * epochs), math.ceil(0.9 * epochs)]}},
            "validation": {"every": 0, "min_heights_px": list(min_heights_px(SIZE))},
        }
        if run.recipe == "monoskd":
            per_axis = run.changes.get("data", {}).get("published", {}).get("per_axis_decoding", False)
            model = AS_PUBLISHED if per_axis else "model.safetensors"
            own["start"] = str(self.folder("baseline", seed) / model)
            own["distillation"] = {"teacher": str(self.folder(run.teacher, seed) / model), "record_every": 0}
        return merged(_recipe(run.recipe), own, run.changes)


@cache
def _recipe(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(find_config(Path(f"demo/{name}.yaml")).read_text())
    return document


def carry_out(plan: Plan, name: str, seed: int) -> dict[str, Any]:
    """Train and measure a run, unless that is done already."""
    folder, document = plan.folder(name, seed), plan.document(name, seed)
    done = folder / "result.json"
    if done.is_file():
        result: dict[str, Any] = json.loads(done.read_text())
        if result["config"] == document:
            return result
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "recipe.yaml"
    config.write_text(yaml.safe_dump(document))
    started = time.perf_counter()
    train_side_by_side([Launch(config, folder)])
    if name in FIRST:
        relabel(folder)
    result = {"config": document, **quality(document), "seconds": round(time.perf_counter() - started)}
    done.write_text(json.dumps(result, indent=1) + "\n")
    print(f"seed {seed}  {name}: AP {result['ap']:.2f}, depth {result['depth_m']:.3f} m, {result['seconds']} s")
    sys.stdout.flush()
    return result


def relabel(folder: Path) -> None:
    """The same weights as a network of `geometry: published`, for runs that are fed so."""
    network: Any = load_model(folder / "model.safetensors")
    relabelled = type(network)(replace(network.config, geometry="published"))
    relabelled.load_state_dict(network.state_dict())
    save_model(relabelled, folder / AS_PUBLISHED, provenance={"weights_of": "model.safetensors"})


def quality(document: dict[str, Any]) -> dict[str, float]:
    """Car AP3D|R40@0.5 moderate and the median depth error at true peaks [m], on the held-out frames.

    The frames come through the pipeline that the run was trained with, as they would in its own validation.
    """
    detector = load_model(Path(document["out"]) / "model.safetensors")
    data = document["data"]
    published = PublishedData(**data.get("published", {}))
    frames = Samples(
        KittiFrames(data["root"], "val", depth=detector.modality == "depth"),
        input_size=detector.input_size,
        targets=detector.target_maker(min_height_px=data["min_height_px"], published=published),
        published=published,
    )
    evaluator = KittiEvaluator(("Car",), tuple(document["validation"]["min_heights_px"]))
    measurement = Measurement(evaluator)
    measure(detector, DataLoader(frames, batch_size=8, collate_fn=Batch.collate), measurement)
    rows = evaluator.evaluate(measurement.truth, measurement.detections).rows()
    chosen = next(row for row in rows if (row["metric"], row["recall"], row["iou"]) == ("3d", "R40", 0.5))
    return {"ap": chosen["moderate"] or 0.0, "depth_m": measurement.depth_error_m()["median"] or math.nan}


def spread(values: Iterable[float], digits: int) -> str:
    """Mean and, of several values, standard deviation."""
    x = np.array(list(values))
    return f"{x.mean():.{digits}f}" + (f" ± {x.std(ddof=1):.{digits}f}" if len(x) > 1 else "")


def difference(values: Iterable[float], digits: int) -> str:
    """Mean and, of several values, its 95 % interval (Student's t)."""
    x = np.array(list(values))
    if len(x) == 1:
        return f"{x[0]:+.{digits}f}"
    half = student_t.ppf((1 + CONFIDENCE) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return f"{x.mean():+.{digits}f} [{x.mean() - half:+.{digits}f}, {x.mean() + half:+.{digits}f}]"


def table(results: dict[str, dict[int, dict[str, Any]]]) -> str:
    """The numbers as a markdown table: mean and standard deviation, and the paired difference with its interval."""
    lines = [
        "| switched on | Car AP3D@0.5 moderate | difference | median depth error [m] | difference |",
        "|---|---|---|---|---|",
    ]
    for name, run in RUNS.items():
        cells = []
        for key, digits in (("ap", 1), ("depth_m", 2)):
            values = {seed: one[key] for seed, one in results[name].items()}
            cells.append(spread(values.values(), digits))
            reference = results[run.against]
            paired = [value - reference[seed][key] for seed, value in values.items()]
            cells.append(difference(paired, digits) if name in THEN and name != run.against else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/published"), help="folder for data and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--train", type=int, default=96, help="frames to train on")
    parser.add_argument("--val", type=int, default=120, help="held-out frames")
    parser.add_argument("--epochs", type=int, nargs=3, default=[24, 24, 8], metavar=("BASELINE", "TEACHER", "DISTIL"))
    parser.add_argument("--json", type=Path, default=None, help="write what was measured")
    options = parser.parse_args()
    torch.set_num_threads(1)

    epochs = dict(zip(("baseline", "teacher", "monoskd"), options.epochs, strict=True))
    plan = Plan(options.out, options.train, options.val, epochs)
    total = plan.train + plan.val
    synthesize(plan.out / "data", frames=total, val=plan.val / total, seed=DATA_SEED, size=SIZE)
    prepare(plan.out / "data")
    results: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in RUNS}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for stage in (FIRST, THEN):
            jobs = {(n, s): pool.submit(carry_out, plan, n, s) for s in options.seeds for n in stage}
            for (name, seed), job in jobs.items():
                results[name][seed] = job.result()
    print(table(results))
    if options.json:
        measured = {
            name: {seed: {key: one[key] for key in ("ap", "depth_m", "seconds")} for seed, one in by_seed.items()}
            for name, by_seed in results.items()
        }
        record = {
            "schema": "monoskd/published/1",
            "command": sys.argv,
            "commit": commit(),
            "versions": versions(),
            "seeds": options.seeds,
            "data": {"train": plan.train, "val": plan.val, "size": SIZE, "seed": DATA_SEED},
            "epochs": epochs,
            "recipes": {recipe: _recipe(recipe) for recipe in epochs},
            "runs": measured,
            "table": table(results).splitlines(),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
