"""What a step costs on one CPU thread: `python benchmarks/training.py [--rounds 3] [--cases ...]`, or `--quick`.

A student alone, MonoSKD and MonoDistill as `train` runs them, and both as published: in float32, and the teacher
normalises by the batch at hand. The original's fusion module, which it builds and never calls, is not in it. "bf16" is
`--precision bf16-mixed`; where the processor has no instructions for bfloat16 it is left out, and all teachers run in
float32. One random batch, full DLA-34. Every measurement is a process of its own, so that its peak memory is its own:
one step that warms up, and the faster of two. The forms take turns, round by round. CPU seconds, and the ratios between
them, are medians over the rounds.
quick: tiny networks, one round, nothing is written.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from workload import SIZE, Workload

from monoskd.engine.callbacks import commit, versions
from monoskd.files import write_json
from monoskd.precision import has_bfloat16

BF16 = " bf16"
FORMS = ("student", "monoskd", "monoskd_published", "monodistill", "monodistill_published")
FORMS_IN_BF16 = tuple(form + BF16 for form in ("student", "monoskd", "monodistill"))
CASES = {"384 x 1280, batch 2": ((1280, 384), 2), "96 x 320, batch 4": ((320, 96), 4)}
QUICK = "quick"
COUNTED = 2
FAST_BF16 = has_bfloat16("cpu")
RATIOS = (
    ("monoskd", "student"),
    ("monoskd", "monoskd_published"),
    ("monoskd", "monodistill"),
    ("monodistill", "monodistill_published"),
    ("monoskd bf16", "student bf16"),
    ("monoskd bf16", "monoskd_published"),
    ("monoskd bf16", "monodistill bf16"),
    ("student bf16", "student"),
)


def measure(case: str, form: str) -> dict[str, float]:
    """CPU and wall seconds of a step, the peak memory of this process, and what of it importing took [MiB]."""
    torch.set_num_threads(1)
    size, batch = CASES.get(case, (SIZE, None))
    options: dict[str, Any] = {"device": torch.device("cpu"), "small": case == QUICK, "batch": batch, "size": size}
    if form.endswith(BF16):
        options |= {"autocast": torch.bfloat16, "channels_last": True}
    elif FAST_BF16 and form in ("monoskd", "monodistill"):
        options |= {"teacher_dtype": torch.bfloat16}  # `teacher_precision` of the shipped recipes
    before = _peak_mib()
    return _timed(Workload.make(form.removesuffix(BF16), **options)) | {"imports_mib": before}


def _timed(workload: Workload) -> dict[str, float]:
    workload.step()
    steps = []
    for _ in range(COUNTED):
        cpu, wall = time.process_time(), time.perf_counter()
        workload.step()
        steps.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = min(steps)
    return {"cpu_s": round(cpu, 3), "wall_s": round(wall, 3), "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)  # KiB on Linux


def in_a_process(case: str, form: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    run = [sys.executable, __file__, "--measure", case, form]
    result: dict[str, float] = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    return result


def summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of each form, and medians over the rounds of the ratios within a round."""
    keys = ("cpu_s", "wall_s", "peak_mib")
    medians = {
        form: {key: statistics.median(row[key] for row in rows) for key in keys} for form, rows in rounds.items()
    }
    ratios = {
        f"{one} / {other}": {
            key: round(statistics.median(a[key] / b[key] for a, b in zip(rounds[one], rounds[other], strict=True)), 3)
            for key in keys
        }
        for one, other in RATIOS
        if {one, other} <= set(rounds)
    }
    return {"forms": medians, "ratios": ratios, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "FORM"), help="one measurement, as JSON on stdout")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    results: dict[str, Any] = {}
    document = {"schema": "monoskd/training-cost/1", "versions": versions(), "commit": commit(), "cases": results}
    for case in [QUICK] if options.quick else options.cases:
        forms = FORMS + FORMS_IN_BF16 if FAST_BF16 else FORMS
        rounds: dict[str, list[dict[str, float]]] = {form: [] for form in forms}
        for _ in range(1 if options.quick else options.rounds):
            for form, rows in rounds.items():
                rows.append(in_a_process(case, form))
                print(f"{case}, {form}: {rows[-1]}", flush=True)
        results[case] = summary(rounds)
        print(json.dumps({case: results[case]["ratios"]}, indent=1), flush=True)
        if not options.quick:
            write_json(options.out, document)


if __name__ == "__main__":
    main()
