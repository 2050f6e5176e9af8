import pytest
import torch
from torch import nn

from monoskd.models.sparse import dense_at


def a_head(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, outputs, 1)).double()


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_head_at_some_cells_is_the_whole_head_there(share: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    heads = {"a": a_head(2), "b": a_head(3)}
    shared = torch.randn(2, 5, 7, 9).double().contiguous(memory_format=layout).requires_grad_()
    where = torch.rand(2, 7, 9) < share
    leaves = [shared, *(weight for head in heads.values() for weight in head.parameters())]
    found, gradients = [], []
    for maps in (dense_at(heads, shared, where), {name: head(shared) for name, head in heads.items()}):
        masked = torch.cat([maps["a"], maps["b"]], 1) * where[:, None]
        found.append(masked)
        gradients.append(torch.autograd.grad(masked.square().sum(), leaves))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    maps = dense_at(heads, shared, where)
    assert all((x.movedim(1, -1)[~where] == 0).all() for x in maps.values())
