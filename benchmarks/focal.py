"""What another camera costs: `python benchmarks/focal.py --out runs/focal --seeds 101 102 103`.

For each seed three students: one learns from pictures of one focal length, one from the same pictures with other lenses
made by augmentation (`augmentation.lens`), one from the same streets through several lenses. Beside them, for each of
four lenses, one that learns through that lens and is asked through no other: what such pictures are worth at best. All
see held-out streets, rendered through the training's camera and through others: other lenses, other numbers of pixels,
other shapes. Each is asked as a user asks (`Predictor`), with and without the two parts of the geometry:

- depth: depths go by the focal length. Without: by the zoom alone, as if every picture were taken through the lens of
  training. That is the same network with the camera's focal length as its reference, so that k is the zoom.
- fit: `--fit focal`. Without: `--fit size`.

A camera's AP is compared with that of the training's camera on the same objects: cars that KITTI's labels would have,
at most partly occluded and truncated, in both pictures. All other road users are ignored. Called again, it goes on
where it stopped. `--report` adds what there is to benchmarks/results/focal.json, which holds what was measured before,
and writes the tables and figures of docs/focal.md.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from focal_report import write_focal

from monoskd.demo.story import min_heights_px
from monoskd.engine.callbacks import commit, versions
from monoskd.engine.launch import Launch, is_finished, train_side_by_side
from monoskd.engine.load import find_config
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.rules import MAX_OCCLUSION, MAX_TRUNCATION
from monoskd.frames import Frame
from monoskd.geometry.iou import iou_2d
from monoskd.inference.predictor import Predictor
from monoskd.kitti.prepare import prepare
from monoskd.kitti.source import KittiFrames
from monoskd.objects import Objects
from monoskd.synthetic import synthesize

SIZE, FOCAL_PX = (320, 96), 185.9  # of the training pictures: KITTI's field of view
FRAMES, VAL, EPOCHS = 168, 8, 50  # val: `train` wants some, which nothing reads
STREETS, STREETS_SEED = 48, 7
LENSES = (0.5, 0.7, 1.4, 2.0, 2.7)
MODERATE = 1
LEAST_OVERLAP, LEAST_SCORE = 0.5, 0.05  # of the 2D boxes whose depth errors count
DIGITS = 2  # of positions in label files


@dataclass(frozen=True)
class View:
    """A camera: the size of its pictures and its focal length."""

    size: tuple[int, int]
    focal_px: float


def _views() -> Iterator[tuple[str, View]]:
    width, height = SIZE
    yield "training", View(SIZE, FOCAL_PX)
    for times in LENSES:
        yield f"lens {times:g}x", View(SIZE, times * FOCAL_PX)
    for times in (0.5, 2.0):
        yield f"pixels {times:g}x", View((round(times * width), round(times * height)), times * FOCAL_PX)
    for name, size in {"16:9": (320, 180), "4:3": (320, 240), "portrait": (180, 320)}.items():
        yield name, View(size, FOCAL_PX)


VIEWS = dict(_views())
WAYS = {"both": ("focal", True), "no fit": ("size", True), "no depth": ("focal", False), "neither": ("size", False)}
"""How a network is asked: the fit, and whether depths go by the focal length."""


@dataclass(frozen=True)
class Training:
    """The range of focal lengths [px] that a student learns from (None: `FOCAL_PX` alone), and what it is asked.

    least_height: of the objects that it is taught, as a multiple of what it is through the training's camera; the same
    cars have other heights through another lens. lens: `augmentation.lens`.
    """

    focal_px: tuple[float, float] | None
    views: tuple[str, ...] = tuple(VIEWS)
    ways: tuple[str, ...] = ("both", "no fit")
    least_height: float = 1.0
    lens: float = 0.0


TRAININGS = {
    "one": Training(None, ways=tuple(WAYS)),
    "made": Training(None, lens=0.5),
    "several": Training((0.5 * FOCAL_PX, 2.7 * FOCAL_PX)),
    **{
        f"own {times:g}x": Training((times * FOCAL_PX, times * FOCAL_PX), (f"lens {times:g}x",), ("both",), times)
        for times in LENSES
        if times <= 2
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/focal"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS), metavar="NAME")
    parser.add_argument("--look", action="store_true", help="train nothing; ask the networks that there are")
    parser.add_argument("--report", action="store_true", help="train nothing; write what is known")
    options = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [(name, seed) for seed in options.seeds for name in options.trainings]
    if not options.report:
        for name, seed in [] if options.look else jobs:
            train(options.out / f"{name}_{seed}", seed, TRAININGS[name])
        for name, seed in jobs:
            for view in TRAININGS[name].views:
                look(options.out, view, name, seed)
    rows = measured(options.out, jobs)
    if options.report:
        write_focal(rows, {"commit": commit(), "versions": versions(), "frames": STREETS, "epochs": EPOCHS})
    for row in rows:
        print(json.dumps(row))


def train(folder: Path, seed: int, training: Training) -> None:
    """One training, which goes on where it stopped."""
    if is_finished(folder / "run"):
        return
    synthesize(folder / "data", frames=FRAMES, val=VAL / FRAMES, seed=seed, size=SIZE, focal_px=training.focal_px)
    prepare(folder / "data")
    config: dict[str, Any] = yaml.safe_load(find_config(Path("demo/baseline.yaml")).read_text())
    config |= {"out": str(folder / "run"), "seed": seed, "epochs": EPOCHS}
    least_px = training.least_height * min_heights_px(SIZE)[-1]
    config["data"] |= {"root": str(folder / "data"), "min_height_px": least_px, "augmentation": {"lens": training.lens}}
    config["optimizer"]["schedule"] = {"base": 0.003, "warmup_epochs": 1, "cosine": True}
    config["validation"]["min_heights_px"] = list(min_heights_px(SIZE))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    train_side_by_side([Launch(path, folder / "run")])


def render(out: Path, view: str) -> Path:
    """The held-out streets through one camera."""
    camera, root = VIEWS[view], out / "streets" / view.replace(" ", "_").replace(":", "_")
    focal_px = (camera.focal_px, camera.focal_px)
    synthesize(root, frames=STREETS, val=0, seed=STREETS_SEED, size=camera.size, focal_px=focal_px)
    return root


def frames_of(out: Path, view: str) -> list[Frame]:
    """What `render` wrote."""
    source = KittiFrames(render(out, view), split="trainval", depth=False)
    return [source.read(name) for name in source.names]


def answers(out: Path, name: str, seed: int, view: str) -> Path:
    """The file that holds what one network says of one camera's pictures."""
    return out / f"{name}_{seed}" / "said" / f"{view}.pt"


