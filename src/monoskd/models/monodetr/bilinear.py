"""Reading maps between their cells. In an exported graph by gathers: TensorRT gets ONNX's GridSample wrong."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample


def read_maps(
    maps: Float[Tensor, "b c v u"], grid: Float[Tensor, "b q p 2"], *, align_corners: bool
) -> Float[Tensor, "b c q p"]:
    """As torch's `grid_sample`: bilinear, 0 outside. -1 and 1 are the map's borders or its outer cells' centres."""
    if torch.compiler.is_exporting():
        return gathered(maps, grid, align_corners=align_corners)
    return grid_sample(maps, grid, align_corners=align_corners)


def gathered(
    maps: Float[Tensor, "b c v u"], grid: Float[Tensor, "b q p 2"], *, align_corners: bool
) -> Float[Tensor, "b c q p"]:
    """The same from the four cells around each place. In eager mode it is slower and takes more memory."""
    x, y = (
        (grid[..., axis, None] + 1) / 2 * (length - 1)
        if align_corners
        else ((grid[..., axis, None] + 1) * length - 1) / 2
        for axis, length in enumerate(maps.shape[:1:-1])
    )
    left, top = x.floor() + grid.new_tensor([0, 1, 0, 1]), y.floor() + grid.new_tensor([0, 0, 1, 1])  # b q p 4
    column, row = left.clamp(0, maps.shape[3] - 1), top.clamp(0, maps.shape[2] - 1)
    inside = (column == left) & (row == top)
    share = torch.where(inside, (1 - (x - left).abs()) * (1 - (y - top).abs()), 0)
    cell = row.long() * maps.shape[3] + column.long()
    values = maps.flatten(2).gather(2, cell.flatten(1)[:, None].expand(-1, maps.shape[1], -1))
    return (values.reshape(*maps.shape[:2], *cell.shape[1:]) * share[:, None]).sum(-1)
