"""A segmentation model by channel-wise distillation (CWD). Run: python examples/distil_segmentation.py"""

import torch
from torch.nn.functional import cross_entropy
from torchvision.models.segmentation import fcn_resnet50, lraspp_mobilenet_v3_large

from monoskd.distill import ChannelLoss, Distiller, Tap, Term


def main(steps: int = 10) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 64, 64), torch.randint(5, (4, 64, 64))  # your data
    options = {"weights": None, "weights_backbone": None, "num_classes": 5}
    distiller = Distiller(
        lraspp_mobilenet_v3_large(**options),
        fcn_resnet50(**options),  # your trained network
        taps=[Tap("backbone:high", "backbone:out")],  # both at stride 8 or 16; the finer one is resized
        terms={
            "features": Term(ChannelLoss(temperature=4.0), weight=0.1),
            "logits": Term(ChannelLoss(temperature=4.0), weight=3.0, between="output", key="out"),
        },
    )
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-3)

    losses = []
    for _ in range(steps):
        out = distiller(images)
        loss = cross_entropy(out.student["out"], labels) + out.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:2d}  loss {loss:.3f}")
