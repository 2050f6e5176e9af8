from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monoskd.models.heatmap import at_cells, heads_at_cells


@dataclass
class Cells:
    image: Tensor
    cell: Tensor


def test_a_head_at_cells_is_its_map_read_there() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(5, 7, 3, padding=1), nn.ReLU(), nn.Conv2d(7, 2, 1)).double()
    shared = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    every = Cells(
        torch.arange(2).repeat_interleave(24), torch.stack([torch.arange(48) % 6, torch.arange(48) // 6 % 4], 1)
    )
    there, read = heads_at_cells({"one": head}, shared, every)["one"], at_cells(head(shared), every)
    torch.testing.assert_close(there, read)
    factors = torch.randn_like(read)
    one, other = (
        torch.autograd.grad((factors * values).sum(), [shared, *head.parameters()]) for values in (there, read)
    )
    for gradient, wanted in zip(one, other, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_a_head_at_no_cell_has_a_gradient_of_zero() -> None:
    head = nn.Sequential(nn.Conv2d(5, 2, 3, padding=1))
    none = Cells(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64))
    values = heads_at_cells({"one": head}, torch.randn(2, 5, 4, 6), none)["one"]
    assert values.shape == (0, 2)
    values.sum().backward()
    assert head[0].weight.grad is not None
    assert not head[0].weight.grad.any()
