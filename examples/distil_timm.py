"""Two timm backbones: a convolutional network learns from a vision transformer. Run: python examples/distil_timm.py"""

import timm
import torch
from torch.nn.functional import cross_entropy

from monoskd.distill import AffinityLoss, Distiller, Outlet, Ramp, SpearmanLoss, Tap, Term, TokensAsMap


def main(steps: int = 20) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(8)  # your data
    student = timm.create_model("resnet10t", num_classes=10)
    teacher = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)  # pretrained=True in earnest

    patches = TokensAsMap(prefix=1)  # the class token goes, 16 patches become a 4 x 4 map
    distiller = Distiller(
        student,
        teacher,
        taps=[Tap("layer2", Outlet("blocks.3", view=patches)), Tap("layer3", Outlet("blocks.9", view=patches))],
        terms={
            "rank": Term(SpearmanLoss(), taps=["layer3"]),
            "affinity": Term(AffinityLoss(), weight=2.0, schedule=Ramp(end=0.2)),  # grows over the first fifth
        },
    )
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-3)

    losses = []
    for step in range(steps):
        distiller.progress = step / steps
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
