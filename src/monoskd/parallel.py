"""Sums and counts over the processes that train one network together; in a single process they are its own.

DistributedDataParallel averages the gradients of the processes. So that a batch has the same loss on any number of
them, each process divides its sum by the mean of all processes' counts (`normaliser`): with sums S_r over n_r objects
on W processes, the mean over r of S_r / (sum n_r / W) is sum S_r / sum n_r.

All wait for the other processes, so each process has to call them the same number of times. They do so only while
gradients are recorded: a process that measures a network on its own, under `torch.no_grad()`, waits for nobody.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_AVAILABLE = torch.distributed.is_available()  # whether torch was built with it


def processes() -> int:
    """How many processes train together; 1 where no gradients are recorded."""
    together = _AVAILABLE and torch.distributed.is_initialized() and torch.is_grad_enabled()
    return torch.distributed.get_world_size() if together else 1


def normaliser(count: int | Tensor, *, like: Tensor, least: int = 0) -> int | Tensor:
    """What a process divides its sum over `count` objects by: the mean of all processes' counts.

    The processes together count at least 1 object, and at least the sum of their `least`. like: a tensor on the device.
    """
    if processes() == 1:
        return count.clamp(min=max(least, 1)) if isinstance(count, Tensor) else max(count, least, 1)
    dtype = torch.promote_types(like.dtype, torch.float32)
    counts = torch.stack([torch.full((), number, dtype=dtype, device=like.device) for number in (0, least)])
    counts[0] += count
    return _total(counts).max().clamp(min=1) / processes()


def average(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the processes, without gradient where there are several; all have the same names."""
    if processes() == 1 or not values:
        return dict(values)
    means = _total(torch.stack([value.detach() for value in values.values()])) / processes()
    return dict(zip(values, means, strict=True))


def average_numbers(numbers: Mapping[str, float], *, device: torch.device) -> Mapping[str, float]:
    """The mean of each number over the processes, which have the same names. device: where the processes meet."""
    if processes() == 1 or not numbers:
        return numbers
    means = _total(torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)) / processes()
    return dict(zip(numbers, means.tolist(), strict=True))


def mean_of_rows(rows: Tensor) -> Tensor:
    """The mean over the first axis of all processes' rows, without gradient; NaN where there are none."""
    if processes() == 1:
        return rows.detach().mean(0)
    count = torch.full((), len(rows), dtype=rows.dtype, device=rows.device)
    return _total(rows.detach().sum(0)) / _total(count)


def _total(values: Tensor) -> Tensor:
    torch.distributed.all_reduce(values)
    return values
