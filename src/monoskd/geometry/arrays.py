"""One formula for numpy arrays and torch tensors.

The renderer and the depth maps use numpy, the network uses torch; the geometry is written once for both. Torch is
imported at the first tensor, so that code without a network starts without torch.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, Any] | Tensor"


def namespace(array: Any) -> ModuleType:
    """`numpy` or `torch`, the library of `array`. Call functions with positional arguments: these agree in both."""
    if isinstance(array, np.ndarray | np.generic | float):
        return np
    import torch

    return torch


def ranges(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, .., c - 1 for each c of the counts, end to end."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
