"""What the distiller itself costs: OMP_NUM_THREADS=1 python benchmarks/distiller.py [--minutes 5] [--sizes 32 64 128]

The CPU time of a step (two forward passes, one backward pass, no optimiser) with a distiller, less that of the bare
passes, as a part of the bare step. All ways take turns, each round in another order; medians over the rounds, with
quartiles. CPU time, since other programs on the machine change the time on the clock by more than what is measured
here. ResNet-18 learns from ResNet-34 by two feature
terms (mean squared error at layer2 and layer3) and class probabilities (KL, temperature 4). torchdistill's hooks and
ModelOpt do the same work beside it, where they are installed. Without touching the environment:

    pip install --no-deps --target peers torchdistill nvidia-modelopt omegaconf pulp
    PYTHONPATH=peers:$PYTHONPATH OMP_NUM_THREADS=1 python benchmarks/distiller.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, mse_loss
from torchvision.models import resnet18, resnet34

from monoskd.distill import AffinityLoss, ChannelLoss, Distiller, LogitLoss, RelationalLoss, SpearmanLoss, Tap, Term

BATCH = 8
TEMPERATURE = 4.0
LAYERS = ("layer2", "layer3")
Step = Callable[[Tensor, Tensor], Tensor]


def mse(*, student: Tensor, teacher: Tensor) -> Tensor:
    return mse_loss(student, teacher)


def bare(student: nn.Module, teacher: nn.Module) -> Step:
    """The passes alone, which anyone has to pay for."""

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher(images)
        return cross_entropy(student(images), labels)

    return step


def ours(student: nn.Module, teacher: nn.Module, terms: dict[str, Term]) -> Step:
    """A distiller with these terms."""
    distiller = Distiller(student, teacher, taps=[Tap(layer, adapter="identity") for layer in LAYERS], terms=terms)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        out = distiller(images)
        return cross_entropy(out.student, labels) + out.total

    return step


def same_work() -> dict[str, Term]:
    """The terms that all three libraries compute."""
    return {
        "features": Term(mse, each=True, resize="none"),
        "logits": Term(LogitLoss(TEMPERATURE), between="output"),
    }


def torchdistill(student: nn.Module, teacher: nn.Module) -> Step:
    """The same with torchdistill's hooks."""
    from torchdistill.core.forward_hook import ForwardHookManager

    hooks = {}
    for role, network in (("student", student), ("teacher", teacher)):
        hooks[role] = ForwardHookManager(torch.device("cpu"))
        for layer in LAYERS:
            hooks[role].add_hook(network, layer, requires_input=False, requires_output=True)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            answers = teacher(images)
        logits = student(images)
        ours, theirs = hooks["student"].pop_io_dict(), hooks["teacher"].pop_io_dict()
        loss = cross_entropy(logits, labels) + divergence(logits, answers)
        return loss + sum(mse_loss(ours[layer]["output"], theirs[layer]["output"]) for layer in LAYERS)

    return step


def divergence(logits: Tensor, answers: Tensor) -> Tensor:
    """T^2 KL, as torchdistill's `KDLoss` computes it."""
    student, teacher = (logits / TEMPERATURE).log_softmax(1), (answers / TEMPERATURE).softmax(1)
    return TEMPERATURE**2 * kl_div(student, teacher, reduction="batchmean")


def modelopt(student: nn.Module, teacher: nn.Module) -> Step:
    """The same with ModelOpt's distillation model."""
    import modelopt.torch.distill as mtd

    criterion = {(layer, layer): nn.MSELoss() for layer in LAYERS} | {
        ("fc", "fc"): mtd.LogitsDistillationLoss(TEMPERATURE)
    }
    balancer = mtd.StaticLossBalancer([0.25, 0.25, 0.25])  # the task has the rest; the work is the same
    config = {"teacher_model": teacher, "criterion": criterion, "loss_balancer": balancer}
    model = mtd.convert(student, mode=[("kd_loss", config)])

    def step(images: Tensor, labels: Tensor) -> Tensor:
        return model.compute_kd_loss(student_loss=cross_entropy(model(images), labels))

    return step


def steps() -> dict[str, Step]:
    """Every way, on copies of the same two networks."""
    torch.manual_seed(0)
    student, teacher = resnet18(num_classes=10), resnet34(num_classes=10).eval()
    ways: dict[str, Step] = {"bare": bare(deepcopy(student), deepcopy(teacher))}
    ways["monoskd"] = ours(deepcopy(student), deepcopy(teacher), same_work())
    for name, make in (("torchdistill", torchdistill), ("modelopt", modelopt)):
        try:
            ways[name] = make(deepcopy(student), deepcopy(teacher))
        except Exception as error:  # whatever another library raises, the rest is measured
            print(f"{name} is left out: {type(error).__name__}: {error}")
    single = {
        "mse": Term(mse, each=True, resize="none"),
        "LogitLoss": Term(LogitLoss(TEMPERATURE), between="output"),
        "SpearmanLoss": Term(SpearmanLoss()),
        "AffinityLoss": Term(AffinityLoss()),
        "ChannelLoss": Term(ChannelLoss()),
        "RelationalLoss": Term(RelationalLoss(), each=True),
    }
    for name, term in single.items():
        ways[f"  {name} alone"] = ours(deepcopy(student), deepcopy(teacher), {"term": term})
    return ways


def seconds(step: Step, images: Tensor, labels: Tensor) -> float:
    """One step with its backward pass."""
    start = time.process_time()
    step(images, labels).backward()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60, help="rounds at most")
    parser.add_argument("--minutes", type=float, default=5, help="for all sizes together")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128], help="image sizes [px]")
    options = parser.parse_args()
    ways = steps()
    for size in options.sizes:
        images, labels = torch.rand(BATCH, 3, size, size), torch.arange(BATCH)
        for step in ways.values():
            seconds(step, images, labels)
        rounds = measured(ways, images, labels, options.repeats, 60 * options.minutes / len(options.sizes))
        base = statistics.median(each["bare"] for each in rounds)
        print(f"{BATCH} x {size} x {size}: bare step {1e3 * base:.1f} ms, {len(rounds)} rounds")
        for name in list(ways)[1:]:
            low, extra, high = statistics.quantiles((each[name] - each["bare"] for each in rounds), n=4)
            print(f"  {name:22s} {1e3 * extra:+8.2f} ms ({1e3 * low:+.2f} to {1e3 * high:+.2f})  {extra / base:+7.1%}")


def measured(
    ways: dict[str, Step], images: Tensor, labels: Tensor, repeats: int, limit_s: float
) -> list[dict[str, float]]:
    """Rounds of all ways, at least 3; no more once the time is over."""
    names, rounds, end = list(ways), [], time.monotonic() + limit_s
    while len(rounds) < 3 or (len(rounds) < repeats and time.monotonic() < end):
        start = len(rounds) % len(names)
        rounds.append({name: seconds(ways[name], images, labels) for name in names[start:] + names[:start]})
    return rounds


if __name__ == "__main__":
    main()
