"""In the Hugging Face Trainer: the distiller is the model. Run: python examples/distil_trainer.py"""

import runpy
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

distiller = runpy.run_path(str(Path(__file__).with_name("distil_huggingface.py")))["distiller"]


class Distillation(Trainer):
    """A Trainer whose loss is the student's own plus the distillation."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The batch's keywords go to both networks."""
        out = model(**inputs)
        loss = out.student.loss + out.total
        return (loss, out.student) if return_outputs else loss


def main(steps: int = 20) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(0)
    data = [{"pixel_values": torch.rand(3, 64, 64), "labels": index} for index in range(8)]  # your data set
    with tempfile.TemporaryDirectory() as folder:
        options = {"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            remove_unused_columns=False,  # the distiller's signature does not name them
            **options,
        )
        model = distiller().materialize(pixel_values=torch.rand(2, 3, 64, 64))  # the Trainer counts parameters
        trainer = Distillation(model, arguments, train_dataset=data)
        trainer.train()
        trainer.model.student.save_pretrained(folder)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:2d}  loss {loss:.3f}")
