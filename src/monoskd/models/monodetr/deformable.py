"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) in plain PyTorch."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.models.monodetr.bilinear import read_maps

Shapes = Sequence[tuple[int, int]]  # (rows, columns) of each level


class DeformableAttention(nn.Module):
    """Each query reads a few places around its reference point in the maps of all levels.

    A head's answer is the sum over l levels and p points of weight times value. Its places are reference + offset,
    where offsets are in cells of the level. A reference box (x, y, left, right, top, bottom) measures them in its own
    size instead: offset / p times half of (left + right, top + bottom).
    """

    def __init__(self, width: int, *, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self._start()

    def _start(self) -> None:
        """Head i looks 1 to p cells far in the direction of angle 2 pi i / heads; all places weigh the same."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        far = direction[:, None, None] * torch.arange(1, self.points + 1)[:, None]
        self.offsets.bias.data.copy_(far.expand(-1, self.levels, -1, -1).flatten())

    def forward(
        self, query: Float[Tensor, "b q w"], *, reference: Tensor, tokens: Float[Tensor, "b t w"], shapes: Shapes
    ) -> Float[Tensor, "b q w"]:
        """reference: b x q x 2 places or b x q x 6 boxes, in [0, 1]; tokens: the cells of all levels, row by row."""
        grid = (*query.shape[:2], self.heads, self.levels, self.points)
        # Half precision would move a place by a tenth of a cell: places and sums need more.
        exact = torch.promote_types(query.dtype, torch.float32)
        offsets = self.offsets(query).to(exact).unflatten(-1, (*grid[2:], 2))
        weights = self.weights(query).to(exact).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, grid[3:])
        box = reference.to(exact)[:, :, None, None]
        values = torch.split(self.value(tokens).to(exact), [rows * columns for rows, columns in shapes], 1)
        read = sum(
            sampled(
                value, shape, places=places_of(box, offsets[:, :, :, level], shape), weights=weights[:, :, :, level]
            )
            for level, (value, shape) in enumerate(zip(values, shapes, strict=True))
        )
        answer: Tensor = self.output(read.to(query.dtype))  # type: ignore[union-attr]
        return answer


def places_of(box: Tensor, offsets: Float[Tensor, "b q h p 2"], shape: tuple[int, int]) -> Float[Tensor, "b q h p 2"]:
    """Where the offsets lead in one level, as shares of it. box: b x q x 1 x 1 x (2 or 6), as in the class."""
    if box.shape[-1] == 2:
        rows, columns = shape
        return box + torch.stack([offsets[..., 0] / columns, offsets[..., 1] / rows], -1)
    return box[..., :2] + offsets / offsets.shape[-2] * (box[..., 2::2] + box[..., 3::2]) / 2


def sampled(
    value: Float[Tensor, "b t w"],
    shape: tuple[int, int],
    *,
    places: Float[Tensor, "b q h p 2"],
    weights: Float[Tensor, "b q h p"],
) -> Float[Tensor, "b q w"]:
    """The weighted sum of one level's values at p places of each query and head; bilinear, 0 outside the map."""
    images, _, heads, _, _ = places.shape
    maps = value.transpose(1, 2).reshape(images * heads, -1, *shape)
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)
    read = read_maps(maps, grid, align_corners=False)  # bh x w/h x q x p
    summed = (read * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return summed.reshape(images, value.shape[2], -1).transpose(1, 2)
