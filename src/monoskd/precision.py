"""Half precision: where it is faster than float32, and how to leave it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from monoskd.errors import InputError


def has_bfloat16(device: str) -> bool:
    """Whether this kind of device, such as "cuda", has instructions for bfloat16, which is slow without them."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def half_type(device: str) -> torch.dtype:
    """The 16-bit type to predict in: float16 on a GPU, bfloat16 on a CPU. Raises InputError where neither is fast."""
    if device == "cuda":
        return torch.float16
    if not has_bfloat16(device):
        raise InputError(
            f"half precision: expected a GPU or a processor with instructions for bfloat16, got {device} without them: "
            "leave it out, float32 is faster here"
        )
    return torch.bfloat16


def no_autocast(device: str) -> AbstractContextManager[Any]:
    """Autocast switched off; to do so where it is off already costs as much as a small loss."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
