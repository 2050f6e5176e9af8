"""Two detectors: the pyramid of one Faster R-CNN learns from another's. Run: python examples/distil_fpn.py"""

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from monoskd.distill import AffinityLoss, Distiller, FlightRecorder, SpearmanLoss, Tap, Term


def detector(backbone: str) -> FasterRCNN:
    """Small images and few proposals: quick on a CPU."""
    few = {"rpn_post_nms_top_n_train": 64, "rpn_post_nms_top_n_test": 64, "box_batch_size_per_image": 32}
    pyramid = resnet_fpn_backbone(backbone_name=backbone, weights=None)
    return FasterRCNN(pyramid, num_classes=3, min_size=64, max_size=64, **few)


def main(steps: int = 10) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    images = list(torch.rand(4, 3, 64, 64))  # your data
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])} for _ in images]

    distiller = Distiller(
        detector("resnet18"),
        detector("resnet34"),  # your trained network
        taps=[Tap("backbone.fpn:0", adapter="conv"), Tap("backbone.fpn:1", adapter="conv")],
        terms={"rank": SpearmanLoss(), "affinity": Term(AffinityLoss(), weight=2.0)},
    )
    recorder = FlightRecorder(distiller, every=5)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-4)

    losses = []
    for _ in range(steps):
        out = distiller(images, targets)
        task = sum(out.student.values())  # what torchvision's detectors return while they train
        for name, value in recorder.record(out, task=task).items():
            print(f"{name:32s} {value:6.3f}")
        loss = task + out.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:2d}  loss {loss:.3f}")
