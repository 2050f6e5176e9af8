"""Several processes: `monoskd train --devices 2` on CPUs, and two nodes of torchrun, against one process."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from monoskd.engine.load import load_config
from monoskd.engine.run import train
from monoskd.kitti.prepare import prepare
from monoskd.models.checkpoints import read_checkpoint
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.weights import save_model
from monoskd.synthetic import synthesize

pytestmark = pytest.mark.slow

GROUPED = '''
from torch import nn
from monoskd.models.did_m3d import DidM3D, DidM3DConfig


class Grouped(DidM3D):
    """Normalises within each image: BatchNorm on CPUs sees each process' share of the batch."""

    def __init__(self, config: DidM3DConfig | None = None) -> None:
        super().__init__(config)
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.GroupNorm(1, child.num_features))
'''
SIZES: dict[str, Any] = {"backbone_arguments": {"channels": [4, 4, 8, 8, 8, 8]}, "head_width": 8}
NETWORK = {**SIZES, "pretrained": False, "input_size": [128, 64]}
TEACHING = "monoskd.models.did_m3d.teaching"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered frames, a teacher and the config of a run of 20 steps, ten epochs of two, with every kind of term."""
    root = tmp_path_factory.mktemp("ddp")
    synthesize(root / "data", frames=7, val=3 / 7, seed=3, size=(416, 128), workers=1, unlabelled=3)
    prepare(root / "data", workers=1)
    (root / "data" / "ImageSets" / "one.txt").write_text("000004\n")
    (root / "grouped.py").write_text(GROUPED)
    torch.manual_seed(1)
    network = DidM3DConfig(modality="depth", pretrained=False, input_size=(128, 64), **SIZES)
    save_model(DidM3D(network), root / "teacher.safetensors", provenance={})
    terms = {
        "rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss", "init_args": {"center": "running"}}},
        "head": {"loss": {"class_path": f"{TEACHING}.HeadLoss"}, "between": "output"},
        "depth_map": {
            "loss": {"class_path": "monoskd.models.DepthMapLoss", "init_args": {"inside": 3.0}},
            "between": "targets",
            "key": "features:neck.4",
        },
        "heatmap": {"loss": {"class_path": "monoskd.models.HeatmapLoss"}, "between": "output"},
        "response": {"loss": {"class_path": f"{TEACHING}.ResponseLoss"}, "between": "targets"},
    }
    document = {
        "data": {"root": str(root / "data"), "batch_size": 2, "workers": 0, "unlabelled": {"threshold": 0.01}},
        "out": str(root / "one"),
        "detector": {"class_path": "grouped.Grouped", "init_args": {"config": NETWORK}},
        "optimizer": {"schedule": {"warmup_epochs": 1, "base": 2e-4}},
        "epochs": 10,
        "validation": {"every": 5},
        "log_every": 1,
        "precision": "64-true",
        "distillation": {
            "teacher": str(root / "teacher.safetensors"),
            "taps": [{"student": "neck.4", "adapter": "conv"}],
            "terms": terms,
            "record_every": 5,
        },
    }
    (root / "config.yaml").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    """The run of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        handler = signal.getsignal(signal.SIGINT)
        run = train(load_config(folder / "config.yaml"))
        signal.signal(signal.SIGINT, handler)
    return run


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts `monoskd train`, under other words if `under` says so."""
    started = []

    def begin(*options: str, under: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        path = os.pathsep.join([str(folder), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, *under, "-m", "monoskd", "train", str(folder / "config.yaml"), *options]
        process = subprocess.Popen(
            words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=folder
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def check_same(one: Path, other: Path) -> None:
    """The same numbers in the log and the same task weights, but for the readings of the flight recorder."""
    table, others = rows(one), rows(other)
    assert len(table) == len(others)
    assert len({row["step"] for row in table if row["train/loss"]}) == 20
    for row, beside in zip(table, others, strict=True):
        for name, value in row.items():
            if value and not name.startswith("flight/"):
                assert float(beside[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-9), (row["step"], name)
    first, second = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (one, other))
    assert first["task_weights"]["first_trend"]
    assert second["weights"] == pytest.approx(first["weights"], rel=1e-5)
    assert [*second["task_weights"]["past"]] == [
        pytest.approx(past, rel=1e-5) for past in first["task_weights"]["past"]
    ]


def test_two_processes_are_one_with_one_voice(folder: Path, one: Path, start: Start) -> None:
    process = start("--devices", "2", "--out", "two")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    check_same(one, folder / "two")
    assert out == "run folder: two\n"
    lines = err.splitlines()
    assert len({*lines}) == len(lines), err
    assert not any(re.search("GLOBAL_RANK|Warning|Traceback|DDP", line) for line in lines), err
    for name in ("detections", "detections.json"):
        assert (folder / "two" / name).exists()
    left = [path.name for path in (folder / "two").iterdir() if path.name.startswith(".")]
    assert left == []


def test_two_nodes_of_torchrun_are_one_process(folder: Path, one: Path, start: Start) -> None:
    nodes = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1")
    port = ("--master-port", str(29_500 + os.getpid() % 1000))
    options = ("--nodes", "2", "--out", "nodes", "--data.val", "one", "--validation.every", "10")
    processes = [start(*options, under=(*nodes, *port, "--node-rank", str(rank))) for rank in range(2)]
    said = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out for out, _ in said] == ["run folder: nodes\n", ""]
    losses = [[row["train/loss"] for row in rows(run) if row["train/loss"]] for run in (one, folder / "nodes")]
    assert [float(loss) for loss in losses[1]] == pytest.approx([float(loss) for loss in losses[0]], rel=1e-5)
    measured = [row["val/depth_error_m_mean"] for row in rows(folder / "nodes") if row["val/depth_error_m_mean"]]
    assert len(measured) == 1  # of a split with a single frame, which one of the two has


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_without_one_process_the_other_ends_within_ten_seconds(
    folder: Path, start: Start, launcher: str, rank: int
) -> None:
    """Lightning's first process starts the second; torchrun starts both, ends both and says which one was killed."""
    out, under = f"{launcher}_without_{rank}", ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    under = under if launcher == "torchrun" else ()
    process = start("--devices", "2", "--out", out, "--epochs", "10000", "--validation.every", "0", under=under)
    wait_for(folder / out / "checkpoints" / "last.ckpt", process)
    ranks = ranks_of(children(process.pid)) if under else [process.pid, *children(process.pid)]
    os.kill(ranks[rank], signal.SIGKILL)
    began = time.monotonic()
    while alive(ranks[1 - rank]) and time.monotonic() - began < 30:
        time.sleep(0.1)
    assert time.monotonic() - began < 10
    _, err = process.communicate(timeout=60)
    assert process.returncode, err
    said = [line for line in err.splitlines() if re.match("monoskd: |interrupted", line)]
    if under:
        assert said == ["interrupted; what was done is kept"] * rank, err
        assert re.search(rf"Root Cause[^=]* rank +: {rank} [^=]*SIGKILL", err), err
        return
    assert len(said) == 1, err
    assert said[0].startswith(f"monoskd: devices: expected processes that live, got process {rank}, which ended, "), err
    assert said[0].endswith(f"go on with `--resume {out}`: its last whole epoch is safe"), err
    assert "Traceback" not in err


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ranks_of(pids: list[int]) -> list[int]:
    """The processes in the order of their numbers in the run."""

    def rank(pid: int) -> int:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return int(next(variable for variable in variables if variable.startswith(b"RANK=")).removeprefix(b"RANK="))

    return sorted(pids, key=rank)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and whose parent has not asked is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process that its parent has ended")
def test_the_processes_of_a_killed_torchrun_stop(folder: Path, start: Start) -> None:
    under = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start("--devices", "2", "--out", "orphans", under=under)
    wait_for(folder / "orphans" / "checkpoints" / "last.ckpt", process)
    process.kill()
    _, err = process.communicate(timeout=60)  # the pipe is open as long as one of its processes lives
    assert err.count("interrupted; what was done is kept") == 1
    assert "Traceback" not in err
    assert read_checkpoint(folder / "orphans" / "checkpoints" / "last.ckpt")["global_step"] >= 2  # it is whole


def test_a_fault_of_one_process_is_said_by_the_first(folder: Path, start: Start) -> None:
    frame = (folder / "data" / "ImageSets" / "train.txt").read_text().split()[0]
    path = folder / "data" / "training" / "image_2" / f"{frame}.png"
    picture = path.read_bytes()
    process = start("--devices", "2", "--out", "fault", "--epochs", "10000", "--validation.every", "0")
    wait_for(folder / "fault" / "checkpoints" / "last.ckpt", process)
    try:
        path.write_bytes(picture[:100])
        _, err = process.communicate(timeout=60)
    finally:
        path.write_bytes(picture)
    assert process.returncode == 2
    complaints = [line for line in err.splitlines() if line.startswith("monoskd: ")]
    assert len(complaints) == 1, err
    assert path.name in complaints[0]
    assert "Traceback" not in err


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    latest = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < latest
        time.sleep(0.2)
