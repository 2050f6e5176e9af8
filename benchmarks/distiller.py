"""What the distiller itself costs: OMP_NUM_THREADS=1 python benchmarks/distiller.py [--minutes 5] [--sizes 32 64 128]

The CPU time of a step (two forward passes, one backward pass, no optimiser) with a distiller, less that of the bare
passes. All ways take turns, each round in an order drawn anew, since a step takes longer after some than after others.
CPU time, since other programs on the machine change the time on the clock by more than what is measured here. The same
work in all: two feature terms (mean squared error at layer2 and layer3) and class probabilities (KL, temperature 4), by
hand with four hooks, with a Distiller, with torchdistill's hooks and its DistillationBox, and with ModelOpt, where they
are installed.

- Small networks, in which the libraries' own work can be seen: three layers, and ResNet-18 and ResNet-34 with 4
  channels, 2 images of 16 px. Microseconds a step: the median of the rounds' differences and its interval of 95 %; and
  the number of functions that a step calls, which has no noise.
- ResNet-18 and ResNet-34, 8 images of the sizes asked for: quartiles of the differences, as a part of the bare step;
  and each of six terms alone.

Without touching the environment:

    pip install --no-deps --target peers torchdistill nvidia-modelopt omegaconf pulp
    PYTHONPATH=peers:$PYTHONPATH OMP_NUM_THREADS=1 python benchmarks/distiller.py
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from timm.models.resnet import BasicBlock, ResNet
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


def by_hand(student: nn.Module, teacher: nn.Module) -> Step:
    """The same with four hooks and no library."""
    seen: dict[tuple[str, str], Tensor] = {}
    for role, network in (("student", student), ("teacher", teacher)):
        for layer in LAYERS:
            network.get_submodule(layer).register_forward_hook(
                lambda module, args, output, key=(role, layer): seen.__setitem__(key, output)
            )

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            answers = teacher(images)
        logits = student(images)
        loss = cross_entropy(logits, labels) + divergence(logits, answers)
        return loss + sum(mse_loss(seen["student", layer], seen["teacher", layer]) for layer in LAYERS)

    return step


def box(student: nn.Module, teacher: nn.Module) -> Step:
    """The same with torchdistill's DistillationBox."""
    from torchdistill.core.distillation import DistillationBox

    def source(path: str, *, teachers: bool) -> dict[str, object]:
        return {"is_from_teacher": teachers, "module_path": path, "io": "output"}

    def wrapped(loss: str, path: str, target: dict[str, object]) -> dict[str, object]:
        arguments = {"input": source(path, teachers=False), "target": target}
        wrapper = {"key": "SimpleLossWrapper", "kwargs": arguments}
        return {"criterion": {"key": loss, "kwargs": {}}, "criterion_wrapper": wrapper, "weight": 1.0}

    places = {
        f"{role}_module_{what}": value
        for role in ("student", "teacher")
        for what, value in (("path", "."), ("io", "output"))
    }
    terms = {layer: wrapped("MSELoss", layer, source(layer, teachers=True)) for layer in LAYERS}
    terms["task"] = wrapped("CrossEntropyLoss", ".", {"uses_label": True})
    divergence = {"key": "KDLoss", "kwargs": {**places, "temperature": TEMPERATURE, "alpha": 0}}
    terms["logits"] = {"criterion": divergence, "weight": TEMPERATURE**2}
    network = {"forward_proc": "forward_batch_only", "forward_hook": {"output": list(LAYERS)}}
    config = {
        "num_epochs": 1,
        "teacher": {**network, "requires_grad": False},
        "student": network,
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
    made = DistillationBox(teacher, student, {}, config, torch.device("cpu"), None, False, 1)
    return made.forward_process


class ThreeLayers(nn.Module):
    """As little network as can be distilled."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.layer3, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.fc(self.layer3(self.layer2(self.layer1(images))).mean((2, 3)))


def thin(*depths: int) -> nn.Module:
    """A ResNet with 4 channels."""
    return ResNet(BasicBlock, depths, num_classes=10, channels=(4, 4, 4, 4), stem_width=4)


def all_libraries(student: nn.Module, teacher: nn.Module) -> dict[str, Step]:
    """Every way to do the same work, on copies of the same two networks."""
    teacher.eval()
    makers = {
        "bare": bare,
        "by hand": by_hand,
        "monoskd": lambda own, other: ours(own, other, same_work()),
        "torchdistill hooks": torchdistill,
        "torchdistill box": box,
        "modelopt": modelopt,
    }
    ways: dict[str, Step] = {}
    for name, make in makers.items():
        try:
            ways[name] = make(deepcopy(student), deepcopy(teacher))
        except Exception as error:  # whatever another library raises, the rest is measured
            print(f"{name} is left out: {type(error).__name__}: {error}")
    return ways


def single_terms(student: nn.Module, teacher: nn.Module) -> dict[str, Step]:
    """A distiller with one term alone, for each of six."""
    single = {
        "mse": Term(mse, each=True, resize="none"),
        "LogitLoss": Term(LogitLoss(TEMPERATURE), between="output"),
        "SpearmanLoss": Term(SpearmanLoss()),
        "AffinityLoss": Term(AffinityLoss()),
        "ChannelLoss": Term(ChannelLoss()),
        "RelationalLoss": Term(RelationalLoss(), each=True),
    }
    return {
        f"  {name} alone": ours(deepcopy(student), deepcopy(teacher), {"term": term}) for name, term in single.items()
    }


def seconds(step: Step, images: Tensor, labels: Tensor) -> float:
    """One step with its backward pass."""
    start = time.process_time()
    step(images, labels).backward()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60, help="rounds at most, at each size")
    parser.add_argument("--rounds", type=int, default=2000, help="rounds at most, with small networks")
    parser.add_argument("--minutes", type=float, default=5, help="for everything together")
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 64, 128], help="image sizes [px]")
    options = parser.parse_args()
    torch.manual_seed(0)
    pairs = {
        "three layers": (ThreeLayers(), ThreeLayers()),
        "ResNet-18 and ResNet-34 with 4 channels": (thin(2, 2, 2, 2), thin(3, 4, 6, 3)),
    }
    limit_s = 60 * options.minutes / (len(options.sizes) + len(pairs))
    for title, pair in pairs.items():
        small(title, all_libraries(*pair), options.rounds, limit_s)
    student, teacher = resnet18(num_classes=10), resnet34(num_classes=10).eval()
    ways = {**all_libraries(student, teacher), **single_terms(student, teacher)} if options.sizes else {}
    for size in options.sizes:
        images, labels = torch.rand(BATCH, 3, size, size), torch.arange(BATCH)
        rounds = measured(ways, images, labels, options.repeats, limit_s)
        base = statistics.median(each["bare"] for each in rounds)
        print(f"{BATCH} x {size} x {size}: bare step {1e3 * base:.1f} ms, {len(rounds)} rounds")
        for name in list(ways)[1:]:
            low, extra, high = statistics.quantiles((each[name] - each["bare"] for each in rounds), n=4)
            print(f"  {name:22s} {1e3 * extra:+8.2f} ms ({1e3 * low:+.2f} to {1e3 * high:+.2f})  {extra / base:+7.1%}")


def small(title: str, ways: dict[str, Step], repeats: int, limit_s: float) -> None:
    """Microseconds a step beyond the bare passes: the median and its interval, from order statistics."""
    images, labels = torch.rand(2, 3, 16, 16), torch.arange(2)
    rounds = measured(ways, images, labels, repeats, limit_s)
    counts = {name: calls(step, images, labels) for name, step in ways.items()}
    base = statistics.median(each["bare"] for each in rounds)
    print(f"{title}: bare step {1e6 * base:.0f} us, {len(rounds)} rounds")
    half, middle = 1.96 * math.sqrt(len(rounds)) / 2, len(rounds) / 2
    for name in list(ways)[1:]:
        extra = sorted(1e6 * (each[name] - each["bare"]) for each in rounds)
        low, high = extra[max(int(middle - half), 0)], extra[min(int(middle + half), len(extra) - 1)]
        interval = f"{statistics.median(extra):+8.0f} us ({low:+.0f} to {high:+.0f})"
        print(f"  {name:22s} {interval}  {counts[name] - counts['bare']:+6d} calls")


def calls(step: Step, images: Tensor, labels: Tensor) -> int:
    """How many functions one step calls, in Python or from it: a number without noise."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        step(images, labels).backward()
    finally:
        sys.setprofile(None)
    return count


def measured(
    ways: dict[str, Step], images: Tensor, labels: Tensor, repeats: int, limit_s: float
) -> list[dict[str, float]]:
    """Rounds of all ways, at least 3; no more once the time is over. The first steps of all are not counted."""
    for _ in range(3):
        for step in ways.values():
            seconds(step, images, labels)
    rng, names, rounds, end = random.Random(0), list(ways), [], time.monotonic() + limit_s
    while len(rounds) < 3 or (len(rounds) < repeats and time.monotonic() < end):
        rng.shuffle(names)
        rounds.append({name: seconds(ways[name], images, labels) for name in names})
    return rounds


if __name__ == "__main__":
    main()
