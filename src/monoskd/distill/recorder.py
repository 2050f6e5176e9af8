"""A flight recorder: how much each distillation term says, beside the task and beside a student that only guesses."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoskd.distill.distiller import Distilled, Distiller
from monoskd.distill.losses import SpearmanLoss
from monoskd.distill.terms import Tapped
from monoskd.errors import InputError

SCHEMA = "monoskd/flight/1"
TASK = "task"  # the name under which the task loss stands beside the terms


class FlightRecorder:
    """Readings of a training run, one every so many steps.

        recorder = FlightRecorder(distiller, every=50)
        out = distiller(images)
        task = cross_entropy(out.student, labels)
        logger.log(recorder.record(out, task=task))     # {} on the steps between
        (task + out.total).backward()

    A reading has, as plain floats, for every term `flight/<term>/`

        loss             the student's, unweighted
        floor            the same for a student that knows the teacher's mean map and nothing of the image: a loss that
                         is not below it has taught nothing about images (terms on taps, two images or more)
        loss_share       |w L| over the sum of |w L|, the task's own included
        gradient_share   |d(w L)/dF| over the sum of these norms, the task's own included
        task_cosine      the angle between d(w L)/dF and the task's gradient; below 0 the term pulls against the task
        degeneracy       of `SpearmanLoss`: the share of values in the largest pooled block (1: it is Pearson)

    and loss, loss_share and gradient_share of `flight/task/`. F are the student's maps at the taps `at` (all by
    default), before any adapter: what task and terms share. Where nothing flows back, a norm and a cosine are 0.

    A reading costs one backward pass per term and one for the task, from the losses to F only; the network below F is
    not entered, and `.grad` of no parameter is touched. Readings are of this process alone.
    """

    def __init__(self, distiller: Distiller, *, every: int = 50, at: Sequence[str] | None = None) -> None:
        if every < 1:
            raise InputError(f"FlightRecorder: every: expected at least 1 step, got {every}")
        if TASK in distiller.terms:
            raise InputError(f'FlightRecorder: a term is called "{TASK}", as is the task loss: rename the term')
        unknown = [name for name in at or () if name not in distiller.taps]
        if unknown or not distiller.taps:
            raise InputError(f"FlightRecorder: at: expected some of the taps {list(distiller.taps)}, got {at}")
        self.distiller = distiller
        self.every = every
        self.at = list(at or distiller.taps)
        self.rows: list[dict[str, float]] = []
        self._steps = 0

    def record(self, distilled: Distilled, *, task: Tensor | None = None, step: int | None = None) -> dict[str, float]:
        """This step's reading, or {} if none is due. To be called before `backward`.

        task: the task loss (weighted, without the distillation). step: the training's count; by default the calls.
        """
        step = self._steps if step is None else step
        self._steps = step + 1
        if step % self.every:
            return {}
        losses = {name: distilled.weights[name] * value for name, value in distilled.terms.items()}
        if task is not None:
            losses[TASK] = task
        readings = {f"{name}/loss": value for name, value in distilled.terms.items()} | self._state(distilled)
        if task is not None:
            readings[f"{TASK}/loss"] = task
        readings |= _shares("loss_share", {name: value.abs() for name, value in losses.items()})
        readings |= self._pulls(losses, distilled)
        values = torch.stack(
            [value.detach().float() for value in readings.values()]
        ).tolist()  # one wait for the device
        reading = {f"flight/{name}": value for name, value in zip(readings, values, strict=True)}
        self.rows.append({"step": step, **reading})
        return reading

    def write_csv(self, path: Path | str) -> None:
        """One row a reading; a value that a reading lacks stays empty."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, columns or ["step"])
            writer.writeheader()
            writer.writerows(self.rows)

    def write_json(self, path: Path | str) -> None:
        """The same, as `monoskd/flight/1`."""
        Path(path).write_text(json.dumps({"schema": SCHEMA, "readings": self.rows}, indent=1) + "\n")

    @torch.no_grad()
    def _state(self, distilled: Distilled) -> dict[str, Tensor]:
        """What can be said of the terms without a gradient."""
        readings = {f"{name}/floor": value for name, value in self.distiller.floor(distilled).items()}
        for name, term in self.distiller.terms.items():
            if isinstance(term.loss, SpearmanLoss) and term.between == "taps":
                students, _ = self.distiller.maps(name, distilled)
                readings[f"{name}/degeneracy"] = term.loss.degeneracy(student=students)
        return readings

    def _pulls(self, losses: dict[str, Tensor], distilled: Distilled) -> dict[str, Tensor]:
        """Shares of the gradient and cosines with the task's."""
        shared = [distilled.maps[name] for name in self.at if distilled.maps[name].source.requires_grad]
        if not shared:
            return {}
        pulls = {name: _gradient(loss, shared) for name, loss in losses.items()}
        norms = {name: pull.norm() for name, pull in pulls.items()}
        readings = _shares("gradient_share", norms)
        if TASK in pulls:
            for name in (each for each in pulls if each != TASK):
                length = norms[name] * norms[TASK]
                cosine = pulls[name] @ pulls[TASK] / torch.where(length > 0, length, 1)
                readings[f"{name}/task_cosine"] = cosine
        return readings


def _gradient(loss: Tensor, shared: Sequence[Tapped]) -> Tensor:
    """dL/dF as one flat vector; zeros where L does not depend on F."""
    nothing = [torch.zeros_like(one.source) for one in shared]
    parts: Sequence[Tensor | None] = [None] * len(shared)
    if loss.requires_grad:
        places: list[Any] = [one.edge or one.source for one in shared]
        parts = torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)
    filled = [zeros if part is None else part for part, zeros in zip(parts, nothing, strict=True)]
    return torch.cat([part.flatten().float() for part in filled])


def _shares(reading: str, sizes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each size over their sum; 0 where all are 0."""
    total = torch.stack([size.detach() for size in sizes.values()]).sum()
    return {f"{name}/{reading}": size / torch.where(total > 0, total, 1) for name, size in sizes.items()}