def look(out: Path, view: str, name: str, seed: int) -> None:
    """Write what one network says of one camera's pictures, asked in all ways, unless that is known."""
    camera, path = VIEWS[view], answers(out, name, seed, view)
    run = out / f"{name}_{seed}" / "run"
    if path.is_file() or not is_finished(run):  # a training that was stopped has a model file, too
        return
    frames, said = frames_of(out, view), {}
    for way, (fit, by_focal) in WAYS.items():
        if way not in TRAININGS[name].ways or (not by_focal and camera.focal_px == FOCAL_PX):
            continue  # through the training's lens it makes no difference
        predictor = Predictor(run / "model.safetensors", fit=fit)
        if not by_focal:
            detector: Any = predictor.detector
            detector.config = replace(detector.config, reference_focal_px=camera.focal_px)
        said[way] = [predictor(frame.image, frame.camera).to_objects() for frame in frames]
    path.parent.mkdir(exist_ok=True)
    torch.save(said, path)
    print(f"{name} {seed} {view}", flush=True)


def measured(out: Path, jobs: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """A row for each network, camera and way that is known."""
    said = {(*job, view): path for job in jobs for view in VIEWS if (path := answers(out, *job, view)).is_file()}
    labels = {view: [frame.objects for frame in frames_of(out, view)] for view in VIEWS}
    rows = []
    for (name, seed, view), path in said.items():
        truth, reference = same_objects(labels, view)
        base = said.get((name, seed, "training"))
        at_training = numbers(reference, torch.load(base, weights_only=False)["both"]) if base else {}
        for way, detections in torch.load(path, weights_only=False).items():
            own = numbers(truth, detections)
            row = {"training": name, "seed": seed, "view": view, "way": way, "objects": own.pop("objects")}
            rows.append(row | own | {f"training {key}": value for key, value in at_training.items()})
    return rows


def same_objects(labels: dict[str, list[Any]], view: str) -> tuple[list[Objects], list[Objects]]:
    """The labels of a camera and of the training's, frame by frame: cars in both, and all else that is to be ignored.

    All else: road users that any camera's labels have. They get the name of a class that counts neither way for cars.
    """
    pairs = []
    for frame in range(len(labels[view])):
        everywhere: dict[tuple[str, ...], Objects] = {}
        for known in labels.values():
            everywhere |= _by_place(known[frame])
        own, reference = (_by_place(labels[name][frame]) for name in (view, "training"))
        common = [key for key in own if key in reference and _countable(own[key]) and _countable(reference[key])]
        rest = [replace(one, names=np.array(["Van"])) for key, one in everywhere.items() if key not in common]
        pairs.append([joined([*(rows[key] for key in common), *rest]) for rows in (own, reference)])
    truth, reference_truth = zip(*pairs, strict=True)
    return list(truth), list(reference_truth)


def _by_place(objects: Objects) -> dict[tuple[str, ...], Objects]:
    """The rows of a frame's labels by their position in the street, which all cameras share."""
    places = np.round(objects.bottom, DIGITS)
    return {
        (str(objects.names[row]), *map(str, places[row])): objects[row : row + 1]
        for row in range(len(objects))
        if objects.names[row] != "DontCare"
    }


def _countable(one: Objects) -> bool:
    visible = one.occlusion[0] <= MAX_OCCLUSION[MODERATE] and one.truncation[0] <= MAX_TRUNCATION[MODERATE]
    return bool(one.names[0] == "Car" and visible)


def joined(parts: Sequence[Objects]) -> Objects:
    """One table of rows without scores."""
    columns = [name for name in Objects.empty().__dict__ if name != "scores"]
    whole = [Objects.empty(), *parts]
    return Objects(**{name: np.concatenate([getattr(part, name) for part in whole]) for name in columns})


def numbers(truth: list[Objects], detections: list[Objects]) -> dict[str, Any]:
    """AP of cars, and depth errors of those whose 2D boxes agree: of the best detection of each car."""
    table = evaluate_kitti(truth, detections, classes=("Car",), min_heights=(0, 0, 0)).rows()
    ap = {
        f"ap {row['metric']}": row["moderate"]
        for row in table
        if row["recall"] == "R40" and row["iou"] == 0.5 and row["metric"] in ("bev", "3d")
    }
    ratios, errors, count = [], [], 0
    for wanted, found in zip(truth, detections, strict=True):
        wanted = wanted[wanted.names == "Car"]
        found = found[(found.names == "Car") & (found.scores >= LEAST_SCORE)]
        count += len(wanted)
        if not len(wanted) or not len(found):
            continue
        overlap = iou_2d(wanted.boxes_2d[:, None], found.boxes_2d[None])
        row = np.where(overlap >= LEAST_OVERLAP, found.scores, -1).argmax(1)
        agree = overlap[np.arange(len(wanted)), row] >= LEAST_OVERLAP
        true, seen = wanted.bottom[agree, 2], found.bottom[row[agree], 2]
        ratios += (seen / true).tolist()
        errors += np.abs(seen - true).tolist()
    known = {"depth ratio": float(np.median(ratios)), "depth error m": float(np.median(errors))} if errors else {}
    return {"objects": count, "found": len(errors), **ap, **known}


if __name__ == "__main__":
    main()
