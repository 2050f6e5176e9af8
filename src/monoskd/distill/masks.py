"""Which of the taps a padding mask in the batch belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monoskd.distill.answers import Answer
from monoskd.distill.ema import bare
from monoskd.distill.teachers import Inputs

# Of tokens B x N and of pixels B x H x W, 0 where there is padding (Hugging Face); and True there (torch).
MASKS = ("decoder_attention_mask", "attention_mask", "pixel_mask", "src_key_padding_mask", "key_padding_mask")


@dataclass(frozen=True)
class Mask:
    """The key of the padding mask that the terms are given, if the batch has one, and the taps that it belongs to."""

    key: str | None
    taps: frozenset[str]

    def words(self, taps: Sequence[str]) -> list[str]:
        """What the user should know of it."""
        if self.key is None:
            return []
        if not self.taps:
            return [f'mask: the batch\'s "{self.key}" fits none of the taps: padding is compared, too']
        rest = ", ".join(f'"{tap}"' for tap in taps if tap not in self.taps)
        meaning = "True where there is padding, so turned round" if self.turned else "0 where there is padding"
        return [f'mask: the batch\'s "{self.key}", {meaning}' + (f"; it is not for {rest}" if rest else "")]

    @property
    def turned(self) -> bool:
        """Whether it is True where there is padding."""
        return self.key is not None and self.key.endswith("key_padding_mask")

    @property
    def argument(self) -> str:
        """How it is given to the distiller."""
        return f', mask={"~" if self.turned else ""}batch["{self.key}"]' if self.taps else ""


def find_mask(
    inputs: Inputs, student: nn.Module, places: Mapping[str, tuple[str, tuple[int, ...]]], answer: Answer | None
) -> Mask:
    """The mask of the batch for the taps: of the decoder's tokens, of all tokens, or of pixels.

    places: the student's path and the size, by the tap's label. Of an encoder and a decoder with as many tokens each
    has its own mask.
    """
    at = dict(places)
    if answer is not None and answer.taps is not None and answer.tokens is not None:
        at[answer.name] = ("", (answer.tokens,))
    config = getattr(bare(student), "config", None)
    both = getattr(config, "is_encoder_decoder", False) or any(key.startswith("decoder_") for key in inputs.keywords)
    given = [key for key in MASKS if isinstance(inputs.keywords.get(key), Tensor)]
    given = [key for key in given if not key.endswith("key_padding_mask") or inputs.keywords[key].dtype == torch.bool]
    for key in given:
        x = inputs.keywords[key]
        side = {label for label, (path, _) in at.items() if _is_encoder(path) == (key != "decoder_attention_mask")}
        fits = {label for label, (_, size) in at.items() if (len(size) == 2 if x.ndim == 3 else x.shape[1:] == size)}
        if taps := fits & side if both and x.ndim == 2 else fits:
            return Mask(key, frozenset(taps))
    return Mask(given[0] if given else None, frozenset())


def _is_encoder(path: str) -> bool:
    return "encoder" in path and "decoder" not in path
