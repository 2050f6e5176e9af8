"""Numbers that all processes of a loader see."""

import torch
from torch import Tensor


def shared_zeros(*shape: int) -> Tensor:
    """Whole numbers, zeros at first; what one process writes, all others see, also those that outlive an epoch."""
    numbers = torch.zeros(shape, dtype=torch.int64)
    numbers.untyped_storage().share_memory_()
    return numbers
