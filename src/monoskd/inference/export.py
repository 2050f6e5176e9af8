"""A detector as one ONNX graph: from pixels and a camera to boxes. Needs the extra `export`.

Inputs: `pixels` uint8 b x h x w x 3 (RGB; a teacher's `depth_m` float b x h x w), `projection` float b x 3 x 4 and
`letterbox` float b x 3. Outputs, best first: see `OUTPUTS`. b, h and w are free; h and w are multiples of the
detector's `input_multiple`.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monoskd import __version__
from monoskd.errors import InputError, first_line
from monoskd.files import check_output, write_atomically
from monoskd.geometry.camera import Camera, Letterbox, PublishedLetterbox
from monoskd.inference.inputs import NetworkInput
from monoskd.inference.onnx_precision import in_half, in_int8, no_advice
from monoskd.inference.onnx_predictor import (
    DEPTH_STD,
    LETTERBOX,
    METADATA,
    OUTPUTS,
    PICTURE,
    PROJECTION,
    SCHEMA,
    OnnxDescription,
    graph_inputs,
)
from monoskd.inference.onnx_seal import sealed
from monoskd.kitti.source import KittiFrames
from monoskd.models.weights import describe_model, load_model
from monoskd.revision import commit
from monoskd.structures import Detector, Views

Precision: TypeAlias = Literal["float32", "float16", "int8"]

LICENCE = "weights: as their training data allow (KITTI: CC BY-NC-SA 3.0, not commercial); the graph, as monoskd: MIT"
OPSET = 20
_CALIBRATION_FRAMES = 32
_TRACED_IMAGES = 2  # torch.export takes a dimension of 1 for a fixed one
_MOST = 4096  # images, and multiples of the input size


class Graph(nn.Module):
    """What is exported: a network's input in arrays becomes its boxes in arrays, those with the highest score first."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector.eval()

    def forward(self, picture: Tensor, projection: Tensor, letterbox: Tensor) -> tuple[Tensor, ...]:
        """In the order of `OUTPUTS`, b x k x ...; a score of -1 marks what is no detection."""
        images = picture[:, None] if self.detector.modality == "depth" else picture.permute(0, 3, 1, 2).float() / 255
        size: Any = (images.shape[3], images.shape[2])
        views = Views(images, Camera(projection), self._letterbox(letterbox, size))
        found = self.detector.candidates(self.detector(views), views)
        boxes = found.boxes_3d
        columns = [found.scores, found.labels, found.boxes_2d, boxes.bottom, boxes.dimensions, boxes.yaw]
        columns += [found.alpha, found.heat, *([] if found.depth_std_m is None else [found.depth_std_m])]
        by_image = [column.reshape(picture.shape[0], -1, *column.shape[1:]) for column in columns]
        scores, order = by_image[0].topk(by_image[0].shape[1], dim=1)  # equal scores keep their order in the graph
        return scores, *(_ordered(column, order) for column in by_image[1:])

    def _letterbox(self, numbers: Tensor, size: tuple[int, int]) -> Letterbox:
        """The inverse of `letterbox_numbers`."""
        scale, shift = numbers[:, 0], numbers[:, 1:3]
        if self.detector.published_input:
            return PublishedLetterbox(scale, shift, size, numbers[:, 3:].reshape(-1, 2, 2))
        return Letterbox(scale, shift, size)


def export(
    model: Path, out: Path, *, precision: Precision = "float32", data: Path | None = None, licence: str = LICENCE
) -> OnnxDescription:
    """Write the detector of a model file as an ONNX file, whole or not at all; returns what it says of itself.

    precision: of the convolutions. data: a data set in KITTI's layout whose training frames show int8 its ranges.
    Raises InputError where the extra is missing, for a name that does not end in .onnx, and for a detector that has no
    `candidates`.
    """
    if (precision == "int8") != (data is not None):
        got = "none" if data is None else f"{data} for {precision}"
        raise InputError(f"--data: expected a data set to calibrate int8 with, got {got}: give both or neither")
    check_output(out, suffix=".onnx")
    check_extra("onnx", "onnxscript", "onnxruntime")
    detector, header = load_model(model), describe_model(model)
    description = replace(_describe(detector, header, licence=licence), precision=precision)
    frames = [] if data is None else list(calibration(NetworkInput.of(detector), data))
    graph = graph_of(detector)
    if precision == "float16":
        graph = in_half(graph)
    elif precision == "int8":
        graph = in_int8(graph, frames)
    set_metadata(graph, description)
    write_atomically(out, sealed(graph))
    return description


