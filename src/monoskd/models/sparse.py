"""Heads of a 3 x 3 and a 1 x 1 convolution, computed at some cells alone."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import linear, pad


def dense_at(
    heads: Mapping[str, nn.Module], shared: Float[Tensor, "b k v u"], where: Bool[Tensor, "b v u"]
) -> dict[str, Float[Tensor, "b _c v u"]]:
    """Each head's map where `where` says so, and 0 elsewhere.

    A head is a 3 x 3 convolution with padding 1, an activation and a 1 x 1 convolution. The patches under the cells are
    gathered once, and both convolutions are products of matrices: the same numbers up to the order of the sums.
    """
    image, row, column = where.nonzero().unbind(1)
    patches = _patches(shared, image, row, column)
    batch, rows, columns = where.shape
    maps = {}
    for name, head in heads.items():
        first, activation, last = head.children()
        assert isinstance(first, nn.Conv2d)
        assert isinstance(last, nn.Conv2d)
        hidden = activation(linear(patches, first.weight.permute(0, 2, 3, 1).flatten(1), first.bias))
        values = linear(hidden, last.weight.flatten(1), last.bias)
        empty = values.new_zeros(batch, rows, columns, values.shape[1])
        maps[name] = empty.index_put((image, row, column), values).permute(0, 3, 1, 2)
    return maps


def hooked(head: nn.Module) -> bool:
    """Whether somebody watches the head's modules, which then have to be called as they are."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in head.modules())


def _patches(shared: Tensor, image: Tensor, row: Tensor, column: Tensor) -> Float[Tensor, "m k9"]:
    """The 3 x 3 surroundings of each cell: rows, then columns, then channels."""
    _, channels, height, width = shared.shape
    step = torch.arange(3, device=shared.device)
    line = (image * (height + 2) + row)[:, None, None] + step[:, None]  # of the padded maps, laid on top of each other
    place = line * (width + 2) + column[:, None, None] + step
    flat = pad(shared, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, channels)
    return flat.index_select(0, place.flatten()).reshape(len(image), 9 * channels)
