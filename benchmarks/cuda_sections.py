"""The sections of `cuda.py`: each is a function of a `Setup` and returns what it measured."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import learning
import numpy as np
import real
import torch
from learning import render
from workload import BATCH, RECIPES, SIZE, SMALL_BATCH, SMALL_NETWORK, SMALL_SIZE, Workload

from monoskd.distill import SpearmanLoss
from monoskd.engine.callbacks import commit, versions
from monoskd.errors import InputError
from monoskd.files import write_json
from monoskd.frames import Frame
from monoskd.geometry.camera import Camera
from monoskd.inference.export import export
from monoskd.inference.onnx_predictor import OnnxPredictor
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.weights import save_model

SCHEMA = "monoskd/cuda/1"
HERE = Path(__file__).parent
HALF: dict[str, Any] = {"autocast": torch.bfloat16, "tf32": True}
FORMS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16 channels-last": {**HALF, "channels_last": True},
    "bf16": HALF,
    "tf32": {"tf32": True},
}
COMPILED = {**HALF, "channels_last": True, "compile": True}


@dataclass(frozen=True)
class Setup:
    """Where and how large."""

    device: torch.device
    small: bool
    until: float  # of time.monotonic()
    drives: Path | None = None  # for the section `real`
    frames: Path | None = None  # for the section `learning`, already rendered

    @property
    def repeats(self) -> int:
        """Timed calls."""
        return 2 if self.small else 10

    @property
    def left_s(self) -> float:
        """Seconds until the end."""
        return self.until - time.monotonic()


def right(setup: Setup) -> dict[str, Any]:
    """The tests marked `cuda`; on the CPU with `--small`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        processes = 0 if setup.small else min(8, (os.cpu_count() or 2) // 2)
        words = ["-q", "-n", str(processes), "-p", "no:cacheprovider", f"--junit-xml={report}", "tests/cuda"]
        chosen = ["-m", "cuda", *(["-k", "not evaluation and not soft_ranks"] if setup.small else [])]
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *words, *chosen],
            cwd=HERE.parent,
            env={**os.environ, "OMP_NUM_THREADS": "2", "MONOSKD_CUDA_TESTS_ON": setup.device.type},
            capture_output=True,
            text=True,
        )
        if not report.exists():
            raise RuntimeError(f"the tests did not run: {run.stdout[-2000:]}{run.stderr[-2000:]}")
        cases = [*ElementTree.parse(report).iter("testcase")]
    failed = {case.attrib["name"]: _first_line(part) for case in cases for part in case if part.tag in _BAD}
    skipped = [case.attrib["name"] for case in cases if case.find("skipped") is not None]
    result = {"tests": len(cases), "failed": failed, "skipped": skipped}
    if failed:
        raise Failed(result)
    return result


_BAD = ("failure", "error")


def _first_line(part: ElementTree.Element) -> str:
    return (part.attrib.get("message") or part.text or "").strip().split("\n")[0][:300]


class Failed(Exception):  # noqa: N818 - what it says
    """A section that ran and found something wrong; holds its result."""


def cost(setup: Setup) -> dict[str, Any]:
    """Milliseconds a step and peak memory [MiB] of every recipe in every form; the published forms in float32 alone.

    The published form keeps the teacher in train mode and has the original's losses; the original's fusion module,
    which it computes and does not use, is not in it.
    """
    rows: dict[str, Any] = {}
    for form, options in FORMS.items():  # every recipe in a form before the next one: the time may end
        for recipe in RECIPES:
            if (setup.small and form not in ("fp32", "bf16")) or (recipe.endswith("published") and form != "fp32"):
                continue
            name = f"{recipe}, {form}"
            rows[name] = _step_cost(setup, recipe, dict(options)) if setup.left_s > 30 else "no time left"
            print(f"{name}: {json.dumps(rows[name])}", flush=True)
    result = {"batch": SMALL_BATCH if setup.small else BATCH, "steps": rows, "goals": goals(rows)}
    if any("fault" in row for row in rows.values()):
        raise Failed(result)
    return result


def compiled(setup: Setup) -> dict[str, Any]:
    """`cost` of the student and of MonoSKD with `torch.compile`, which takes a minute or more each."""
    rows = {recipe: _step_cost(setup, recipe, dict(COMPILED)) for recipe in ("student", "monoskd")}
    if any("fault" in row for row in rows.values()):
        raise Failed(rows)
    return rows


