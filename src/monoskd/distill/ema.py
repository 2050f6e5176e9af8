"""A teacher that is the exponential moving average (EMA) of its own student."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from monoskd.errors import InputError


class EmaTeacher(nn.Module):
    """A copy of the student whose weights follow the student's (Tarvainen & Valpola, "Mean teachers", NeurIPS 2017).

        ema <- a ema + (1 - a) student,    a = min(momentum, 1 - 1 / t)    at update t = 1, 2, ...

    The first updates are thus the plain mean of all students so far. Buffers (running statistics, counters) are copied.

    momentum: a number in [0, 1), or a schedule: progress of the training in [0, 1] -> momentum.

    Give it to a `Distiller` as a teacher; call `distiller.update_teachers()` after every step of the optimiser. Its
    weights are not in `distiller.parameters()`. They are in `distiller.state_dict()`, under `ema.<teacher>.`. On frames
    without labels call it like the student: it answers in eval mode and without gradient.
    """

    updates: Tensor

    def __init__(self, student: nn.Module, momentum: float | Callable[[float], float] = 0.999) -> None:
        super().__init__()
        try:
            self.network = deepcopy(bare(student)).requires_grad_(False).eval()
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"EmaTeacher: expected a student that can be copied, got {str(error).splitlines()[0]:.90}...: run lazy "
                "layers once before, use torch.nn.utils.parametrizations in place of torch.nn.utils.weight_norm"
            ) from error
        self.momentum = momentum
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.rate(0.0)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """What the averaged network returns."""
        with torch.no_grad():
            return self.network(*inputs, **keywords)

    def train(self, mode: bool = True) -> Self:
        """Keep the averaged network in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    def rate(self, progress: float) -> float:
        """The momentum at this share of the training."""
        momentum = self.momentum(progress) if callable(self.momentum) else self.momentum
        if not 0 <= momentum <= 1 or (momentum == 1 and not callable(self.momentum)):
            raise InputError(f"EmaTeacher: momentum: expected a number in [0, 1), got {momentum}")
        return momentum

    @torch.no_grad()
    def update(self, student: nn.Module, *, progress: float = 0.0) -> None:
        """Move towards the student, which must have the parameters and buffers of the network that was copied."""
        student = bare(student)
        averages, news = _tensors(self.network), _tensors(student)
        if {name: x.shape for name, x in averages.items()} != {name: x.shape for name, x in news.items()}:
            changed = sorted(
                name for name in averages.keys() | news.keys() if _shape(averages, name) != _shape(news, name)
            )
            raise InputError(
                f"EmaTeacher: expected the student that was copied, got another shape of {', '.join(changed[:3])}: "
                "make the EmaTeacher after the student has its final layers"
            )
        for name, x in student.named_parameters():
            if x.requires_grad and x.dtype in (torch.float16, torch.bfloat16):
                raise InputError(
                    f"EmaTeacher: {name}: expected weights in float32, got {x.dtype}, which rounds the small steps of "
                    "an average away: keep the student in float32 and run it under autocast"
                )
        learned = {name for name, _ in student.named_parameters(remove_duplicate=False)}
        self.updates += 1
        follow = (1 / self.updates).clamp(min=1 - self.rate(progress))
        for name, average in averages.items():
            new = news[name].detach().to(average)
            average.copy_(average.lerp(new, follow.to(average)) if name in learned else new)


def bare(network: nn.Module) -> nn.Module:
    """The network inside the wrappers that change its paths."""
    while True:
        if "module" in network._modules and isinstance(network, DistributedDataParallel):
            network = network.module
        elif "network" in network._modules and isinstance(network, EmaTeacher):
            network = network.network
        elif "_orig_mod" in network._modules:  # torch.compile's wrapper
            network = network.get_submodule("_orig_mod")
        else:
            return network


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None
