"""One of two processes that shard a distiller with FSDP2: python sharded_worker.py RANK FOLDER TEACHER.

TEACHER: "replicated" or "sharded".
"""

import sys
from copy import deepcopy

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from monoskd.distill import Distiller, SpearmanLoss, Tap, Term


def network(width: int) -> nn.Sequential:
    """No BatchNorm, which sees each process's part of the batch."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def main(rank: int, folder: str, teacher: str) -> None:
    """Compare the weights after two steps with those of one process that has the whole batch."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 12, 10)
    terms = {"rank": Term(SpearmanLoss(), uncertainty=True)}
    alone = Distiller(network(4), network(6), taps=[Tap("1", adapter="conv")], terms=terms).materialize(images)
    sharded = deepcopy(alone)
    mesh = init_device_mesh("cpu", (2,))
    if teacher == "sharded":
        fully_shard(sharded.teacher, mesh=mesh)
    fully_shard(sharded.student, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for distiller, batch in ((alone, images), (sharded, images.chunk(2)[rank])):
        optimizer = torch.optim.SGD(distiller.parameters(), lr=0.5)
        for _ in range(2):
            out = distiller(batch)
            optimizer.zero_grad()
            (out.student.square().mean() + out.total).backward()
            optimizer.step()
    for (name, one), other in zip(alone.named_parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(other.full_tensor(), one, msg=lambda text, name=name: f"{name}: {text}")
    for one, other in zip(alone.teacher.parameters(), sharded.teacher.parameters(), strict=True):
        assert torch.equal(one, other.full_tensor() if isinstance(other, DTensor) else other)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
