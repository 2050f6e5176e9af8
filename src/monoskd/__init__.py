"""Teach a camera to see in 3D with the help of a LiDAR.

The contents page. Names are loaded on first use, so that what needs no network (evaluation, file formats, rendered
scenes) starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monoskd.evaluation.kitti_ap import evaluate_kitti as evaluate_kitti
    from monoskd.geometry.boxes import Boxes3D as Boxes3D
    from monoskd.geometry.camera import Camera as Camera
    from monoskd.inference.predictor import Predictor as Predictor
    from monoskd.models.weights import load_model as load_model
    from monoskd.models.weights import save_model as save_model
    from monoskd.structures import Detections as Detections

__version__ = "0.1.0"

_HOMES = {
    "Boxes3D": "monoskd.geometry.boxes",
    "Camera": "monoskd.geometry.camera",
    "Detections": "monoskd.structures",
    "Predictor": "monoskd.inference.predictor",
    "evaluate_kitti": "monoskd.evaluation.kitti_ap",
    "load_model": "monoskd.models.weights",
    "save_model": "monoskd.models.weights",
}

__all__ = ["Boxes3D", "Camera", "Detections", "Predictor", "evaluate_kitti", "load_model", "save_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monoskd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
