"""The distiller in what people train with: FSDP2, mixed precision with a scaler, torch.compile."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from monoskd.distill import ChannelLoss, Distiller, EmaTeacher, GenerativeLoss, Outlet, SpearmanLoss, Tap, Term


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 5, 3))


def mse(*, student: Tensor, teacher: Tensor) -> Tensor:
    return mse_loss(student, teacher)


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 3, 10, 10)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["replicated", "sharded"])
def test_two_processes_shard_a_distiller(teacher: str, tmp_path: Path) -> None:
    worker = [sys.executable, str(Path(__file__).with_name("sharded_worker.py"))]
    running = [subprocess.Popen([*worker, str(rank), str(tmp_path), teacher]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in running] == [0, 0]


def test_a_gradient_scaler_changes_nothing_but_the_rounding(images: Tensor) -> None:
    plain = Distiller(
        network(),
        network(6),
        taps=[Tap("1")],
        terms={"rank": SpearmanLoss(), "cwd": ChannelLoss(), "free": Term(SpearmanLoss("pearson"), uncertainty=True)},
    ).materialize(images)
    scaled = copy.deepcopy(plain)
    for distil, enabled in ((plain, False), (scaled, True)):
        optimizer = torch.optim.SGD(distil.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=enabled)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                out = distil(images)
                loss = out.student.float().square().mean() + out.total
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    for (name, one), other in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=2e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.equal(
        plain.student[0].weight, Distiller(network(), network(), terms=plain.terms, taps=[Tap("1")]).student[0].weight
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler for C++")
@pytest.mark.filterwarnings("ignore")  # torch's own, while tracing and generating code
def test_code_generated_for_a_processor_gives_the_same_numbers(images: Tensor) -> None:
    torch.manual_seed(1)
    plain = Distiller(
        network(), network(6), taps=[Tap("2")], terms={"rank": SpearmanLoss(), "out": Term(mse, between="output")}
    ).materialize(images)
    compiled = copy.deepcopy(plain)
    optimizers = [torch.optim.SGD(distil.parameters(), lr=0.1) for distil in (plain, compiled)]
    for _ in range(2):
        for call, optimizer in zip((plain, torch.compile(compiled)), optimizers, strict=True):
            call(images).total.backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(plain.state_dict().values(), compiled.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while tracing
def test_what_is_new_is_compiled_too(images: Tensor) -> None:
    def make() -> Distiller:
        torch.manual_seed(0)
        student = network()
        return Distiller(
            student,
            teachers={"ema": EmaTeacher(student), "big": network(6)},
            taps=[Tap(Outlet("2", side="input"), of="big", name="in"), Tap("0", of="ema")],
            terms={"a": Term(GenerativeLoss(0.0), taps=["in"]), "b": Term(mse, taps=["0"], uncertainty=True)},
        ).materialize(images)

    plain, compiled = make(), make()
    run = torch.compile(compiled, backend="eager")
    for _ in range(2):
        totals = []
        for call in (plain, run):
            out = call(images)
            out.total.backward()
            totals.append(out.total.item())
        for distil in (plain, compiled):
            distil.update_teachers()
        assert totals[0] == totals[1]
