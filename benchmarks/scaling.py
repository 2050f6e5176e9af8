"""What a step costs one and two processes of a CPU: `python benchmarks/scaling.py [--epochs 4 24]`.

The demo's student on rendered frames, the same batch of 8 on one process and, by halves, on two that sum their
gradients by gloo. CPU seconds of all processes together, between runs of few and of more epochs, so that the start of a
run drops out: a perfect division of the work leaves them as they are.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from monoskd.engine.callbacks import commit, versions
from monoskd.files import write_json
from monoskd.kitti.prepare import prepare
from monoskd.synthetic import synthesize

FRAMES, BATCH = 17, 8  # one frame to validate on; two steps an epoch
STEPS = (FRAMES - 1) // BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs=2, default=(4, 24), help="of the short and of the long run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scaling.json")
    options = parser.parse_args()
    short, long = options.epochs
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder) / "data", frames=FRAMES, val=1 / FRAMES, seed=0, size=(320, 96), workers=1)
        prepare(Path(folder) / "data", workers=1)
        for processes in (1, 2):
            spent = {epochs: cpu_seconds(Path(folder), processes=processes, epochs=epochs) for epochs in (short, long)}
            a_step = (spent[long] - spent[short]) / (STEPS * (long - short))
            rows[str(processes)] = {"cpu_s_a_step": round(a_step, 4), "cpu_s_of_a_run": spent}
            print(f"{processes} processes: {a_step:.4f} CPU s a step of {BATCH} pictures", flush=True)
    write_json(
        options.out,
        {
            "schema": "monoskd/scaling/1",
            "versions": versions(),
            "commit": commit(),
            "batch": BATCH,
            "processes": rows,
            "overhead": round(rows["2"]["cpu_s_a_step"] / rows["1"]["cpu_s_a_step"], 3),
        },
    )


def cpu_seconds(folder: Path, *, processes: int, epochs: int) -> float:
    """Of a whole run, all of its processes together."""
    options = {
        "data.root": folder / "data",
        "data.batch_size": BATCH,
        "epochs": epochs,
        "optimizer.schedule.milestones": json.dumps([epochs]),
        "validation.every": 0,
        "devices": processes,
        "out": folder / f"{processes}_{epochs}",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "monoskd", "train", "demo/baseline.yaml", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


if __name__ == "__main__":
    main()
