"""CPU seconds a picture of a predictor on one thread: `python benchmarks/inference.py [--rounds 3] [--onnx]`.

A full DLA-34 and pictures of KITTI's size, in turns: weights in torch's own layout, one picture at a time and in
batches; channels last, as `Predictor` reads a model file, in float32 and, where the processor has instructions for
bfloat16, with `half=True`; with `--onnx` also the exported graph in onnxruntime. Reading the pictures is not in it:
`predict` reads ahead in a thread.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monoskd.engine.callbacks import commit, versions
from monoskd.files import write_json
from monoskd.frames import Frame
from monoskd.geometry.camera import Camera
from monoskd.inference.export import export
from monoskd.inference.onnx_predictor import OnnxPredictor
from monoskd.inference.predictor import Predictor
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.weights import save_model
from monoskd.precision import has_bfloat16

SIZE = (1242, 375)
OWN = "torch's layout, one by one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "inference.json")
    parser.add_argument("--onnx", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector = DidM3D(DidM3DConfig(pretrained=False)).eval()
    detector.adapt_to(focal_px=700.0, input_focal_px=700.0)
    with tempfile.TemporaryDirectory() as folder:
        model, graph = Path(folder) / "model.safetensors", Path(folder) / "model.onnx"
        save_model(detector, model, provenance={})
        own, predictor = Predictor(detector), Predictor(model)
        half = Predictor(model, half=True) if has_bfloat16("cpu") else None
        if options.onnx:
            export(model, graph)
        onnx = OnnxPredictor(graph) if options.onnx else None
    pixels = np.random.default_rng(0).integers(0, 255, (options.batch, SIZE[1], SIZE[0], 3), np.uint8)
    frames = [Frame(image, Camera.from_focal(700.0, width=SIZE[0], height=SIZE[1])) for image in pixels]
    forms: dict[str, tuple[Any, int]] = {
        OWN: (own, 1),
        "torch's layout, in batches": (own, options.batch),
        "channels last, one by one": (predictor, 1),
        "channels last, in batches": (predictor, options.batch),
    }
    if half:
        forms |= {"half, one by one": (half, 1), "half, in batches": (half, options.batch)}
    if onnx:
        forms["onnxruntime, one by one"] = (onnx, 1)
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(options.rounds + 1):
        for form, (network, size) in forms.items():
            start = time.process_time()
            for first in range(0, len(frames), size):
                network.batch(frames[first : first + size])
            seconds[form].append((time.process_time() - start) / len(frames))
            print(f"{form}: {seconds[form][-1]:.3f} CPU seconds a picture", flush=True)
    measured = {form: times[1:] for form, times in seconds.items()}  # the first round warms up
    document: dict[str, Any] = {
        "schema": "monoskd/inference-cost/1",
        "versions": versions(),
        "commit": commit(),
        "batch": options.batch,
        "cpu_s_a_picture": {form: round(statistics.median(times), 4) for form, times in measured.items()},
        "times_as_fast": {
            form: round(statistics.median(a / b for a, b in zip(measured[OWN], times, strict=True)), 3)
            for form, times in measured.items()
        },
    }
    print(document["times_as_fast"])
    write_json(options.out, document)


if __name__ == "__main__":
    main()
