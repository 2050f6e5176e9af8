"""One of `world` processes that distil one batch together: python parallel_worker.py RANK WORLD FOLDER."""

import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monoskd.distill import Distiller, SpearmanLoss, Tap


def network(width: int) -> nn.Sequential:
    """No BatchNorm, which sees each process's share of the batch."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def main(rank: int, world: int, folder: str) -> None:
    """Leave the gradients in FOLDER/gradients_WORLD."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 12, 10)
    distiller = Distiller(network(4), network(6), taps=[Tap("1", adapter="conv")], terms={"rank": SpearmanLoss()})
    distiller.materialize(images)
    meeting = f"file://{folder}/meeting_{world}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    parallel = DistributedDataParallel(distiller)
    out = parallel(images.chunk(world)[rank])
    (out.student.square().mean() + out.total).backward()
    if rank == 0:
        torch.save([parameter.grad for parameter in distiller.parameters()], f"{folder}/gradients_{world}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
