"""Time and memory of the rank losses beside one `torch.sort` and, where it can be imported, torchsort.

    python benchmarks/ranks.py [--threads 1]

B = 4 rows, forward and backward, the best of several runs of each, taken in turns on new tensors. Ratios above 1 mean
that ours is faster. Memory: the peak of the process while the first call of its size runs, less what it held before, in
multiples of what the case is given (student and teacher for the losses, one tensor else), in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from monoskd.distill.losses import SpearmanLoss
from monoskd.distill.ranks import soft_rank

try:
    import torchsort
except ImportError:
    torchsort = None

ROWS = 4
LENGTHS = {30_720: (512, 6, 10), 245_760: (512, 12, 40)}  # n: channels, height, width
GENUINE_STRENGTH = 2.0  # times the standard deviation, divided by n: what "auto" takes
ROUNDS, REPEATS = 12, 3
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "32768"}  # glibc keeps nothing that is freed


def maps(n: int) -> tuple[Tensor, Tensor]:
    """A student's and a teacher's maps of n values for each of the rows."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, ROWS, *LENGTHS[n], generator=generator)
    return student.requires_grad_(), teacher + student.detach()


def cases(n: int) -> dict[str, Callable[[], object]]:
    """What is timed, each forward and backward unless it is a sort."""
    student, teacher = maps(n)
    rows, pull = student.detach().reshape(ROWS, n).requires_grad_(), torch.randn(ROWS, n)
    strength = GENUINE_STRENGTH / n

    def loss(mode: str) -> Callable[[], None]:
        term = SpearmanLoss(mode)  # type: ignore[arg-type]
        return lambda: term(student=student, teacher=teacher).backward()

    found: dict[str, Callable[[], object]] = {
        "torch.sort": lambda: torch.sort(rows.detach()),
        "published": loss("published"),
        "pearson": loss("pearson"),
        "spearman": loss("spearman"),
        "soft_rank": lambda: soft_rank(rows, strength).backward(pull),
    }
    if torchsort is not None:
        found["torchsort"] = lambda: torchsort.soft_rank(rows, regularization_strength=strength).backward(pull)
    return found


def best_seconds(n: int) -> dict[str, float]:
    """The best time of each case. Every round makes new tensors: where they lie in memory moves times by a tenth."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, run in cases(n).items():
            for _ in range(REPEATS):
                begun = time.perf_counter()
                run()
                best[name] = min(best.get(name, float("inf")), time.perf_counter() - begun)
    return best


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def print_peak(name: str, n: int) -> None:
    """Run one case once and print the multiple of its input that it needed."""
    cases(min(LENGTHS))[name]()  # whatever is loaded on first use
    run = cases(n)[name]
    Path("/proc/self/clear_refs").write_text("5")  # peak := now
    before = _status_kib("VmRSS")
    run()
    inputs = 2 if name in ("published", "pearson", "spearman") else 1
    print((_status_kib("VmHWM") - before) * 1024 / (inputs * ROWS * n * 4))


def peak(name: str, n: int, threads: int) -> float:
    """`print_peak` in a process of its own, whose memory is what is in use."""
    command = [sys.executable, __file__, "--threads", str(threads), "--peak", name, str(n)]
    environment = {**os.environ, **GIVE_BACK}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch; ranks take one")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print_peak(arguments.peak[0], int(arguments.peak[1]))
        return
    peer = "torchsort" if torchsort is not None else "torch.sort"
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {ROWS} rows, float32, forward and backward")
    if torchsort is None:
        print("torchsort cannot be imported here: its sort stands in for it, and the ratio is a lower bound")
    print(f"{'n':>8} {'case':<11} {'ms':>8} {'torch.sort / it':>16} {peer + ' / it':>16} {'peak / input':>15}")
    for n in LENGTHS:
        seconds = best_seconds(n)
        for name, value in seconds.items():
            memory = peak(name, n, arguments.threads)
            ratios = f"{seconds['torch.sort'] / value:>16.2f} {seconds[peer] / value:>16.2f}"
            print(f"{n:>8} {name:<11} {value * 1e3:>8.2f} {ratios} {memory:>15.1f}")


if __name__ == "__main__":
    main()