def goals(rows: dict[str, Any]) -> dict[str, float]:
    """The ratios of issue and README, in bfloat16 in either layout, where both sides were measured."""
    found = {}
    for form in ("bf16", "bf16 channels-last"):
        sides = {
            "monoskd / student": ("monoskd", f"student, {form}"),
            "monoskd / monodistill": ("monoskd", f"monodistill, {form}"),
            "monoskd / published form": ("monoskd", "monoskd_published, fp32"),
        }
        for name, (above, below) in sides.items():
            one, other = rows.get(f"{above}, {form}"), rows.get(below)
            for key in ("ms", "peak_mib"):
                if isinstance(one, dict) and isinstance(other, dict) and one.get(key) and other.get(key):
                    found[f"{name}, {form}, {key}"] = round(one[key] / other[key], 3)
    return found


def _step_cost(setup: Setup, recipe: str, options: dict[str, Any]) -> dict[str, Any]:
    """Of one recipe in one form. The peak is that of the timed steps, without cuDNN's trials in those before."""
    with precision(tf32=options.pop("tf32", False)):
        try:
            workload = Workload.make(recipe, device=setup.device, small=setup.small, **options)
            for _ in range(1 if setup.small else 3):
                workload.step()
            with fresh_memory(setup):
                ms = milliseconds(workload.step, setup)
        except Exception as error:  # the other forms go on
            fault = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            return {"ms": None, "peak_mib": None, "images_a_second": None, "fault": fault}
        images = 1000 * len(workload.views) / ms
        return {"ms": ms, "peak_mib": peak_mib(setup), "images_a_second": round(images, 1)}


def ranks(setup: Setup) -> dict[str, Any]:
    """The rank losses for 4 rows, forward and backward, beside one `torch.sort`, and torchsort if installed."""
    lengths = (480,) if setup.small else (30_720, 245_760)
    rows: dict[str, Any] = {}
    for n in lengths:
        student, teacher = torch.randn(2, 4, n // 240, 12, 20, device=setup.device)
        student.requires_grad_()
        flat = student.detach().flatten(1)
        row = {"sort_ms": milliseconds(lambda flat=flat: torch.sort(flat), setup)}
        for mode in ("spearman", "pearson", "published"):
            term = SpearmanLoss(mode)
            row[f"{mode}_ms"] = milliseconds(
                lambda term=term, s=student, t=teacher: term(student=s, teacher=t).backward(), setup
            )
        if (torchsort := _torchsort()) is not None:
            leaf = flat.clone().requires_grad_()
            row["torchsort_ms"] = milliseconds(
                lambda leaf=leaf, n=n: torchsort.soft_rank(leaf, regularization_strength=2 / n).sum().backward(), setup
            )
        rows[str(n)] = row
    return rows


def _torchsort() -> Any:
    try:
        import torchsort
    except ImportError:
        return None
    return torchsort


def inference(setup: Setup) -> dict[str, Any]:
    """Milliseconds a picture, decoding included, of the student in float32 and float16, and of the exported graph.

    The graph's include the picture's way to the device, which the network's do not.
    """
    rows: dict[str, Any] = {}
    half = torch.bfloat16 if setup.device.type == "cpu" else torch.float16
    batches = (1, 2) if setup.small else (1, 16)
    for batch in batches:
        for name, dtype in (("fp32", None), ("half", half)):
            workload = Workload.make("student", device=setup.device, small=setup.small, batch=batch, autocast=dtype)
            network = workload.student.eval()

            @torch.inference_mode()
            def predict(network: DidM3D = network, workload: Workload = workload) -> None:
                kind = setup.device.type
                with torch.autocast(kind, workload.autocast) if workload.autocast else nullcontext():
                    network.decode(network(workload.views), workload.views)

            rows[f"batch {batch}, {name}"] = {"ms_a_picture": round(milliseconds(predict, setup) / batch, 3)}
    try:
        return rows | _graph(setup, batches)
    except InputError as error:  # no onnx or onnxscript here
        return rows | {"exported graph": {"fault": str(error)}}


def _graph(setup: Setup, batches: Sequence[int]) -> dict[str, Any]:
    """Milliseconds a picture of the exported student; on the CPU where onnxruntime cannot use the GPU."""
    width, height = SMALL_SIZE if setup.small else SIZE
    frame = Frame(np.zeros((height, width, 3), np.uint8), Camera.from_focal(700.0, width=width, height=height))
    with tempfile.TemporaryDirectory() as folder:
        model, graph = Path(folder) / "model.safetensors", Path(folder) / "model.onnx"
        save_model(
            Workload.make("student", device=torch.device("cpu"), small=setup.small).student, model, provenance={}
        )
        export(model, graph)
        place = setup.device.type
        try:
            predictor = OnnxPredictor(graph, device=place)
        except InputError:
            place, predictor = "cpu", OnnxPredictor(graph)
        return {
            f"batch {batch}, exported graph on {place}": {
                "ms_a_picture": round(milliseconds(lambda n=batch: predictor.batch([frame] * n), setup) / batch, 3)
            }
            for batch in batches
        }


def loader(setup: Setup) -> dict[str, Any]:
    """Images a second of a run's loader, with depth maps and targets, by number of workers, and what steps consume."""
    from torch.utils.data import DataLoader

    from monoskd.engine.measure import labelled_batches

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        render(root, frames=8 if setup.small else 64, size=SMALL_SIZE if setup.small else (1242, 375))
        sizes = {"input_size": SMALL_SIZE, **SMALL_NETWORK} if setup.small else {"input_size": SIZE}
        detector = DidM3D(DidM3DConfig(pretrained=False, **sizes))
        samples = labelled_batches(detector, root, split="train", min_height_px=1).dataset
        rows = {}
        for workers in (0,) if setup.small else (0, 4, 16):
            batches = DataLoader(samples, batch_size=4, num_workers=workers, collate_fn=_count)
            start = time.perf_counter()
            images = sum(batches)
            rows[f"{workers} workers"] = round(images / (time.perf_counter() - start), 1)
    steps = {recipe: _step_cost(setup, recipe, dict(FORMS["bf16"])) for recipe in ("student", "monoskd")}
    return {"images_a_second": rows, "steps_consume": {recipe: row["images_a_second"] for recipe, row in steps.items()}}


def _count(samples: list[Any]) -> int:
    return len(samples)


def milliseconds(action: Callable[[], object], setup: Setup, *, warm_up: int = 1) -> float:
    """Of one call: the median, the device's work included."""
    seconds = []
    for number in range(warm_up + setup.repeats):
        synchronize(setup)
        start = time.perf_counter()
        action()
        synchronize(setup)
        if number >= warm_up:
            seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 3)


