"""The section `learning` of the GPU benchmark: what a teacher brings at real size, on rendered frames."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from workload import SMALL_NETWORK, SMALL_SIZE

from monoskd.engine.load import load_config
from monoskd.engine.measure import Measurement, labelled_batches, measure
from monoskd.engine.run import train
from monoskd.evaluation.evaluator import KittiEvaluator
from monoskd.files import read_json, write_json
from monoskd.kitti.prepare import prepare
from monoskd.models.weights import load_model
from monoskd.synthetic import synthesize

FRAMES, VAL_SHARE, POOL = 2000, 0.25, 750  # POOL: further frames, without labels
SMALL_FRAMES, SMALL_POOL = 8, 4
LABELLED = FRAMES * (1 - VAL_SHARE)
RECIPES = {
    "teacher": None,
    "baseline": None,
    "control": None,
    "monoskd": "kitti/monoskd.yaml",
    "monoskd_unlabelled": "kitti/monoskd_unlabelled.yaml",  # the best of docs/study.md
}
MIN_HEIGHTS_PX = (20.0, 12.5, 12.5)  # KITTI's, for pictures half as high
IMAGES_A_SECOND = 200.0  # a cautious guess of one GPU; it sets the number of epochs


def section(*, device: torch.device, minutes: float, small: bool) -> dict[str, Any]:
    """Cars, moderate, of each run on held-out frames; each run has its share of the minutes that are left."""
    results: dict[str, Any] = {}
    end = time.monotonic() + 60 * minutes
    size = SMALL_SIZE if small else (640, 192)
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.perf_counter()
        frames, pool = (SMALL_FRAMES, SMALL_POOL) if small else (FRAMES, POOL)
        render(folder / "data", frames=frames, unlabelled=pool, size=size)
        results["rendering_s"] = round(time.perf_counter() - start, 1)
        for number, recipe in enumerate(RECIPES):
            share_s = (end - time.monotonic()) / (len(RECIPES) - number)
            document = configured(recipe, folder, size=size, device=device, small=small, seconds=share_s)
            write_json(folder / f"{recipe}.yaml", document)  # JSON is YAML
            run = train(load_config(folder / f"{recipe}.yaml"))
            manifest = read_json(run / "manifest.json")
            keys = ("epochs", "steps", "images_per_second", "peak_memory_mb", "device")
            results[recipe] = {key: manifest[key] for key in keys} | measured(run, folder / "data", device)
    return results


def configured(
    recipe: str, folder: Path, *, size: tuple[int, int], device: torch.device, small: bool, seconds: float
) -> dict[str, Any]:
    """The config of a run that takes about so many seconds on one GPU; `small`: one epoch of the small network."""
    images = LABELLED * (2 if recipe == "monoskd_unlabelled" else 1)  # an epoch
    epochs = 1 if small else max(int(seconds * IMAGES_A_SECOND / images * 0.7), 2)
    document: dict[str, Any] = {
        "data": {
            "root": str(folder / "data"),
            "batch_size": 2 if small else 16,
            "min_height_px": MIN_HEIGHTS_PX[-1],
            "workers": 0 if small else 14,
        },
        "out": str(folder / recipe),
        "epochs": epochs,
        "optimizer": {"gradient_clip": 10, "schedule": {"warmup_epochs": 1, "milestones": [epochs * 4 // 5 + 1]}},
        "validation": {"every": 0},
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "precision": "32-true" if small else "bf16-mixed",
    }
    if recipe in ("teacher", "baseline"):
        network = {"pretrained": False, "input_size": list(size), **(SMALL_NETWORK if small else {})}
        network |= {"modality": "depth"} if recipe == "teacher" else {}
        document["detector"] = {"class_path": "monoskd.models.DidM3D", "init_args": {"config": network}}
    else:
        document["start"] = str(folder / "baseline" / "model.safetensors")
    if (source := RECIPES[recipe]) is not None:
        shipped = load_config(Path(source), ["--start", "none"]).namespace.as_dict()
        document["distillation"] = json.loads(json.dumps(shipped["distillation"], default=str))
        document["distillation"]["teacher"] = str(folder / "teacher" / "model.safetensors")
    if recipe == "monoskd_unlabelled":  # a network of one small epoch is sure of nothing
        document["data"]["unlabelled"] = {"ratio": 1.0, "threshold": 0.0 if small else 0.3}
    return document


def measured(run: Path, root: Path, device: torch.device) -> dict[str, Any]:
    """Average precision of cars and the depth error at labelled objects, on the held-out frames."""
    detector = load_model(run / "model.safetensors").to(device)
    measurement = Measurement(KittiEvaluator(("Car",), MIN_HEIGHTS_PX))
    batches = labelled_batches(detector, root, split="val", min_height_px=MIN_HEIGHTS_PX[-1])
    return measure(detector, batches, measurement).summary()


def render(root: Path, *, frames: int, size: tuple[int, int], unlabelled: int = 0) -> None:
    """Rendered frames with depth maps, a quarter of those with labels held out."""
    workers = 1 if frames < 20 else None
    synthesize(root, frames=frames, val=VAL_SHARE, seed=0, size=size, unlabelled=unlabelled, workers=workers)
    prepare(root, workers=workers)
