"""Smaller numbers in an exported graph: convolutions in float16, or in int8 with calibrated ranges.

Everything behind the convolutions, positions and depths above all, stays in float32.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONVOLUTIONS = ("Conv", "ConvTranspose")
_JOINS = ("Relu", "LeakyRelu", "Add", "Concat", "MaxPool")
_HALF = "/float16"  # ends the names of what is in float16
_INSIDE = {*CONVOLUTIONS, *_JOINS, "Mul"}
"""What follows a layer of the network that is not its last."""

Inputs = Mapping[str, NDArray[Any]]


def in_half(model: Any) -> Any:
    """The graph with convolutions, and what joins them, in float16; all other numbers and the outputs stay as they are.

    An operation that joins them is one whose inputs are all in float16 already: so no position or depth is rounded.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    half = onnx.ModelProto()
    half.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in half.graph.initializer}
    in_float16: dict[str, str] = {}
    nodes = []
    for node in half.graph.node:
        is_convolution = node.op_type in CONVOLUTIONS
        if is_convolution or (node.op_type in _JOINS and all(name in in_float16 for name in node.input)):
            for place, name in enumerate(node.input):
                if name in weights and name not in in_float16:
                    values = numpy_helper.to_array(weights[name]).astype(np.float16)
                    half.graph.initializer.append(numpy_helper.from_array(values, f"{name}{_HALF}"))
                elif name not in in_float16:
                    nodes.append(helper.make_node("Cast", [name], [f"{name}{_HALF}"], to=TensorProto.FLOAT16))
                in_float16[name] = node.input[place] = f"{name}{_HALF}"
            name = node.output[0]
            in_float16[name] = node.output[0] = f"{name}{_HALF}"
            nodes += [node, helper.make_node("Cast", [in_float16[name]], [name], to=TensorProto.FLOAT)]
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input} | {output.name for output in half.graph.output}
    del half.graph.node[:], half.graph.value_info[:]
    half.graph.node.extend(node for node in nodes if read & {*node.output})
    kept = [tensor for tensor in half.graph.initializer if tensor.name in read]
    del half.graph.initializer[:]
    half.graph.initializer.extend(kept)
    return half


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

    with tempfile.TemporaryDirectory() as folder, no_advice():
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


@contextmanager
def no_advice() -> Iterator[None]:
    """Silence what exporter and onnxruntime advise each other: to preprocess the graph, what they do not fold."""
    before = logging.root.manager.disable  # the caller's own
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def _last_layers(graph: Any) -> list[str]:
    """The convolutions whose output is read as numbers: nothing of a network follows them."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    convolutions = [node for node in graph.node if node.op_type in CONVOLUTIONS]
    return [node.name for node in convolutions if not readers.get(node.output[0], set()) & _INSIDE]
