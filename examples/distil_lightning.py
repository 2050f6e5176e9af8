"""In Lightning: the distiller is a submodule of the module that trains. Run: python examples/distil_lightning.py"""

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import mobilenet_v3_small, resnet18

from monoskd.distill import Distiller, EmaTeacher, LogitLoss, SpearmanLoss, Tap, Term


class Distillation(pl.LightningModule):
    """A classifier with two teachers: a larger network, and the moving average of itself."""

    def __init__(self) -> None:
        super().__init__()
        student = mobilenet_v3_small(weights=None, num_classes=10)
        teachers = {"big": resnet18(weights=None, num_classes=10), "ema": EmaTeacher(student, momentum=0.99)}
        self.distiller = Distiller(
            student,
            teachers=teachers,
            taps=[Tap("features.3", "layer2", of="big")],
            terms={"rank": SpearmanLoss(), "agree": Term(LogitLoss(), between="output", of="ema")},
        )
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """One step; `last.ckpt` holds the student, the adapters and the moving average."""
        images, labels = batch
        out = self.distiller(images)
        loss = cross_entropy(out.student, labels) + out.total
        self.losses.append(loss.item())
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        """The optimiser has made its step."""
        self.distiller.update_teachers()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The student and the adapters; the teachers are in no parameter group."""
        return torch.optim.Adam(self.distiller.parameters(), lr=1e-3)


def main(steps: int = 20) -> list[float]:
    """The loss of every step."""
    pl.seed_everything(0, verbose=False)
    data = TensorDataset(torch.rand(8, 3, 64, 64), torch.arange(8))  # your data
    module = Distillation()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_epochs=steps, accelerator="cpu", devices=1, **quiet)
    trainer.fit(module, DataLoader(data, batch_size=8))
    return module.losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:2d}  loss {loss:.3f}")
