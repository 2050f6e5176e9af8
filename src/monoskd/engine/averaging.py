"""An exponential moving average of the weights: validated and kept in place of the last ones."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights(WeightAveraging):
    """Lightning's, with decay `ema` a step, BatchNorm's statistics included; an interrupted run keeps it too.

    average = ema * average + (1 - ema) * weights after each step (Polyak averaging, as in mean teachers).
    """

    def __init__(self, ema: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(ema))  # type: ignore[no-untyped-call]
        self._validating = False

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module also where a resumed run has no step left: then no training ends."""
        if self._average_model is not None and trainer.global_step:
            self._copy_average_to_current(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the average in the module, for whoever saves it."""
        if self._average_model is not None and trainer.global_step and not self._validating:
            self._copy_average_to_current(pl_module)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._validating = not self._validating
