"""The network that a run trains: new, from a model file, or with parts of one."""

from pathlib import Path

from monoskd.engine.config import RunConfig
from monoskd.errors import InputError
from monoskd.evaluation.rules import known_classes
from monoskd.models.weights import load_model
from monoskd.structures import Detector


def build_student(config: RunConfig) -> Detector:
    """The network to train: new, or from a model file."""
    student, start = config.detector, config.beginning
    if start.model is not None:
        started = load_model(start.model)
        student = started.train() if student is None else _with_weights(student, started, start.model)
    assert student is not None, "the check has refused a run without a network"
    if start.inherit is not None:
        inherit(student, start.inherit)
    check_input(config, student, "detector")
    if student.depth_targets and not config.data.depth:
        raise InputError(
            f"detector: expected one that learns without depth maps, as of `data.depth: false`, got "
            f"{type(student).__name__}, whose targets are made of them: choose another detector"
        )
    known_classes(config.validation.classes, present=student.classes)
    return student


def _with_weights(detector: Detector, started: Detector, start: Path) -> Detector:
    """The configured network with the weights of the model file `start`."""
    try:
        detector.load_state_dict(started.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"{start}: expected weights that fit the configured `detector`, got others ({reason}); leave `detector` "
            "out to take the file's own"
        ) from error
    return detector


def inherit(student: Detector, path: Path) -> None:
    """Take all but the backbone, such as neck and heads, from a model file of the same class of network."""
    own, given = student.state_dict(), load_model(path).state_dict()
    taken = {name: tensor for name, tensor in given.items() if not name.startswith("backbone.")}
    for name in own:
        if name.startswith("backbone."):
            continue
        if name not in taken or taken[name].shape != own[name].shape:
            got = tuple(taken[name].shape) if name in taken else "none"
            raise InputError(
                f"{path}: start.inherit: expected the student's neck and heads, with {name} of shape "
                f"{tuple(own[name].shape)}, got {got}: take a network of the same class and widths"
            )
    if not taken:
        raise InputError(f"{path}: start.inherit: expected tensors outside the backbone, got none")
    student.load_state_dict({name: taken.get(name, tensor) for name, tensor in own.items()})


def check_input(config: RunConfig, detector: Detector, where: str | Path) -> None:
    """Raise InputError unless the data have what the network sees, and both are published or both corrected."""
    if detector.modality != "rgb" and not config.data.depth:
        raise InputError(
            f"{where}: expected a network on pictures, as of `data.depth: false`, got modality {detector.modality}: "
            "take one of modality rgb, or frames with depth maps"
        )
    published = config.data.published.per_axis_decoding
    if detector.published_input != published:
        names = {True: "published", False: "corrected"}
        raise InputError(
            f"{where}: expected geometry `{names[published]}`, which goes with data.published.per_axis_decoding: "
            f"{published}, got `{names[detector.published_input]}`; change either"
        )