def synchronize(setup: Setup) -> None:
    """Wait until the device has done all that it was given."""
    if setup.device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def precision(*, tf32: bool) -> Iterator[None]:
    """Products and convolutions of float32 in TF32, or in full."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def fresh_memory(setup: Setup) -> Iterator[None]:
    """Count the peak from here on."""
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


def peak_mib(setup: Setup) -> float | None:
    """The device's peak; None on a CPU, where the process' peak only grows."""
    return round(torch.cuda.max_memory_allocated() / 2**20, 1) if setup.device.type == "cuda" else None


SECTIONS: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "right": right,
    "cost": cost,
    "ranks": ranks,
    "inference": inference,
    "loader": loader,
    "learning": lambda setup: learning.section(
        device=setup.device, minutes=setup.left_s / 60, small=setup.small, data=setup.frames
    ),
    "compiled": compiled,
    "real": lambda setup: real.section(setup.drives, minutes=setup.left_s / 60, small=setup.small),
}


def run_sections(names: list[str], setup: Setup, out: Path | None) -> dict[str, Any]:
    """The document with the result, or the error, of each section; written after each."""
    card = torch.cuda.get_device_name() if setup.device.type == "cuda" else platform.processor() or "CPU"
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "device": card,
        "small": setup.small,
        "versions": {**versions(), "cuda": torch.version.cuda},
        "commit": commit(),
        "sections": {},
    }
    for name in names:
        start = time.perf_counter()
        try:
            result: dict[str, Any] = {"result": SECTIONS[name](setup)}
        except Failed as failure:
            result = {"result": failure.args[0], "error": "some checks failed"}
        except Exception as error:  # the other sections go on
            result = {"error": f"{type(error).__name__}: {error}"[:2000]}
        document["sections"][name] = {**result, "seconds": round(time.perf_counter() - start, 1)}
        print(f"{name}: {json.dumps(document['sections'][name])}", flush=True)
        if out is not None:
            write_json(out, document)
    return document


def main(description: str | None) -> int:
    """Run the chosen sections."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma-separated")
    parser.add_argument("--small", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--drives", type=Path, default=None, help="real drives in KITTI's layout, see real.py")
    parser.add_argument("--frames", type=Path, default=None, help="frames that `learning.render_all` has made")
    options = parser.parse_args()
    names = options.sections.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"expected some of {', '.join(SECTIONS)}, got {unknown[0]}")
    if not options.small and not torch.cuda.is_available():
        parser.error("expected a GPU that torch can use, got none: `--small` runs on the CPU")
    device = torch.device("cpu" if options.small else "cuda")
    torch.backends.cudnn.benchmark = not options.small  # let cuDNN choose its algorithms by trying them
    setup = Setup(device, options.small, time.monotonic() + 60 * options.minutes, options.drives, options.frames)
    out = options.out or (None if options.small else HERE / "results" / "cuda.json")
    document = run_sections(names, setup, out)
    return int(any("error" in section for section in document["sections"].values()))
