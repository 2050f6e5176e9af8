"""An exported network and onnxruntime become boxes. No torch.

The file's metadata, `monoskd`, says in JSON what the network takes and finds (docs/export.md).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monoskd.data.transforms import View
from monoskd.errors import InputError, first_line
from monoskd.frames import DetectionArrays, Frame, Modality, score_worth_showing
from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera, Letterbox, PublishedLetterbox
from monoskd.inference.inputs import Fit, NetworkInput, by_size
from monoskd.inference.onnx_seal import check_seal

SCHEMA = "monoskd/onnx/1"
METADATA = "monoskd"  # the key of the description in the file's metadata
PICTURE: dict[Modality, str] = {"rgb": "pixels", "depth": "depth_m"}  # the input's name by what the network looks at
PROJECTION, LETTERBOX = "projection", "letterbox"
OUTPUTS = (
    "score",
    "label",
    "box_2d_px",
    "bottom_centre_m",
    "height_width_length_m",
    "yaw_rad",
    "alpha_rad",
    "heat",
)
DEPTH_STD = "depth_std_m"  # a further output, of detectors that estimate it
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_ERRORS_ONLY = 3  # onnxruntime's level of what it prints


@dataclass(frozen=True)
class OnnxDescription:
    """What an exported network is; the fields that are not `NetworkInput`'s are for people.

    version, commit: of monoskd, where it was exported. detector: its class. classes: in the order of the labels.
    reference_focal_px: the focal length [original px] that its depth is relative to, where it has one. precision:
    float32, float16 or int8. licence: under which the weights may be used. provenance: that of the model file.
    """

    schema: str
    version: str
    commit: str | None
    detector: str
    modality: Modality
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    input_multiple: int
    input_focal_px: float | None
    reference_focal_px: float | None
    published_input: bool
    precision: str
    licence: str
    provenance: dict[str, Any]


class OnnxPredictor:
    """An exported detector, ready for pictures of any size and camera; it answers as `Predictor`, in numpy.

    model: a file of `monoskd export`. device: cpu, or cuda with onnxruntime-gpu. fit: as for `Predictor`.

    >>> OnnxPredictor("model.onnx")(image, Camera.from_hfov(90, width=1280, height=720))  # doctest: +SKIP
    """

    def __init__(self, model: str | Path, *, device: str = "cpu", fit: Fit = "focal") -> None:
        self.session = _session(model, device)
        self.description = _description(self.session, model)
        self.fit = fit
        self.score = score_worth_showing(self.description.provenance)
        self.input = NetworkInput.of(self.description, fit=fit)

    @property
    def modality(self) -> Modality:
        """What it looks at."""
        return self.description.modality

    @property
    def classes(self) -> tuple[str, ...]:
        """What it finds."""
        return self.description.classes

    def __call__(
        self, image: NDArray[np.uint8], camera: Camera, depth_m: NDArray[np.float32] | None = None
    ) -> DetectionArrays:
        """Boxes in one picture, best first, in its own pixels and metres.

        image: h x w x 3 RGB. camera: its projection. depth_m: h x w depth map, for a depth network (a teacher) only.
        """
        return self.batch([Frame(image=image, camera=camera, depth_m=depth_m)])[0]

    def batch(self, frames: Sequence[Frame]) -> list[DetectionArrays]:
        """As a call for each of the frames; those that the network sees at one size go through it together."""
        return self.input.shown(by_size([self.input.view(frame) for frame in frames], self._look), frames)

    def _look(self, views: Sequence[View]) -> list[DetectionArrays]:
        """What the network says of views of one size."""
        names = [output.name for output in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, graph_inputs(views, modality=self.modality)), strict=True))
        return [self._detections({name: rows[i] for name, rows in outputs.items()}) for i in range(len(views))]

    def _detections(self, columns: dict[str, NDArray[Any]]) -> DetectionArrays:
        bottom, dimensions, yaw = (columns[name] for name in ("bottom_centre_m", "height_width_length_m", "yaw_rad"))
        candidates = DetectionArrays(
            classes=self.classes,
            labels=columns["label"],
            scores=columns["score"],
            boxes_2d=columns["box_2d_px"],
            boxes_3d=Boxes3D(bottom, dimensions, yaw),
            alpha=columns["alpha_rad"],
            heat=columns["heat"],
            depth_std_m=columns.get(DEPTH_STD),
        )
        return candidates.above(0)


def graph_inputs(views: Sequence[View], *, modality: Modality) -> dict[str, NDArray[Any]]:
    """The graph's inputs, by name, for views of one size."""
    pictures = [view.image if modality == "rgb" else view.depth for view in views]
    return {
        PICTURE[modality]: np.stack([picture for picture in pictures if picture is not None]),
        PROJECTION: np.stack([np.asarray(view.camera.P, np.float32) for view in views]),
        LETTERBOX: np.stack([letterbox_numbers(view.letterbox) for view in views]),
    }


