"""The mean map: what a network's features have in common over all images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monoskd.errors import InputError
from monoskd.parallel import mean_of_rows


class RunningMean(nn.Module):
    """The running mean map (c x h x w) of each level of a network's features, and the deviations from it.

    A map's deviation is taken from the mean of the images seen *before* it, so it never contains the map itself; the
    very first batch deviates from zero. In training each call moves the means towards the batch's: by 1 / t at call t
    (the plain mean of all calls so far), and no slower than 1 - momentum. In evaluation they do not change. The mean is
    a constant to the gradient. An empty batch, or one whose mean is not finite, changes nothing.

    The buffers take their shapes on first use or from a state dict. They hold float32 at least.
    With several processes that train together, the means are those of all images and the same in each.
    """

    updates: Tensor

    def __init__(self, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise InputError(f"running mean: momentum: expected a number in [0, 1), got {momentum}")
        self.momentum = momentum
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Deviations of the maps b x c x h x w, one a level; in training, then update the means."""
        deviations = self.deviations(maps)
        if self.training:
            self.learn(maps)
        return deviations

    def deviations(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Each level minus its mean; no mean is updated."""
        return [level - self.mean(index, level).to(level.dtype) for index, level in enumerate(maps)]

    def learn(self, maps: Sequence[Tensor]) -> None:
        """Move the mean of each level towards that of the maps: of all levels, or of none where one is not finite."""
        means = [self.mean(index, level) for index, level in enumerate(maps)]
        batch_means = [mean_of_rows(level.to(mean.dtype)) for level, mean in zip(maps, means, strict=True)]
        finite = torch.stack([new.isfinite().all() for new in batch_means]).all()
        self.updates += finite
        rate = (1 / self.updates.clamp(min=1)).clamp(min=1 - self.momentum)
        for mean, new in zip(means, batch_means, strict=True):
            mean.copy_(torch.where(finite, mean + rate * (new - mean), mean))

    def mean(self, index: int, level: Tensor) -> Tensor:
        """The mean map of the level of that index, of the shape of `level`; zeros before the first update."""
        name, shape = f"level_{index}", level.shape[1:]
        if not hasattr(self, name):
            with torch.inference_mode(False):  # else training could never write to it
                dtype = torch.promote_types(level.dtype, torch.float32)
                self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=level.device))
        mean: Tensor = getattr(self, name)
        if mean.shape != shape:
            raise InputError(
                f"running mean: level {index}: expected maps of {tuple(mean.shape)} (c, h, w) as before, got "
                f"{tuple(shape)}: use one image size, or no centre"
            )
        return mean

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load as usual, after making buffers for the levels in the state dict."""
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name.startswith("level_"):
                self.register_buffer(name, torch.zeros_like(value, device=self.updates.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
