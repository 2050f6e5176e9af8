"""Smaller numbers in an exported graph: convolutions in float16, or in int8 with calibrated ranges.

Everything behind the convolutions, positions and depths above all, stays in float32.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

CONVOLUTIONS = ("Conv", "ConvTranspose")
_ACTIVATIONS = ("Relu", "LeakyRelu")
_INSIDE = {
    *CONVOLUTIONS,
    *_ACTIVATIONS,
    "Add",
    "Concat",
    "Mul",
    "Sigmoid",
    "MaxPool",
    "ReduceMean",
    "GlobalAveragePool",
}
"""What follows a layer of the network that is not its last."""

Inputs = Mapping[str, NDArray[Any]]


def in_half(model: Any) -> Any:
    """The graph with convolutions, and the activations behind them, in float16; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = {node.op_type for node in model.graph.node} - {*CONVOLUTIONS, *_ACTIVATIONS}
    return convert_float_to_float16(model, keep_io_types=True, op_block_list=sorted(kept), disable_shape_infer=True)


def in_int8(model: Any, calibration: Iterable[Inputs]) -> Any:
    """The graph with convolutions in int8, but the last of each head. calibration: inputs that show the ranges.

    Weights are scaled by output channel, activations by the least and largest value that calibration meets.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inputs: Iterator[Inputs] = iter(calibration)

        def get_next(self) -> Inputs | None:
            return next(self.inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "small.onnx"
        onnx.save(model, whole)
        quantize_static(
            str(whole),
            str(small),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_last_layers(model.graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(small)


def _last_layers(graph: Any) -> list[str]:
    """The convolutions whose output is read as numbers: nothing of a network follows them."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    convolutions = [node for node in graph.node if node.op_type in CONVOLUTIONS]
    return [node.name for node in convolutions if not readers.get(node.output[0], set()) & _INSIDE]
