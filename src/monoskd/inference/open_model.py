"""A model file of either kind, ready to predict."""

from pathlib import Path

from monoskd.errors import InputError
from monoskd.frames import AnyPredictor
from monoskd.inference.inputs import Fit


def open_predictor(model: str | Path, *, device: str = "cpu", fit: Fit = "focal", half: bool = False) -> AnyPredictor:
    """An `OnnxPredictor` for a name that ends in .onnx, else a `Predictor`; torch is imported for the latter alone."""
    if Path(model).suffix.lower() == ".onnx":
        if half:
            raise InputError(
                f"{model}: half precision: expected a model file, got an .onnx file, whose precision is fixed: "
                "make another with `monoskd export --half`"
            )
        from monoskd.inference.onnx_predictor import OnnxPredictor

        return OnnxPredictor(model, device=device, fit=fit)
    from monoskd.inference.predictor import Predictor

    return Predictor(model, device=device, fit=fit, half=half)
