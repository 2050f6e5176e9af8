"""Rank-correlation distillation between any two modules."""

from monoskd.distill.distiller import Distilled, Distiller
from monoskd.distill.fusion import AttentionFusion
from monoskd.distill.head import HeadLoss
from monoskd.distill.losses import AffinityLoss, ImitationLoss, PearsonLoss, SpearmanLoss
from monoskd.distill.masks import Foreground
from monoskd.distill.objects import ObjectLoss
from monoskd.distill.recorder import FlightRecorder
from monoskd.distill.response import BoxLoss, LogitLoss
from monoskd.distill.taps import Outlet, Tap, TokensAsMap, channels_first
from monoskd.distill.terms import Ramp, Term

__all__ = [
    "AffinityLoss",
    "AttentionFusion",
    "BoxLoss",
    "Distilled",
    "Distiller",
    "FlightRecorder",
    "Foreground",
    "HeadLoss",
    "ImitationLoss",
    "LogitLoss",
    "ObjectLoss",
    "Outlet",
    "PearsonLoss",
    "Ramp",
    "SpearmanLoss",
    "Tap",
    "Term",
    "TokensAsMap",
    "channels_first",
]
