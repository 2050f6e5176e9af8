"""The training step, top to bottom: batch -> student (and teacher) -> named losses -> their weighted sum."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from monoskd.distill import Distilled, Distiller, FlightRecorder
from monoskd.engine.config import OptimizerConfig
from monoskd.engine.measure import Measurement, measure_batch
from monoskd.engine.schedule import PUBLISHED_ORDER, TaskWeights, shift_names
from monoskd.errors import InputError
from monoskd.parallel import average, average_numbers
from monoskd.structures import Batch, Detector, DetectorOutput, Targets, Views


class DivergenceError(InputError):
    """The weights are not finite any more."""


class Training(pl.LightningModule):
    """A detector that learns from labels, and from a teacher if there is a distiller.

    distiller: a `Distiller` around the same student, or None; recorder: measures its terms' gradients at intervals.
    task_weights: hierarchical task learning, or None for a weight of 1 each.
    """

    def __init__(
        self,
        student: Detector,
        *,
        optimizer: OptimizerConfig,
        epochs: int,
        distiller: Distiller | None = None,
        recorder: FlightRecorder | None = None,
        task_weights: TaskWeights | None = None,
        shifted_task_names: bool = False,
        measurement: Measurement | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.distiller = distiller
        self.recorder = recorder
        self.optimizer_config = optimizer
        self.epochs = epochs
        self.task_weights = task_weights
        self.shifted_task_names = shifted_task_names
        self.measurement = measurement or Measurement()
        self.best_score: float | None = None
        self.weights: dict[str, float] = task_weights.start() if task_weights else {}
        self._epoch_losses: dict[str, Tensor] = {}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step's loss; every term is logged by name."""
        assert batch.targets is not None, "training frames have labels or pseudo-labels"
        output, distilled = self.outputs(batch)
        tasks = self.student.loss(*labelled(output, batch.targets, all_labelled=batch.all_labelled))
        if self.task_weights is not None:
            self.task_weights.check(tasks)
        task_loss = torch.stack([self.weights.get(name, 1.0) * loss for name, loss in tasks.items()]).sum()
        loss = task_loss if distilled is None else task_loss + distilled.total

        if self.recorder is not None and distilled is not None:
            self._log_reading(self.recorder.record(distilled, task=task_loss, step=self.global_step))
        self._remember(tasks, distilled)
        named = average(self._named(tasks, distilled, loss))
        self.log_dict({f"train/{name}": value.detach() for name, value in named.items()})
        return loss

    def shape_adapters(self, batch: Batch) -> None:
        """Let the distiller's adapters take their shapes from a batch, as several devices require before the start."""
        if self.distiller is not None:
            self.distiller.materialize(
                *self._inputs(batch, self.student), teacher_inputs=self._teacher_inputs(batch), targets=batch.targets
            )

    def outputs(self, batch: Batch) -> tuple[DetectorOutput, Distilled | None]:
        """The student's output at the labelled objects and, with a teacher, the distillation terms."""
        inputs = self._inputs(batch, self.student)
        if self.distiller is None:
            return self.student(*inputs), None
        self.distiller.progress = self.current_epoch / self.epochs
        distilled = self.distiller(*inputs, teacher_inputs=self._teacher_inputs(batch), targets=batch.targets)
        return distilled.student, distilled

    def _inputs(self, batch: Batch, detector: Detector) -> tuple[Views, Targets | None]:
        """Pictures or depth maps, and the student's targets for detectors of its kind; others look where they like."""
        alike = isinstance(detector, type(self.student)) or isinstance(self.student, type(detector))
        return batch.views(detector.modality), batch.targets if alike else None

    def _teacher_inputs(self, batch: Batch) -> tuple[Views, Targets | None]:
        assert self.distiller is not None
        assert isinstance(self.distiller.teacher, Detector)
        return self._inputs(batch, self.distiller.teacher)

    def on_train_epoch_start(self) -> None:
        """Set the epoch of the augmentation, and reset the sums of the losses."""
        self._epoch_losses = {}
        dataset = self.trainer.train_dataloader.dataset  # type: ignore[union-attr]
        dataset.set_epoch(self.current_epoch)

    def on_train_epoch_end(self) -> None:
        """Compute the task weights of the next epoch. Raises DivergenceError where weights are not finite."""
        self._check_finite()
        if self.task_weights is None:
            return
        sums = average(self._epoch_losses)
        means = {name: float(value) / self.trainer.num_training_batches for name, value in sums.items()}
        tasks = {name: means[name] for name in self.task_weights.graph}
        if self.shifted_task_names:
            tasks = shift_names(tasks, [means[name] for name in PUBLISHED_ORDER if name in means])
        self.weights = self.task_weights.advance(tasks, self.current_epoch + 1)

    def _check_finite(self) -> None:
        for name, value in self.student.state_dict().items():
            if not value.isfinite().all():
                number = value[~value.isfinite()][0]
                raise DivergenceError(
                    f"epoch {self.current_epoch + 1}: expected finite weights, got {number:g} in {name}: lower "
                    "`--optimizer.schedule.base` or set `--optimizer.gradient_clip`, and `--resume` the last good epoch"
                )

    def validation_step(self, batch: Batch, index: int) -> None:
        """Detect as at inference, and measure the errors at the labelled objects in the same forward pass."""
        measure_batch(self.student, batch, self.measurement)

    def on_validation_epoch_end(self) -> None:
        """Log the evaluator's numbers and the detector's errors, and note which scores are worth showing."""
        measured = self.measurement.of_all_processes(frames=len(self.trainer.datamodule.val))  # type: ignore[attr-defined]
        self.log_dict({f"val/{name}": value for name, value in measured.summary().items()})
        self.best_score = measured.best_score(self.student.classes)
        self.measurement.clear()

    def configure_optimizers(self) -> Any:
        """Adam or AdamW; no weight decay on biases; the schedule sets the rate at every step."""
        config = self.optimizer_config
        groups = [
            {"params": list(self._trained(bias=False)), "weight_decay": config.weight_decay},
            {"params": list(self._trained(bias=True)), "weight_decay": 0.0},
        ]
        # Lightning clips no gradients of a fused optimiser that unscales them itself, as with float16.
        fused = self.trainer.precision != "16-mixed"
        kind = torch.optim.AdamW if config.decoupled_decay else torch.optim.Adam
        optimizer = kind(groups, lr=1.0, fused=fused)  # a factor; the schedule returns the rate
        batches = self.trainer.estimated_stepping_batches / self.epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: config.schedule.rate(step / batches, epochs=self.epochs)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what exact resumption needs besides weights and optimizer."""
        checkpoint["task_weights"] = self.task_weights.state_dict() if self.task_weights else None
        checkpoint["weights"] = self.weights
        checkpoint["best_score"] = self.best_score

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it."""
        if self.task_weights is not None:
            self.task_weights.load_state_dict(checkpoint["task_weights"])
        self.weights = checkpoint["weights"]
        self.best_score = checkpoint.get("best_score")  # earlier versions wrote none

    def _trained(self, *, bias: bool) -> Iterator[nn.Parameter]:
        module: nn.Module = self.student if self.distiller is None else self.distiller
        for name, parameter in module.named_parameters():
            if name.endswith("bias") == bias and parameter.requires_grad:
                yield parameter

    def _log_reading(self, reading: Mapping[str, float]) -> None:
        """Log directly: `log_dict` would drop it on steps that `log_every` skips."""
        for logger in self.loggers if (reading := average_numbers(reading, device=self.device)) else ():
            logger.log_metrics({**reading, "epoch": self.current_epoch}, step=self.global_step)

    def _remember(self, tasks: Mapping[str, Tensor], distilled: Distilled | None) -> None:
        """Add to the epoch's sums on the device, without a synchronisation."""
        terms = {} if distilled is None else distilled.terms
        for name, value in {**tasks, **terms}.items():
            self._epoch_losses[name] = self._epoch_losses.get(name, 0) + value.detach()

    @staticmethod
    def _named(tasks: Mapping[str, Tensor], distilled: Distilled | None, loss: Tensor) -> dict[str, Tensor]:
        terms = {} if distilled is None else {f"distill_{name}": value for name, value in distilled.terms.items()}
        return {"loss": loss, **tasks, **terms}


def labelled(output: DetectorOutput, targets: Targets, *, all_labelled: bool) -> tuple[DetectorOutput, Targets]:
    """Output and targets of the labelled images of a batch. Only to choose some does the host wait for the device."""
    if all_labelled:
        return output, targets
    return output.of(targets.labelled), targets.of(targets.labelled)
