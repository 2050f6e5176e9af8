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
    """The same by four gathers. In eager mode it is slower and takes more memory than `grid_sample`."""
    rows, columns = maps.shape[2:]
    x, y = (
        (grid[..., axis] + 1) / 2 * (length - 1) if align_corners else ((grid[..., axis] + 1) * length - 1) / 2
        for axis, length in enumerate((columns, rows))
    )
    left, top = x.floor(), y.floor()
    flat = maps.flatten(2)
    read = torch.zeros((), dtype=maps.dtype, device=maps.device)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = (1 - (y - row).abs()) * (1 - (x - column).abs())
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        cell = row.clamp(0, rows - 1).long() * columns + column.clamp(0, columns - 1).long()
        values = flat.gather(2, cell.flatten(1)[:, None].expand(-1, maps.shape[1], -1))
        read = read + values.reshape(*maps.shape[:2], *grid.shape[1:3]) * torch.where(inside, weight, 0)[:, None]
    return read
