"""The transformer's layers, all with the normalisation after the sum, and the code of a cell's position.

Letters in shapes: b images, t tokens (cells), q queries, w channels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoskd.models.monodetr.deformable import DeformableAttention, Shapes


def position_code(rows: int, columns: int, *, width: int, like: Tensor) -> Float[Tensor, "t w"]:
    """Sines and cosines of each cell's row, then of its column, on wavelengths of 1 to 10000 map sizes.

    Cells count from 1 and the map's size is 2 pi. The position code stays in float32 or better, whatever `like` has.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    half = width // 2
    place = torch.arange(half, device=like.device, dtype=dtype)
    frequency = 10000 ** (-2 * torch.div(place, 2, rounding_mode="floor") / half)
    codes = []
    for count in (rows, columns):
        cell = torch.arange(1, count + 1, device=like.device, dtype=dtype) / (count + 1e-6) * 2 * math.pi
        angle = cell[:, None] * frequency
        codes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1))
    of_row, of_column = codes[0][:, None].expand(-1, columns, -1), codes[1].expand(rows, -1, -1)
    return torch.cat([of_row, of_column], -1).flatten(0, 1)


def cell_centres(shapes: Shapes, *, like: Tensor) -> Float[Tensor, "t 2"]:
    """The middle (x, y) of every cell of all levels, as fractions of the map."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    centres = []
    for rows, columns in shapes:
        y = (torch.arange(rows, device=like.device, dtype=dtype) + 0.5) / rows
        x = (torch.arange(columns, device=like.device, dtype=dtype) + 0.5) / columns
        centres.append(torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], -1).flatten(0, 1))
    return torch.cat(centres)


class FeedForward(nn.Module):
    """norm(x + linear(relu(linear(x))))."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.inner_dropout, self.dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        inner = self.inner_dropout(self.first(x).relu())
        y: Tensor = self.norm(x + self.dropout(self.second(inner)))
        return y


class SelfAttention(nn.Module):
    """norm(x + attention), with every token's position added to queries and keys but not to values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b t w"], position: Tensor) -> Tensor:
        """The same shape."""
        where = x + position
        y: Tensor = self.norm(x + self.dropout(self.attention(where, where, x, need_weights=False)[0]))
        return y


class EncoderLayer(nn.Module):
    """Every cell looks at a few places in the maps of all levels."""

    def __init__(self, width: int, *, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads=heads, levels=levels, points=points)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.feed = FeedForward(width, hidden, dropout)

    def forward(self, x: Float[Tensor, "b t w"], *, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        """The same shape."""
        read = self.attention(x + position, reference=reference, tokens=x, shapes=shapes)
        y: Tensor = self.feed(self.norm(x + self.dropout(read)))
        return y


class DecoderLayer(nn.Module):
    """Every query looks at the depth map, at the other queries of its group and at places around its box."""

    def __init__(self, width: int, *, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.depth_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.depth_norm = nn.LayerNorm(width)
        # The two linear layers of a pair see the same input and act as one; the published weights have both.
        self.query_content, self.query_position = nn.Linear(width, width), nn.Linear(width, width)
        self.key_content, self.key_position = nn.Linear(width, width), nn.Linear(width, width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.places = DeformableAttention(width, heads=heads, levels=levels, points=points)
        self.places_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, hidden, dropout)
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in range(3))

    def forward(
        self,
        x: Float[Tensor, "b gq w"],
        *,
        position: Float[Tensor, "b gq w"],
        reference: Tensor,
        tokens: Float[Tensor, "b t w"],
        shapes: Shapes,
        depth_tokens: Float[Tensor, "b d w"],
        groups: int,
    ) -> Tensor:
        """The same shape."""
        read = self.depth_attention(x, depth_tokens, depth_tokens, need_weights=False)[0]
        x = self.depth_norm(x + self.dropouts[0](read))
        where = x + position
        query = self.query_content(where) + self.query_position(where)
        key = self.key_content(where) + self.key_position(where)
        apart = [part.unflatten(1, (groups, -1)).flatten(0, 1) for part in (query, key, x)]
        read = self.attention(*apart, need_weights=False)[0].unflatten(0, (-1, groups)).flatten(1, 2)
        x = self.norm(x + self.dropouts[1](read))
        read = self.places(x + position, reference=reference, tokens=tokens, shapes=shapes)
        x = self.places_norm(x + self.dropouts[2](read))
        y: Tensor = self.feed(x)
        return y


def start_xavier(layers: Sequence[nn.Module]) -> None:
    """Xavier uniform matrices, as the published transformer starts; deformable attention keeps its own start."""
    for layer in layers:
        own: set[Any] = {
            id(part.weight)
            for module in layer.modules()
            if isinstance(module, DeformableAttention)
            for part in (module.offsets, module.weights)
        }
        for parameter in layer.parameters():
            if parameter.dim() > 1 and id(parameter) not in own:
                nn.init.xavier_uniform_(parameter)
