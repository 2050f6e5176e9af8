"""The order in memory in which convolutions are fastest."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def in_fast_layout(network: Network) -> Network:
    """The same network; on a CPU the weights of its convolutions lie channels last, and so do the maps they make.

    Numbers differ in the order of sums only. A GPU gains in half precision alone, and
    keeps its layout.
    """
    if all(x.device.type == "cpu" for x in network.parameters()):
        network.to(memory_format=torch.channels_last)
    return network