def letterbox_numbers(letterbox: Letterbox) -> NDArray[np.float32]:
    """scale, shift u, shift v; as published also the region's corners (left, top, right, bottom)."""
    region = [letterbox.region] if isinstance(letterbox, PublishedLetterbox) else []  # at inference the whole picture
    return np.concatenate([np.ravel(part) for part in (letterbox.scale, letterbox.shift, *region)]).astype(np.float32)


def _session(model: str | Path, device: str) -> Any:
    """onnxruntime's session. Raises InputError where the file cannot be run."""
    runtime = _onnxruntime()
    if not Path(model).is_file():
        kind = "a folder" if Path(model).is_dir() else "no file"
        raise InputError(f"{model}: expected an ONNX file, got {kind}; `monoskd export` writes them")
    check_seal(model)
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    threads = os.environ.get("OMP_NUM_THREADS", "")  # as torch; without it one for each core
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
    providers = _providers(str(device), runtime)
    try:
        return runtime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # onnxruntime has a dozen kinds, which have no other ancestor
        raise InputError(
            f"{model}: expected an ONNX file that onnxruntime {runtime.__version__} can run, got "
            f"'{first_line(error):.200}': it is damaged or of another format, export it again"
        ) from error


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"an .onnx model: expected onnxruntime to run it, got '{error}': pip install 'monoskd[export]'"
        ) from error
    module: ModuleType = onnxruntime
    return module


def _providers(device: str, runtime: ModuleType) -> list[Any]:
    """onnxruntime's names of what runs the network on this device."""
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return [_CPU]
    available = runtime.get_available_providers()
    if kind == "cuda" and _CUDA in available and (not number or number.isdecimal()):
        return [(_CUDA, {"device_id": number or "0"}), _CPU]
    raise InputError(
        f"device: expected one that onnxruntime has here, such as cpu, got {device}: it has {', '.join(available)}; "
        "for cuda install onnxruntime-gpu instead of onnxruntime"
    )


def _description(session: Any, model: str | Path) -> OnnxDescription:
    """What the file says of itself, checked. Raises InputError where it is none of monoskd's."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        raise InputError(
            f"{model}: expected an ONNX file of monoskd, got one without its description; `monoskd export` writes them"
        )
    try:
        entries = json.loads(text)
        if (schema := entries["schema"]) != SCHEMA:
            raise InputError(f"{model}: expected schema {SCHEMA}, got {schema}; was it written by a newer version?")
        entries |= {name: tuple(entries[name]) for name in ("classes", "input_size")}
        description = OnnxDescription(**entries)
        _check(description)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{model}: expected a description in JSON, got {error!r}; the file is damaged") from error
    inputs, outputs = ({part.name for part in parts} for parts in (session.get_inputs(), session.get_outputs()))
    if inputs != {PICTURE[description.modality], PROJECTION, LETTERBOX} or outputs - {DEPTH_STD} != {*OUTPUTS}:
        raise InputError(
            f"{model}: expected the inputs {PICTURE[description.modality]}, {PROJECTION} and {LETTERBOX} and the "
            f"outputs {', '.join(OUTPUTS)}, got {', '.join(sorted(inputs))} and {', '.join(sorted(outputs))}: export "
            "it again"
        )
    return description


def _check(description: OnnxDescription) -> None:
    """Raise ValueError for values that no export writes."""
    size, focal_px = description.input_size, description.input_focal_px
    for name, fits in {
        "modality": description.modality in PICTURE,
        "classes": len(description.classes) > 0 and all(isinstance(name, str) for name in description.classes),
        "input_size": len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size),
        "input_multiple": isinstance(description.input_multiple, int) and description.input_multiple > 0,
        "input_focal_px": focal_px is None or (isinstance(focal_px, int | float) and 0 < focal_px < float("inf")),
        "published_input": isinstance(description.published_input, bool),
    }.items():
        if not fits:
            raise ValueError(f"{name}: {getattr(description, name)!r}")
