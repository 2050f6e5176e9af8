"""Heat maps of object centres: drawing them, their losses, and reading their peaks. Shared by detectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from monoskd.geometry.heatmap import gaussian_radius
from monoskd.parallel import normaliser

HEAD_STRIDE = 4  # network pixels a cell of the heads' map
HEAT_PRIOR_LOGIT = -2.19  # a cell holds an object with probability 0.1 before anything is learned


class AtCells(Protocol):
    """Anything that holds the image and the cell (column, row) of n objects."""

    @property
    def image(self) -> Tensor:
        """n."""

    @property
    def cell(self) -> Tensor:
        """n x 2."""


class LabelledCells(AtCells, Protocol):
    """Those with a class, as a channel of the heat map."""

    @property
    def label(self) -> Tensor:
        """n."""


@dataclass(frozen=True)
class Peaks:
    """Cells of b heat maps, laid flat over the images, each with a class and the heat of that class there."""

    image: Int64[Tensor, " n"]
    cell: Int64[Tensor, "n 2"]  # (column, row)
    label: Int64[Tensor, " n"]
    heat: Float[Tensor, " n"]


def peaks(heat: Float[Tensor, "b c v u"], *, count: int) -> Peaks:
    """The `count` highest local maxima of each image (3 x 3 neighbours, same class), image after image, best first."""
    images, _, rows, columns = heat.shape
    highest = nn.functional.max_pool2d(heat, 3, stride=1, padding=1)
    maxima = torch.where(heat == highest, heat, 0).flatten(1)
    cells = maxima.shape[1]
    scores, index = maxima.topk(count if count <= cells else cells)  # not `min`: of a free size that is no number
    image = torch.arange(images, device=heat.device)[:, None].expand_as(index)
    cell = torch.stack([index % columns, index // columns % rows], -1)
    return Peaks(image.flatten(), cell.flatten(0, 1), (index // (rows * columns)).flatten(), scores.flatten())


def at_cells(dense: Float[Tensor, "b k v u"], where: AtCells) -> Float[Tensor, "n k"]:
    """The values of a dense head at the objects' cells."""
    return dense[where.image, :, where.cell[:, 1], where.cell[:, 0]]


def heat_at(heat: Float[Tensor, "b c v u"], where: LabelledCells) -> Float[Tensor, " n"]:
    """The heat of each object's class at its cell."""
    return heat[where.image, where.label, where.cell[:, 1], where.cell[:, 0]]


def heads_at_cells(
    heads: Mapping[str, nn.Module], shared: Float[Tensor, "b c v u"], where: AtCells
) -> dict[str, Float[Tensor, "n _k"]]:
    """What dense heads say at cells, evaluated there alone: `at_cells(head(shared), where)` for each.

    A head sees a cell's 3 x 3 neighbours at most, with zeros outside of the map. To read fifty cells of it, most of
    a convolution over a map of stride 4 is wasted.
    """
    step = torch.arange(3, device=shared.device)
    columns, rows = (where.cell[:, axis, None] + step for axis in (0, 1))
    around = nn.functional.pad(shared, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    patches = around[where.image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return {name: head(patches)[:, :, 1, 1] for name, head in heads.items()}


def draw_heatmap(
    cell: NDArray[Any], label: NDArray[Any], size: NDArray[Any], *, height: NDArray[Any], shape: tuple[int, int, int]
) -> Tensor:
    """classes x rows x columns: a Gaussian at each object's cell in the map of its class; the higher where two meet.

    cell: n x 2 (column, row); label: n; size: n x 2 (width, height) of the 2D boxes, in cells; height: n, of the peaks.
    A peak ends `gaussian_radius` whole cells from its centre, which is three standard deviations.
    """
    heatmap = np.zeros(shape)
    reach = np.maximum(gaussian_radius(size[:, 0], size[:, 1]).astype(int), 0)
    for (column, row), channel, radius, top in zip(cell.astype(int), label, reach, height, strict=True):
        rows = np.arange(max(row - radius, 0), min(row + radius + 1, shape[1]))
        columns = np.arange(max(column - radius, 0), min(column + radius + 1, shape[2]))
        sigma = (2 * radius + 1) / 6
        peak = top * np.exp(-((rows[:, None] - row) ** 2 + (columns - column) ** 2) / (2 * sigma**2))
        window = heatmap[channel, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.maximum(window, peak, out=window)
    return torch.from_numpy(heatmap.astype(np.float32))


def focal_loss(logits: Float[Tensor, "b c v u"], heat: Float[Tensor, "b c v u"]) -> Float[Tensor, ""]:
    """CornerNet's focal loss (Law and Deng, ECCV 2018), summed and divided by the number of peaks.

    With p = sigmoid(logits): -(1 - p)^2 log p where heat = 1, else -(1 - heat)^4 p^2 log(1 - p).
    """
    p = logits.sigmoid()
    peak = heat == 1
    at_peaks = -((1 - p) ** 2) * functional.logsigmoid(logits)
    elsewhere = -((1 - heat) ** 4) * p**2 * functional.logsigmoid(-logits)
    return torch.where(peak, at_peaks, elsewhere).sum() / normaliser(peak.sum(), like=logits)


def quality_focal_loss(
    logits: Float[Tensor, "b c v u"], heat: Float[Tensor, "b c v u"], *, objects: int, least: int = 0
) -> Float[Tensor, ""]:
    """Focal loss for soft heat maps (Li et al., "Generalized Focal Loss", NeurIPS 2020).

    With p = sigmoid(logits): |heat - p|^2 times the cross-entropy -heat log p - (1 - heat) log(1 - p), summed, over
    the number of objects, or `least` if that is more. Least where p = heat, so that the student learns the teacher's
    uncertainty, too.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, heat, reduction="none")
    return ((heat - logits.sigmoid()) ** 2 * cross_entropy).sum() / normaliser(objects, like=logits, least=least)
