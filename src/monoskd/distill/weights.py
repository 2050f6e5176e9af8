"""Weights that training sets itself: by share of the gradient, and by uncertainty."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from monoskd.distill.terms import Term
from monoskd.errors import InputError

Weight: TypeAlias = float | Tensor

SMOOTHING = 0.9  # of the running gradient norms, a reading
ROUNDING = 1e-6  # a norm below this part of the others' is rounding, as where the teacher is a copy of the student
PATIENCE = 10  # training passes without a reading before it is an error


class Balance(nn.Module):
    """The factor of each term, and what the uncertain ones add to the total.

    A term with `weight` and `schedule`: their product.

    With `share` s_i: let g be running means of gradient norms at the student's tapped maps F: g_i = |dL_i / dF| of
    this term, and R the sum of |w_j g_j| over all terms without a share and the task. Then

        w_i = s_i / (1 - sum of all shares) * R / g_i        times the schedule

    so that |w_i g_i| is the part s_i of the sum of all. It changes with each reading of a `FlightRecorder` and is a
    constant to the gradient; before the first reading it is 1. A term without gradient (below 1e-6 R) keeps its weight.
    In a group of processes the norms are averaged: every process has to record. The means are part of the state dict.

    With `uncertainty` (Kendall, Gal & Cipolla, "Multi-task learning using uncertainty to weigh losses", CVPR 2018), s
    being log sigma^2, a parameter that starts at 0 and is trained with the student:

        total += weight * schedule * (exp(-s) L + s) / 2

    The paper's form for regression. L must not be negative.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.terms = dict(terms)
        self.shares = {name: term.share for name, term in terms.items() if term.share is not None}
        if sum(self.shares.values()) >= 1:
            raise InputError(f"shares: expected a sum below 1, since the task has the rest, got {self.shares}")
        self.scheduled = [name for name, term in terms.items() if term.schedule is not None]
        self.uncertain = [name for name, term in terms.items() if term.uncertainty]
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in self.uncertain})
        self._given = {name: float(term.weight) for name, term in terms.items()}
        self._norms = dict.fromkeys(self.shares, 1.0)
        self._share_weights = dict.fromkeys(self.shares, 1.0)
        self._rest = 0.0
        self._readings = 0
        self._passes_without_reading = 0

    @property
    def needs_reading(self) -> bool:
        """Whether a term has a share and its gradient has not been measured."""
        return bool(self.shares) and not self._readings

    def weights(self, progress: float) -> dict[str, Weight]:
        """The factor of each term at this share of the training."""
        weights: dict[str, Weight] = dict(self._given)
        for name in self.scheduled:
            weights[name] = self.terms[name].factor(progress)
        for name in self.shares:
            weights[name] *= self._share_weights[name]
        for name in self.uncertain:
            weights[name] = weights[name] / 2 * torch.exp(-self.log_variance[name]).squeeze()
        return weights

    def total(self, terms: Mapping[str, Tensor], weights: Mapping[str, Weight], progress: float) -> Tensor:
        """All terms, each times its weight, and what the uncertain ones add: one operation a term and number.

        Never one of the terms itself, into which a caller could write.
        """
        first, *others = terms
        weight, total = weights[first], terms[first]
        if isinstance(weight, Tensor) or weight != 1.0 or not (others or self.uncertain):
            total = weight * total
        for name in others:
            weight, value = weights[name], terms[name]
            total = total + weight * value if isinstance(weight, Tensor) else torch.add(total, value, alpha=weight)
        for name in self.uncertain:
            total = total + self.terms[name].factor(progress) / 2 * self.log_variance[name].squeeze()
        return total

    def check_readings(self) -> None:
        """Raise InputError where training goes on and nothing measures the gradients that shares ask for."""
        if not self.shares:
            return
        self._passes_without_reading = self._passes_without_reading + 1 if self.needs_reading else 0
        if self._passes_without_reading > PATIENCE:
            raise InputError(
                f"terms {', '.join(self.shares)} ask for a share of the gradient, expected a reading, got none in "
                f"{PATIENCE} steps: call FlightRecorder(distiller).record(out, task=...) before backward"
            )

    def observe(self, norms: Mapping[str, float], *, rest: float) -> None:
        """Take a reading. norms: g_i of the terms with a share; rest: R."""
        if not self.shares:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            norms, rest = _averaged(norms, rest)
        if not rest > 0:
            raise InputError(
                "shares: expected other gradients at the tapped maps, got none: give the task loss to "
                "recorder.record(out, task=...)"
            )
        self._readings += 1
        rate = max(1 / self._readings, 1 - SMOOTHING)
        self._rest += rate * (rest - self._rest)
        for name in self.shares:
            self._norms[name] += rate * (norms[name] - self._norms[name])
        self._set_weights()

    def get_extra_state(self) -> Tensor:
        """The running norms, for terms with a share alone: see `_save_to_state_dict`."""
        values = [self._readings, self._rest, *self._norms.values(), *self._share_weights.values()]
        return torch.tensor(values, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from a checkpoint."""
        readings, self._rest, *values = state.tolist()
        if len(values) != 2 * len(self.shares):
            raise InputError(f"shares: expected a checkpoint with {len(self.shares)} of them, got {len(values) // 2}")
        self._readings = int(readings)
        self._norms = dict(zip(self.shares, values[: len(self.shares)], strict=True))
        self._share_weights = dict(zip(self.shares, values[len(self.shares) :], strict=True))

    def _set_weights(self) -> None:
        unit = self._rest / (1 - sum(self.shares.values()))
        for name, share in self.shares.items():
            if self._norms[name] > ROUNDING * self._rest:
                self._share_weights[name] = share * unit / self._norms[name]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """As always; without shares there is no extra state, so that old checkpoints fit."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.shares:
            destination.pop(f"{prefix}_extra_state", None)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, strict: bool, *lists: Any) -> None:
        """As always; without shares no extra state is missed."""
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *lists[1:])
        lists[0].extend(key for key in missing if self.shares or key != f"{prefix}_extra_state")


def _averaged(norms: Mapping[str, float], rest: float) -> tuple[dict[str, float], float]:
    """The means over all processes."""
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    values = torch.tensor([rest, *norms.values()], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(values)
    rest, *means = (values / torch.distributed.get_world_size()).tolist()
    return dict(zip(norms, means, strict=True)), rest
