"""Two classifiers: MobileNetV3 learns from ResNet-18. Run: python examples/distil_classifiers.py"""

import torch
from torch.nn.functional import cross_entropy
from torchvision.models import mobilenet_v3_small, resnet18

from monoskd.distill import Distiller, LogitLoss, SpearmanLoss, Tap, Term


def main(steps: int = 20) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(8)  # your data
    student = mobilenet_v3_small(weights=None, num_classes=10)
    teacher = resnet18(weights=None, num_classes=10)  # your trained network

    distiller = Distiller(
        student,
        teacher,
        taps=[Tap("features.3", "layer2"), Tap("features.8", "layer3")],
        terms={"rank": SpearmanLoss(), "logits": Term(LogitLoss(temperature=4), between="output")},
    )
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-3)

    losses = []
    for _ in range(steps):
        out = distiller(images)
        loss = cross_entropy(out.student, labels) + out.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:2d}  loss {loss:.3f}")
