"""What changes over the epochs: the learning rate and the weights of the tasks. METHOD: docs/method.md, "Schedule"."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monoskd.errors import InputError

PUBLISHED_ORDER = ("affinity", "head", "rank", "imitation")
"""Distillation terms as the published runs list them before the tasks' losses; a recipe has one of the last two."""


@dataclass(frozen=True)
class LearningRateSchedule:
    """Cosine warm-up from `warmup_start`, then `decay` at each milestone, or a cosine down to 0.

    Epochs count from 0, and a milestone is the first epoch at the lower rate. `cosine`: from the end of the warm-up to
    the end of the run the rate is base (1 + cos(pi t)) / 2, t from 0 to 1 (Loshchilov and Hutter, "SGDR", ICLR 2017);
    there are no milestones. Two published quirks:
    `milestones_after_warmup` counts milestones from the end of the warm-up, so that they come late by its length;
    `once_an_epoch` keeps the rate of an epoch's start, so that the whole first epoch runs at `warmup_start`.
    """

    base: float = 1e-3
    warmup_start: float = 1e-5
    warmup_epochs: int = 5
    milestones: tuple[int, ...] = (90, 120)
    decay: float = 0.1
    cosine: bool = False
    milestones_after_warmup: bool = False
    once_an_epoch: bool = False

    def __post_init__(self) -> None:
        rates = (self.base, self.warmup_start, self.decay)
        if not all(0 < rate < math.inf for rate in rates) or self.warmup_epochs < 0:
            raise InputError(
                f"schedule: expected rates and decay above 0 and no negative number of warm-up epochs, got {self}"
            )

    def rate(self, epoch: float, *, epochs: float = math.inf) -> float:
        """The learning rate at `epoch` of `epochs`, which may be a fraction: 2.5 is the middle of the third epoch."""
        if self.once_an_epoch:
            epoch = math.floor(epoch)
        if epoch < self.warmup_epochs:
            risen = (1 - math.cos(math.pi * epoch / self.warmup_epochs)) / 2
            return self.warmup_start + (self.base - self.warmup_start) * risen
        if self.cosine:
            done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-9)
            return self.base * (1 + math.cos(math.pi * min(done, 1.0))) / 2
        late = self.warmup_epochs if self.milestones_after_warmup else 0
        passed = sum(epoch >= milestone + late for milestone in self.milestones)
        return self.base * self.decay**passed

    def unreached(self, epochs: int) -> str | None:
        """What to say where a run of so many epochs ends before its schedule does."""
        if self.warmup_epochs >= epochs:
            return (
                f"a warm-up of {self.warmup_epochs} epochs in a run of {epochs}: lower `warmup_epochs`, or train longer"
            )
        late = self.warmup_epochs if self.milestones_after_warmup else 0
        behind = [str(milestone) for milestone in self.milestones if milestone + late >= epochs and not self.cosine]
        if not behind:
            return None
        return (
            f"no drop of the rate at {', '.join(behind)} in a run of {epochs} epochs: move `milestones`, or set "
            "`cosine: true`, which fits any length"
        )


@dataclass
class TaskWeights:
    """Hierarchical task learning (Lu et al., GUPNet, ICCV 2021, eq. 7 to 9).

    A task without prerequisites weighs 1. Any other weighs t^(1 - c), where t runs from 0 to 1 over the training and
    c is the product over its prerequisites of 1 - max(trend / first trend, 0): as long as the prerequisites improve as
    fast as at first, c is 0 and the task waits. The trend is the mean of loss[i] - loss[i + 2] over the last `history`
    epochs; before there are that many, tasks with prerequisites weigh 0.

    graph: the prerequisites of each task, see `Detector.task_graph`. Its state is plain numbers (`state_dict`), so that
    a resumed run goes on exactly where it stopped.
    """

    graph: Mapping[str, tuple[str, ...]]
    epochs: int = 140
    history: int = 5
    past: list[dict[str, float]] = field(default_factory=list)
    first_trend: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {name for needed in self.graph.values() for name in needed}
        if missing := sorted(named - set(self.graph)):
            raise InputError(
                f"task_graph: expected every prerequisite to be a task of its own, got none for {missing[0]!r}"
            )

    @classmethod
    def over(cls, epochs: int, graph: Mapping[str, tuple[str, ...]]) -> "TaskWeights":
        """For a run of `epochs` epochs: t reaches 1 after 14 / 15 of them, as at epoch 140 of the published 150."""
        return cls(graph, epochs=max(round(epochs * 14 / 15), cls.history + 1))

    def check(self, losses: Iterable[str]) -> None:
        """Raise InputError where a task of the graph has no loss of its name."""
        if missing := sorted(set(self.graph) - set(losses)):
            raise InputError(
                f"task_learning: expected a loss for every task of the detector's task_graph, got none for "
                f"{missing[0]!r} among {', '.join(sorted(losses))}: correct the detector, or use "
                "`--task_learning false`"
            )

    def start(self) -> dict[str, float]:
        """The weights of the first epoch, before anything is known."""
        return {task: 0.0 if needed else 1.0 for task, needed in self.graph.items()}

    def advance(self, losses: Mapping[str, float], epoch: int) -> dict[str, float]:
        """The weights of `epoch` (1, 2, ...), given the mean losses of the epoch before it."""
        weights = self.start()
        if len(self.past) == self.history:
            settled = self._settled()
            elapsed = min(max(epoch - self.history, 0) / (self.epochs - self.history), 1.0)
            for task, needed in self.graph.items():
                if needed:
                    weights[task] = elapsed ** (1 - math.prod(settled[name] for name in needed))
            self.past.pop(0)
        self.past.append(dict(losses))
        return weights

    def _settled(self) -> dict[str, float]:
        """c of every task: 0 while its loss falls as at first, 1 once it has stopped falling."""
        pairs = list(zip(self.past[:-2], self.past[2:], strict=True))
        trend = {task: sum(old[task] - new[task] for old, new in pairs) / len(pairs) for task in self.graph}
        self.first_trend = self.first_trend or trend
        ratio = {task: trend[task] / first if first else 0.0 for task, first in self.first_trend.items()}
        return {task: 1 - max(ratio[task], 0.0) for task in self.graph}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on exactly."""
        return {"past": self.past, "first_trend": self.first_trend}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.past, self.first_trend = list(state["past"]), dict(state["first_trend"])


def shift_names(losses: Mapping[str, float], distillation: Sequence[float]) -> dict[str, float]:
    """The losses that the published distillation runs feed to task learning, which are not the ones they name.

    There the distillation terms stand in front of the task losses and the names are read by position, so that the first
    task reads the first distillation term, and so on; the last tasks fall off the end.
    losses: by task, in the order of `Detector.task_graph`. distillation: the terms in `PUBLISHED_ORDER`.
    """
    return dict(zip(losses, [*distillation, *losses.values()], strict=False))
