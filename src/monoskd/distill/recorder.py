"""A flight recorder: the share of each term beside the task, and the loss of a student that ignores the image."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoskd import files
from monoskd.distill.distiller import Distilled, Distiller
from monoskd.distill.losses import SpearmanLoss
from monoskd.distill.probes import Origin
from monoskd.distill.weights import Weight
from monoskd.errors import InputError

SCHEMA = "monoskd/flight/1"
TASK = "task"  # the name under which the task loss stands beside the terms


class FlightRecorder:
    """Readings of a training run, one every `every` steps.

        recorder = FlightRecorder(distiller, every=50)
        out = distiller(images)
        task = cross_entropy(out.student, labels)
        logger.log(recorder.record(out, task=task))     # {} on the other steps
        (task + out.total).backward()

    A reading has, as plain floats, for each term `flight/<term>/`

        loss             the student's, unweighted
        floor            the same for a student that outputs the teacher's mean map: a loss that is not below it has
                         taught nothing about images (terms on taps, two images or more)
        loss_share       |w L| over the sum of |w L|, the task's own included
        gradient_share   |d(w L)/dF| over the sum of these norms, the task's own included
        task_cosine      the cosine of the angle between d(w L)/dF and the task's gradient; below 0 they conflict
        degeneracy       of `SpearmanLoss`: the share of values in the largest pooled block (1: it is Pearson)
        weight           of terms with `share` or `uncertainty`: the weight of this step

    and loss, loss_share and gradient_share of `flight/task/`. F are the student's maps at the taps `at` (all by
    default), before any adapter: task and terms share them. Without a gradient, norm and cosine are 0.

    A reading costs one backward pass per term and one for the task, from the losses to F only; the pass does not
    enter the network below F and changes no `.grad`. Readings are of this process only. Terms with a `share` get
    their weight from the readings; then the first step is always read, and every process has to record.
    """

    def __init__(self, distiller: Distiller, *, every: int = 50, at: Sequence[str] | None = None) -> None:
        if every < 1:
            raise InputError(f"FlightRecorder: every: expected at least 1 step, got {every}")
        if TASK in distiller.terms:
            raise InputError(
                f'FlightRecorder: a term is called "{TASK}", which is the name of the task loss: rename the term'
            )
        unknown = [name for name in at or () if name not in distiller.taps]
        if unknown or not distiller.taps:
            raise InputError(f"FlightRecorder: at: expected some of the taps {list(distiller.taps)}, got {at}")
        self.distiller = distiller
        self.every = every
        self.at = list(at or distiller.taps)
        self.rows: list[dict[str, float]] = []
        self._steps = 0

    def record(self, distilled: Distilled, *, task: Tensor | None = None, step: int | None = None) -> dict[str, float]:
        """This step's reading, or {} if none is due. Call it before `backward`.

        task: the task loss (weighted, without the distillation). step: the training's count, by default that
        of the calls.
        """
        step = self._steps if step is None else step
        self._steps = step + 1
        if step % self.every and not self.distiller.balance.needs_reading:
            return {}
        weights: dict[str, Weight] = {name: _constant(weight) for name, weight in distilled.weights.items()}
        losses = dict(distilled.terms)
        if task is not None:
            losses[TASK], weights[TASK] = task, 1.0
        readings = {f"{name}/loss": value for name, value in distilled.terms.items()} | self._state(distilled)
        if task is not None:
            readings[f"{TASK}/loss"] = task
        readings |= {f"{name}/weight": torch.as_tensor(weights[name]).to(losses[name]) for name in self._balanced}
        readings |= _shares("loss_share", {name: (weights[name] * value).abs() for name, value in losses.items()})
        norms, pulls = self._pulls(losses, weights, distilled)
        readings |= pulls
        values = _floats(readings | norms)  # one wait for the device
        self._observe({name: values.pop(name) for name in norms}, weights)
        reading = {f"flight/{name}": value for name, value in values.items()}
        self.rows.append({"step": step, **reading})
        return reading

    def write_csv(self, path: Path | str) -> None:
        """Write one row per reading; a missing value stays empty."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = StringIO(newline="")
        writer = csv.DictWriter(text, columns or ["step"])
        writer.writeheader()
        writer.writerows(self.rows)
        files.write_text(path, text.getvalue())

    def write_json(self, path: Path | str) -> None:
        """Write the readings as JSON, schema `monoskd/flight/1`."""
        files.write_json(path, {"schema": SCHEMA, "readings": self.rows})

    @torch.no_grad()
    def _state(self, distilled: Distilled) -> dict[str, Tensor]:
        """The readings that need no gradient."""
        readings = {f"{name}/floor": value for name, value in self.distiller.floor(distilled).items()}
        for name, term in self.distiller.terms.items():
            if isinstance(term.loss, SpearmanLoss) and term.between == "taps":
                students, _ = self.distiller.maps(name, distilled)
                readings[f"{name}/degeneracy"] = term.loss.degeneracy(student=students)
        return readings

    @property
    def _balanced(self) -> list[str]:
        """Terms whose weight is set during training."""
        return [name for name, term in self.distiller.terms.items() if term.uncertainty or term.share is not None]

    def _pulls(
        self, losses: dict[str, Tensor], weights: dict[str, Weight], distilled: Distilled
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """|dL/dF| of each loss, unweighted; and the readings: shares of the gradient, cosines with the task's."""
        shared = [origin for name in self.at for origin in distilled.maps[name].origins if origin.tensor.requires_grad]
        if not shared:
            return {}, {}
        pulls = {name: _gradient(loss, shared) for name, loss in losses.items()}
        norms = {name: pull.norm() for name, pull in pulls.items()}
        readings = _shares("gradient_share", {name: (weights[name] * norm).abs() for name, norm in norms.items()})
        for name in pulls if TASK in pulls else ():
            if name == TASK:
                continue
            length = norms[name] * norms[TASK]
            cosine = pulls[name] @ pulls[TASK] / torch.where(length > 0, length, 1)
            readings[f"{name}/task_cosine"] = cosine * torch.as_tensor(weights[name]).sign()
        return norms, readings

    def _observe(self, norms: dict[str, float], weights: dict[str, Weight]) -> None:
        """Let the distiller set the weights of the terms with a share."""
        shares = self.distiller.balance.shares
        if shares and norms:
            rest = sum(abs(float(weights[name]) * norm) for name, norm in norms.items() if name not in shares)
            self.distiller.balance.observe({name: norms[name] for name in shares}, rest=rest)


def _constant(weight: Weight) -> Weight:
    return weight.detach() if isinstance(weight, Tensor) else weight


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    numbers = torch.stack([value.detach().float() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))


def _gradient(loss: Tensor, shared: Sequence[Origin]) -> Tensor:
    """dL/dF as one flat vector; zeros where L does not depend on F."""
    zeros = [torch.zeros_like(origin.tensor) for origin in shared]
    parts: Sequence[Tensor | None] = [None] * len(shared)
    if loss.requires_grad:
        nodes: list[Any] = [origin.edge or origin.tensor for origin in shared]
        parts = torch.autograd.grad(loss, nodes, retain_graph=True, allow_unused=True)
    filled = [zero if part is None else part for part, zero in zip(parts, zeros, strict=True)]
    return torch.cat([part.flatten().float() for part in filled])


def _shares(reading: str, sizes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each size over their sum; 0 where all are 0."""
    total = torch.stack([size.detach() for size in sizes.values()]).sum()
    return {f"{name}/{reading}": size / torch.where(total > 0, total, 1) for name, size in sizes.items()}
