"""A torchvision detector by its features and its answers. Run: python examples/distil_detector.py"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from monoskd.distill import BoxLoss, Distiller, SpearmanLoss, Tap, Term


def detector(backbone: str) -> RetinaNet:
    """Small images: quick on a CPU."""
    options = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    pyramid = resnet_fpn_backbone(backbone_name=backbone, weights=None, **options)
    return RetinaNet(pyramid, num_classes=3, min_size=64, max_size=64)


def answers(*, student: Tensor, teacher: Tensor) -> Tensor:
    """A loss of one's own: cross-entropy with the teacher's probabilities, one a class and anchor."""
    return binary_cross_entropy_with_logits(student, teacher.sigmoid())


def main(steps: int = 10) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    images = list(torch.rand(4, 3, 64, 64))  # your data
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])} for _ in images]

    distiller = Distiller(
        detector("resnet18"),
        detector("resnet34"),  # your trained network
        taps=[
            Tap("backbone.fpn:0", adapter="conv"),
            Tap("head:cls_logits", adapter="identity"),  # images x anchors x classes, also while the student trains
            Tap("head:bbox_regression", adapter="identity"),
        ],
        terms={
            "rank": Term(SpearmanLoss(), taps=["backbone.fpn:0"]),
            "classes": Term(answers, taps=["head:cls_logits"]),
            "boxes": Term(BoxLoss(), taps=["head:bbox_regression"]),
        },
    )
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-4)

    losses = []
    for _ in range(steps):
        out = distiller(images, targets, teacher_inputs=(images,))
        loss = sum(out.student.values()) + out.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:2d}  loss {loss:.3f}")
