"""The section `learning` of the GPU benchmark: what a teacher brings at real size, on rendered frames.

A teacher trains first; its speed says how long the students can, beside each other and all from random weights: the
control, and those that it teaches. Each sees as many pictures.
"""

import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from workload import SMALL_NETWORK, SMALL_SIZE

from monoskd.engine.launch import Launch, train_side_by_side
from monoskd.engine.load import load_config
from monoskd.files import read_json, write_json
from monoskd.kitti.prepare import prepare
from monoskd.synthetic import synthesize

FRAMES, VAL_SHARE, POOL = 2000, 0.25, 750  # POOL: further frames, without labels
SMALL_FRAMES, SMALL_POOL = 8, 4
BATCH, RATE = 64, 0.0025  # pictures of a step, whatever the recipe: small steps would wait for the host
TAUGHT = {
    "monoskd": "kitti/monoskd.yaml",
    "mixed": "kitti/monoskd_unlabelled.yaml",  # half of a step's frames without labels: docs/study.md
}
STUDENTS = ("control", *TAUGHT)
MIN_HEIGHTS_PX = (20.0, 12.5, 12.5)  # KITTI's, for pictures half as high
TEACHER_SHARE = 0.35  # of the time
IMAGES_A_SECOND = 350.0  # a cautious guess of the teacher's speed
BESIDE = 1.3  # the speed of three trainings beside each other, over that of one: a guess
BEGINNING_S = 25.0  # of a process, before its first step


def section(*, device: torch.device, minutes: float, small: bool, data: Path | None = None) -> dict[str, Any]:
    """Cars, moderate, of each run on held-out frames. data: rendered frames, where they are there already."""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.perf_counter()
        if data is None:
            data = folder / "data"
            render_all(data, small=small)
        results: dict[str, Any] = {"rendering_s": round(time.perf_counter() - start, 1)}

        def launch(recipe: str, *, images: float) -> Launch:
            document = configured(recipe, folder, data, device=device, small=small, images=images)
            write_json(folder / f"{recipe}.yaml", document)  # JSON is YAML
            return Launch(folder / f"{recipe}.yaml", folder / recipe)

        seconds = TEACHER_SHARE * (end - time.monotonic()) - BEGINNING_S
        train_side_by_side([launch("teacher", images=seconds * IMAGES_A_SECOND)])
        speed = read_json(folder / "teacher" / "manifest.json")["images_per_second"]
        images = (end - time.monotonic() - 2 * BEGINNING_S) * speed * BESIDE / len(STUDENTS)
        train_side_by_side([launch(recipe, images=images) for recipe in STUDENTS])
        for recipe in ("teacher", *STUDENTS):
            manifest = read_json(folder / recipe / "manifest.json")
            keys = ("epochs", "steps", "images_per_second", "peak_memory_mb", "device")
            results[recipe] = {key: manifest[key] for key in keys} | measured(folder / recipe)
    return results


def render_all(data: Path, *, small: bool) -> None:
    """The frames of the section."""
    frames, pool = (SMALL_FRAMES, SMALL_POOL) if small else (FRAMES, POOL)
    render(data, frames=frames, unlabelled=pool, size=SMALL_SIZE if small else (640, 192))


def configured(
    recipe: str, folder: Path, data: Path, *, device: torch.device, small: bool, images: float
) -> dict[str, Any]:
    """The config of a run that sees about so many pictures; `small`: one epoch of the small network."""
    labelled = BATCH // 2 if recipe == "mixed" else BATCH
    epochs = 1 if small else max(round(images * labelled / BATCH / (FRAMES * (1 - VAL_SHARE))), 2)
    document: dict[str, Any] = {
        "data": {
            "root": str(data),
            "batch_size": 2 if small else labelled,
            "min_height_px": MIN_HEIGHTS_PX[-1],
            "workers": 0 if small else 12 if recipe == "teacher" else 4,
        },
        "out": str(folder / recipe),
        "epochs": epochs,
        "optimizer": {
            "gradient_clip": 10,
            "ema": 0.99,
            "schedule": {"base": RATE, "warmup_epochs": 1, "cosine": True},
        },
        "validation": {"every": epochs, "min_heights_px": list(MIN_HEIGHTS_PX)},
        "task_learning": False,
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "precision": "32-true" if small else "bf16-mixed",
        "channels_last": not small,
    }
    network = {"pretrained": False, "input_size": list(SMALL_SIZE if small else (640, 192))}
    network |= {"modality": "depth" if recipe == "teacher" else "rgb", **(SMALL_NETWORK if small else {})}
    document["detector"] = {"class_path": "monoskd.models.DidM3D", "init_args": {"config": network}}
    if recipe in TAUGHT:
        shipped = load_config(Path(TAUGHT[recipe]), ["--start", "none"]).namespace.as_dict()
        document["distillation"] = json.loads(json.dumps(shipped["distillation"], default=str))
        document["distillation"]["teacher"] = str(folder / "teacher" / "model.safetensors")
    if recipe == "mixed":  # a network of one small epoch is sure of nothing
        document["data"]["unlabelled"] = {"ratio": 1.0, "threshold": 0.0 if small else 0.3}
    return document


def measured(run: Path) -> dict[str, float]:
    """Average precision of cars and the depth error at labelled objects, on held-out frames after the last epoch."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/Car_3d"]]
    names = ("Car_3d", "Car_3d_loose", "Car_bev", "depth_error_m_median", "depth_error_m_mean")
    return {name: float(rows[-1][f"val/{name}"] or "nan") for name in names}


def render(root: Path, *, frames: int, size: tuple[int, int], unlabelled: int = 0) -> None:
    """Rendered frames with depth maps, a quarter of those with labels held out."""
    workers = 1 if frames < 20 else None
    synthesize(root, frames=frames, val=VAL_SHARE, seed=0, size=size, unlabelled=unlabelled, workers=workers)
    prepare(root, workers=workers)
