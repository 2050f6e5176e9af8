"""What goes to a worker process, and what comes back. No torch: the server itself loads no network."""

from dataclasses import dataclass
from pathlib import Path

from monoskd.inference.inputs import Fit


@dataclass(frozen=True)
class Question:
    """A picture's bytes and what is known about its camera; see `monoskd.serve.request.Options`."""

    name: str
    data: bytes
    focal_px: float | None = None
    hfov_deg: float | None = None
    projection: tuple[float, ...] | None = None
    assumed_hfov_deg: float | None = None
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    score: float | None = None


@dataclass(frozen=True)
class Model:
    """What a worker loads. path: a model file; device, fit, half: see `Predictor`."""

    path: Path
    device: str = "cpu"
    fit: Fit = "focal"
    half: bool = False


@dataclass(frozen=True)
class Answer:
    """An HTTP status and a JSON body."""

    status: int
    body: bytes
