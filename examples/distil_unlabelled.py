"""A folder of images without labels: a self-supervised ViT teaches a small convolutional network what it sees.

python examples/distil_unlabelled.py FOLDER
"""

import sys
import tempfile
from pathlib import Path

import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from monoskd.distill import AffinityLoss, Distiller, Outlet, SpearmanLoss, Tap, Term, TokensAsMap


class Folder(Dataset[torch.Tensor]):
    """The images of a folder, without labels."""

    def __init__(self, folder: str, size: int) -> None:
        self.paths = sorted(
            path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = pil_to_tensor(Image.open(self.paths[index]).convert("RGB"))
        return resize(image, [self.size, self.size]).float() / 255


def main(folder: str, steps: int = 20) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    # In earnest: timm.create_model("vit_base_patch16_dinov3.lvd1689m", pretrained=True, img_size=224)
    teacher = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0)
    student = timm.create_model("resnet10t", num_classes=0)
    patches = TokensAsMap(prefix=teacher.num_prefix_tokens)
    distiller = Distiller(
        student,
        teacher,
        taps=[Tap("layer3", Outlet("norm", view=patches), adapter="conv")],
        terms={"rank": SpearmanLoss(), "affinity": Term(AffinityLoss(), weight=2.0)},
    )
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-3)
    images = DataLoader(Folder(folder, 64), batch_size=8)

    losses: list[float] = []
    while len(losses) < steps:
        for batch in images:
            loss = distiller(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[:steps]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        if len(sys.argv) < 2:
            for index in range(8):
                Image.effect_noise((80, 60), 10 * index).convert("RGB").save(f"{empty}/{index}.png")
        for step, loss in enumerate(main(sys.argv[1] if len(sys.argv) > 1 else empty)):
            print(f"step {step:2d}  loss {loss:.3f}")
