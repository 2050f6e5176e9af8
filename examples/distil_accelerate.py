"""With Accelerate: prepare the distiller, not the student. Run: accelerate launch examples/distil_accelerate.py"""

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import mobilenet_v3_small, resnet18

from monoskd.distill import Distiller, LogitLoss, SpearmanLoss, Tap, Term


def main(steps: int = 20) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    data = DataLoader(TensorDataset(torch.rand(8, 3, 64, 64), torch.arange(8)), batch_size=8)  # your data
    distiller = Distiller(
        mobilenet_v3_small(weights=None, num_classes=10),
        resnet18(weights=None, num_classes=10),  # your trained network
        taps=[Tap("features.3", "layer2")],
        terms={"rank": SpearmanLoss(), "logits": Term(LogitLoss(temperature=4), between="output")},
    )
    distiller.materialize(next(iter(data))[0])  # several processes need the adapters' shapes at once
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-3)
    distiller, optimizer, data = accelerator.prepare(distiller, optimizer, data)  # the teacher moves along

    losses = []
    while len(losses) < steps:
        for images, labels in data:
            out = distiller(images)
            loss = cross_entropy(out.student, labels) + out.total
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:2d}  loss {loss:.3f}")