def calibration(network: NetworkInput, root: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """The graph's inputs for up to 32 training frames, evenly spread, one at a time."""
    source = KittiFrames(root, split="train", depth=network.modality == "depth", labels=False)
    for name in source.names[:: -(-len(source.names) // _CALIBRATION_FRAMES)]:
        yield graph_inputs([network.view(source.read(name))], modality=network.modality)


def graph_of(detector: Detector) -> Any:
    """The detector's graph as an ONNX model, without metadata.

    Networks whose input has one size alone, as published, keep that size; others take every multiple of theirs.
    """
    if type(detector).candidates is Detector.candidates:
        raise InputError(
            f"model: expected a detector that can be exported, got {type(detector).__name__}, which has no "
            "`candidates`; docs/extend.md says what it returns"
        )
    if detector.modality == "rgbd":
        raise InputError("model: expected a network that sees pictures or depth maps, got one that needs both")
    width, height = detector.input_size
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    rows, columns = (torch.export.Dim(name, min=1, max=_MOST) * detector.input_multiple for name in ("rows", "columns"))
    free: dict[int, Any] = {} if detector.published_input else {1: rows, 2: columns}
    picture = torch.zeros(_TRACED_IMAGES, height, width)
    if detector.modality == "rgb":
        picture = torch.zeros(_TRACED_IMAGES, height, width, 3, dtype=torch.uint8)
    camera = torch.tensor([[width, 0.0, width / 2, 0.0], [0.0, width, height / 2, 0.0], [0.0, 0.0, 1.0, 0.0]])
    letterbox = [1.0, 0.0, 0.0, *([0.0, 0.0, width, height] if detector.published_input else [])]
    graph = Graph(detector).eval()
    inputs = (picture, camera.repeat(_TRACED_IMAGES, 1, 1), torch.tensor([letterbox] * _TRACED_IMAGES))
    with torch.no_grad():
        names = [*OUTPUTS, DEPTH_STD][: len(graph(*inputs))]
    options: dict[str, Any] = {
        "input_names": [PICTURE[detector.modality], PROJECTION, LETTERBOX],
        "output_names": names,
        "dynamic_shapes": ({0: batch, **free}, {0: batch}, {0: batch}),
        "custom_translation_table": _translations(),
        "opset_version": OPSET,
        "external_data": False,
        "verbose": False,
    }
    try:
        with warnings.catch_warnings(), no_advice():
            warnings.simplefilter("ignore")  # the exporter's own, about what the tests compare
            program = torch.onnx.export(graph, inputs, dynamo=True, **options)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(
            f"model: expected a detector whose operations ONNX has, got {type(detector).__name__}: {_cause(error)}"
        ) from error
    assert program is not None  # the dynamo exporter returns it
    check_batch_is_free(program.model_proto)
    return _without_traces(program.model_proto)


def check_batch_is_free(model: Any) -> None:
    """Raise InputError for a graph that takes so many images as it was traced with: the exporter does not complain."""
    for part in model.graph.input:
        if not part.type.tensor_type.shape.dim[0].dim_param:
            raise InputError(
                f"model: expected a detector that takes any number of images, got one whose {part.name} have a fixed "
                "number: take it from a tensor's shape, not from `len`, in `forward` and `candidates`"
            )


def _cause(error: BaseException) -> str:
    """What is behind an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _without_traces(model: Any) -> Any:
    """The model without what the exporter notes of its source: more bytes than a small network, and local paths."""
    parts = [model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer]
    for part in [*parts, *model.graph.input, *model.graph.output]:
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operations that the exporter does not know with a number that is known only at run time, such as a width."""
    from onnxscript import opset20

    def remainder(dividend: Any, divisor: Any) -> Any:
        divisor = opset20.CastLike(divisor, dividend)
        if dividend.dtype.is_integer():
            return opset20.Mod(dividend, divisor)
        return opset20.Sub(dividend, opset20.Mul(opset20.Floor(opset20.Div(dividend, divisor)), divisor))

    return {torch.ops.aten.remainder.Scalar: remainder}


def set_metadata(model: Any, description: OnnxDescription) -> None:
    """Write the description into an ONNX model."""
    from onnx import helper

    model.producer_name, model.producer_version = "monoskd", description.version
    helper.set_model_props(model, {METADATA: json.dumps(asdict(description), default=str)})


def check_extra(*modules: str) -> None:
    """Raise InputError where a package of the extra `export` is missing."""
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise InputError(
                f"export: expected the package {module}, got '{error}': pip install 'monoskd[export]'"
            ) from error


def _describe(detector: Detector, header: Mapping[str, Any], *, licence: str) -> OnnxDescription:
    return OnnxDescription(
        schema=SCHEMA,
        version=__version__,
        commit=commit(),
        detector=header["detector"],
        modality=detector.modality,
        classes=detector.classes,
        input_size=detector.input_size,
        input_multiple=detector.input_multiple,
        input_focal_px=detector.input_focal_px,
        reference_focal_px=getattr(detector, "reference_focal_px", None),
        published_input=detector.published_input,
        precision="float32",
        licence=licence,
        provenance=header["provenance"],
    )


def _ordered(column: Tensor, order: Tensor) -> Tensor:
    """The rows of each image, b x k x ..., in this order, b x k."""
    while order.ndim < column.ndim:
        order = order[..., None]
    return column.gather(1, order.expand_as(column))
