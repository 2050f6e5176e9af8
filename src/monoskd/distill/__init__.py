"""Rank-correlation distillation between any two modules."""

from importlib import import_module
from typing import Any

from monoskd.distill.distiller import Distilled, Distiller
from monoskd.distill.ema import EmaTeacher
from monoskd.distill.fusion import AttentionFusion
from monoskd.distill.losses import AffinityLoss, ImitationLoss, PearsonLoss, SpearmanLoss
from monoskd.distill.propose import Proposal, distil
from monoskd.distill.recorder import FlightRecorder
from monoskd.distill.relations import ClassCorrelationLoss, ContrastiveLoss, RelationalLoss
from monoskd.distill.response import BoxLoss, LogitLoss
from monoskd.distill.spatial import AttentionLoss, ChannelLoss, GenerativeLoss
from monoskd.distill.taps import Outlet, Tap, TokensAsMap, as_tokens, batch_first, channels_first, last_as_tokens
from monoskd.distill.terms import Ramp, Term

__all__ = [
    "AffinityLoss",
    "AttentionFusion",
    "AttentionLoss",
    "BoxLoss",
    "ChannelLoss",
    "ClassCorrelationLoss",
    "ContrastiveLoss",
    "Distilled",
    "Distiller",
    "EmaTeacher",
    "FlightRecorder",
    "GenerativeLoss",
    "ImitationLoss",
    "LogitLoss",
    "Outlet",
    "PearsonLoss",
    "Proposal",
    "Ramp",
    "RelationalLoss",
    "SpearmanLoss",
    "Tap",
    "Term",
    "TokensAsMap",
    "as_tokens",
    "batch_first",
    "channels_first",
    "distil",
    "last_as_tokens",
]


def __getattr__(name: str) -> Any:
    """The terms that read one detector's heads, under the path that they had until 0.1."""
    if name in ("Foreground", "HeadLoss", "ObjectLoss"):
        return getattr(import_module("monoskd.models.did_m3d.teaching"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
