"""KITTI's labels and results: lines of text, an object each."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import LARGEST_NUMBER, finite_number, read_text, write_text
from monoskd.objects import MOST_ANGLE_RAD, Objects, canonical_name

FloatArray: TypeAlias = NDArray[np.float64]

OBJECT_FIELDS = (
    *("type", "truncated", "occluded", "alpha", "left", "top", "right", "bottom"),
    *("height", "width", "length", "x", "y", "z", "rotation_y", "score"),
)


_LABEL_FIELDS, _RESULT_FIELDS = 15, 16
LARGEST_SCORE = float(np.finfo(np.float64).max)
_LABEL_UNITS = {
    **dict.fromkeys(("alpha", "rotation_y"), (MOST_ANGLE_RAD, "radians")),
    **dict.fromkeys(("height", "width", "length", "x", "y", "z"), (1000.0, "metres")),  # and -1000
}
"""The largest numbers of labels in the right unit. Results may hold anything, as KITTI's server takes it."""


def largest_numbers(*, labels: bool) -> list[float]:
    """The largest number of each field but the name, in labels or in results."""
    units = _LABEL_UNITS if labels else {}
    limits = [units.get(name, (LARGEST_NUMBER, ""))[0] for name in OBJECT_FIELDS[1:]]
    return [*limits[:-1], LARGEST_SCORE]


def read_objects(path: str | Path, *, scored: bool | None = None) -> Objects:
    """The objects of a label file (15 fields a line) or a result file (16: the last is the score).

    scored: True asks for results; False for labels, whose 16th field, if there is one, is not used; None takes the
    file for what its first line is. An empty file holds no objects of either kind. Class names are read in any case.
    """
    return parse_objects(read_text(path), source=str(path), scored=scored)


def parse_objects(text: str, *, source: str, scored: bool | None = None) -> Objects:
    """As `read_objects`, from text; `source` is what errors call it."""
    names: list[str] = []
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{source}, line {number}"
        widths = (_RESULT_FIELDS,) if scored else (_LABEL_FIELDS, _RESULT_FIELDS)
        if rows and scored is None:
            widths = (len(rows[0]) + 1,)
        if len(words) not in widths:
            raise InputError(f"{where}: {_wrong_width(len(words), widths, scored=scored)}")
        if not words[0].isprintable():
            raise InputError(f"{where}: expected a class name, got {words[0]!a:.40}: remove what cannot be seen")
        names.append(words[0])
        labels = not scored and (scored is False or len(words) == _LABEL_FIELDS)
        rows.append(_object_numbers(words, where=where, labels=labels))
    if not rows:
        return Objects.empty(scored=bool(scored))
    if scored is None:
        scored = len(rows[0]) + 1 == _RESULT_FIELDS
    numbers = rows if scored else [row[: _LABEL_FIELDS - 1] for row in rows]
    return objects_from_table(names, np.array(numbers), scored=scored)


def _wrong_width(width: int, widths: Sequence[int], *, scored: bool | None) -> str:
    """The error about a line with a wrong number of fields."""
    if widths == (_RESULT_FIELDS,):
        expected = "16 fields (a result)"
    elif scored is None and len(widths) == 2:
        expected = "15 or 16 fields"
    else:
        expected = "15 fields (a label)"
    if width == 1:
        advice = "fields are separated by spaces, convert the file"
    elif width == _LABEL_FIELDS:
        advice = "a result needs a score as its last field, add it"
    elif width < _LABEL_FIELDS:
        advice = "the line is damaged or cut off"
    elif width == _RESULT_FIELDS:
        advice = "all lines of a file must be alike, remove the score"
    else:
        advice = "these are more fields than KITTI's object labels have, convert the file"
    return f"expected {expected}, got {width}: {advice}"


def _object_numbers(words: Sequence[str], *, where: str, labels: bool) -> list[float]:
    numbers = []
    for index, (word, name, largest) in enumerate(
        zip(words[1:], OBJECT_FIELDS[1:], largest_numbers(labels=labels), strict=False), start=2
    ):
        field = f"{where}, field {index} ({name})"
        value = finite_number(word, where=field, largest=max(largest, LARGEST_NUMBER))
        if abs(value) > largest:
            unit = _LABEL_UNITS[name][1]
            raise InputError(f"{field}: expected at most {largest:g} {unit}, got '{word[:40]}': convert it to {unit}")
        numbers.append(value)
    if not numbers[1].is_integer():
        raise InputError(f"{where}, field 3 (occluded): expected a whole number, got '{words[2]}': correct the line")
    return numbers


def objects_from_table(names: Sequence[str], rows: FloatArray, *, scored: bool) -> Objects:
    """Objects from the fields of their lines: names, and a row of the 14 (with scores 15) numbers that follow."""
    return Objects(
        names=np.array([canonical_name(name) for name in names], np.str_),
        truncation=rows[:, 0],
        occlusion=rows[:, 1].astype(np.int64),
        alpha=rows[:, 2],
        boxes_2d=rows[:, 3:7],
        dimensions=rows[:, 7:10],
        bottom=rows[:, 10:13],
        yaw=rows[:, 13],
        scores=rows[:, 14] if scored else None,
    )


def format_objects(objects: Objects, *, decimals: int | None = None) -> str:
    """Objects as lines of a label file (2 decimals, as KITTI's) or, with scores, of a result file (6 decimals)."""
    if decimals is None:
        decimals = 2 if objects.scores is None else 6
    columns = [getattr(objects, field.name) for field in fields(objects)]
    rows = zip(*(column for column in columns if column is not None), strict=True)
    return "".join(_object_line(str(name), row, decimals=decimals) + "\n" for name, *row in rows)


def _object_line(name: str, row: Sequence[Any], *, decimals: int) -> str:
    if len(name.split()) != 1:
        raise ValueError(f"object name: expected one word, got '{name}'")
    truncation, occlusion, alpha, box_2d, *rest = row
    numbers = np.concatenate([np.atleast_1d(column) for column in rest])

    def text(value: float) -> str:
        return f"{value:g}" if name == "DontCare" else f"{value:.{decimals}f}"

    share = "-1" if truncation == -1 else text(truncation)
    corners = [f"{value:.{decimals}f}" for value in box_2d]
    return " ".join([name, share, f"{occlusion:d}", text(alpha), *corners, *map(text, numbers)])


def write_objects(path: str | Path, objects: Objects, *, decimals: int | None = None) -> None:
    """The inverse of `read_objects`; see `format_objects`."""
    write_text(path, format_objects(objects, decimals=decimals))
