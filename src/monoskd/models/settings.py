"""The rules for a detector's settings: what detectors share, and the words for rules of their own."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias, get_args

from monoskd.errors import InputError
from monoskd.models.backbone import STRIDES
from monoskd.models.bounds import LARGEST_SIDE_PX
from monoskd.objects import canonical_name
from monoskd.structures import Modality

INPUT_MULTIPLE = STRIDES[-1]  # of the sides of every detector's input [px]

Rule: TypeAlias = tuple[str, Callable[[Any], bool]]
"""What is expected, in words, and whether a value fits."""


def are(values: Any, fits: Callable[[Any], bool], *, count: int | None = None) -> bool:
    """Whether these are `count` values, or at least one, and every one of them fits."""
    is_row = isinstance(values, Sequence) and not isinstance(values, str)
    return is_row and (len(values) > 0 if count is None else len(values) == count) and all(map(fits, values))


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, Integral) and int(value) >= 1


def is_positive(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    return isinstance(value, Real) and 0 < float(value) < math.inf


def is_name(value: Any) -> bool:
    """Whether it is a text that is not empty."""
    return isinstance(value, str) and value != ""


def names_among(known: Sequence[str]) -> Rule:
    """Names, none or some of these."""
    is_known = known.__contains__
    return f"names among {', '.join(known)}", lambda value: len(value) == 0 or are(value, is_known)


COUNT: Rule = ("a whole number of at least 1", is_count)
METRES: Rule = ("more than 0 m", is_positive)
CELLS: Rule = (
    "(width, height) of at least 0 cells",
    lambda value: are(value, lambda side: side == 0 or is_positive(side), count=2),
)
_FOCAL_PX: Rule = ("more than 0 px, or none", lambda value: value is None or is_positive(value))
_SHARED: dict[str, Rule] = {
    "modality": ("rgb, depth or rgbd", lambda value: value in get_args(Modality)),
    "backbone": ("the name of a timm model", is_name),
    "backbone_arguments": ("arguments by name", lambda value: isinstance(value, Mapping) and all(map(is_name, value))),
    "classes": (
        "names, none twice",
        lambda value: are(value, is_name) and len({name.lower() for name in value}) == len(value),
    ),
    "mean_sizes": (
        "(height, width, length) above 0 m by class",
        lambda value: isinstance(value, Mapping) and all(are(size, is_positive, count=3) for size in value.values()),
    ),
    "input_size": (
        f"(width, height), at most {LARGEST_SIDE_PX} and in multiples of {INPUT_MULTIPLE} px",
        lambda value: are(value, _is_side, count=2),
    ),
    "geometry": ("corrected or published", lambda value: value in ("corrected", "published")),
    "top_k": COUNT,
    "reference_focal_px": _FOCAL_PX,
    "input_focal_px": _FOCAL_PX,
    "initial_depth_m": METRES,
}


def _is_side(value: Any) -> bool:
    return is_count(value) and value % INPUT_MULTIPLE == 0 and value <= LARGEST_SIDE_PX


def check_settings(config: Any, **own: Rule) -> None:
    """Raise InputError where a setting breaks a rule that detectors share, or one of the detector's own, by name.

    KITTI's classes may be written in any case; the config gets KITTI's spelling.
    """
    for name, (expected, fits) in (_SHARED | own).items():
        if not fits(getattr(config, name)):
            raise InputError(f"{name}: expected {expected}, got {getattr(config, name)!r}")
    spelt = (name if name in config.mean_sizes else canonical_name(name) for name in config.classes)
    object.__setattr__(config, "classes", tuple(spelt))  # it is frozen
    if missing := [name for name in config.classes if name not in config.mean_sizes]:
        raise InputError(
            f"mean_sizes: expected (height, width, length) [m] of {', '.join(config.classes)}, got none for {missing}; "
            "add them or leave the class out of `classes`"
        )
