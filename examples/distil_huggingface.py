"""Two Hugging Face vision models: a ResNet learns from a ViT. Run: python examples/distil_huggingface.py"""

import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from monoskd.distill import Distiller, LogitLoss, Outlet, SpearmanLoss, Tap, Term, TokensAsMap


def networks() -> tuple[ResNetForImageClassification, ViTForImageClassification]:
    """Tiny and random; in earnest `ViTForImageClassification.from_pretrained("google/vit-base-patch16-224")`."""
    student = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=10)
    teacher = ViTConfig(
        image_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=10
    )
    return ResNetForImageClassification(student), ViTForImageClassification(teacher)


def distiller() -> Distiller:
    """Patches of the ViT beside the map of equal stride, and the answers under their key."""
    student, teacher = networks()
    return Distiller(
        student,
        teacher,
        taps=[Tap("resnet.encoder.stages.2", Outlet("vit.layernorm", view=TokensAsMap(prefix=1)))],
        terms={"rank": SpearmanLoss(), "logits": Term(LogitLoss(4.0), between="output", key="logits")},
    )


def main(steps: int = 20) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    batch = {"pixel_values": torch.rand(8, 3, 64, 64), "labels": torch.arange(8)}  # of your image processor
    distil = distiller()
    optimizer = torch.optim.Adam(distil.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        out = distil(**batch, teacher_inputs={"pixel_values": batch["pixel_values"]})
        loss = out.student.loss + out.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:2d}  loss {loss:.3f}")
