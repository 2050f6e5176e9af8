"""One formula for numpy arrays and torch tensors.

The renderer and the depth maps work in numpy, the network in torch, and neither should repeat the other's geometry.
Torch is imported only once a tensor is met, so that what needs no network starts without it.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, Any] | Tensor"


def namespace(array: Any) -> ModuleType:
    """`numpy` or `torch`, whichever made `array`; call its functions with positional arguments, which agree."""
    if isinstance(array, np.ndarray | np.generic | float):
        return np
    import torch

    return torch
