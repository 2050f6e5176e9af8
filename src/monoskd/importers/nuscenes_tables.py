"""The JSON tables of nuScenes' v1.0 format: rows by token, with damage named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monoskd.errors import InputError
from monoskd.files import read_json
from monoskd.importers.boxes import Floats

_MOST_BYTES = 4 * 2**30  # of a table; the largest of the full data set has about 1 GiB
_FIELDS = {
    "scene": ("name",),
    "sample": ("timestamp", "scene_token"),
    "sample_data": (
        *("sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp", "is_key_frame"),
        *("width", "height", "filename"),
    ),
    "ego_pose": ("rotation", "translation"),
    "calibrated_sensor": ("sensor_token", "rotation", "translation", "camera_intrinsic"),
    "sensor": ("channel", "modality"),
    "sample_annotation": (
        *("sample_token", "instance_token", "visibility_token", "attribute_tokens"),
        *("translation", "size", "rotation", "num_lidar_pts"),
    ),
    "instance": ("category_token",),
    "category": ("name",),
    "attribute": ("name",),
}
_WHOLE = {"sample": ("timestamp",), "sample_data": ("timestamp",), "sample_annotation": ("num_lidar_pts",)}


class Tables:
    """The JSON tables of a folder, rows by token, their needed fields checked when a table is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, dict[str, dict[str, Any]]] = {}

    def __getitem__(self, name: str) -> dict[str, dict[str, Any]]:
        if name not in self._rows:
            self._rows[name] = {row["token"]: row for row in self._read(name)}
        return self._rows[name]

    def find(self, name: str, token: str, *, of: str) -> dict[str, Any]:
        """The row of this token, which `of` points to."""
        try:
            return self[name][token]
        except KeyError:
            raise InputError(
                f"{self.folder / name}.json: expected a row with token '{token}', which {of} points to, got none: "
                "the tables do not belong together, unpack them again"
            ) from None

    def _read(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.json"
        rows = read_json(path, at_most=_MOST_BYTES)
        if not isinstance(rows, list):
            raise InputError(f"{path}: expected a list of rows, got {type(rows).__name__}: unpack it again")
        for index, row in enumerate(rows):
            missing = [key for key in ("token", *_FIELDS[name]) if not isinstance(row, dict) or key not in row]
            if missing:
                raise InputError(f"{path}, row {index}: expected a field '{missing[0]}', got none: unpack it again")
            for key in _WHOLE.get(name, ()):
                row[key] = whole(row, key, where=f"{path}, row {index}")
        return rows


def version_folder(source: Path) -> Path:
    """The one folder of tables."""
    if (source / "sample_data.json").is_file():
        return source
    folders = sorted(path for path in source.glob("v1.0-*") if (path / "sample_data.json").is_file())
    if len(folders) != 1:
        found = ", ".join(path.name for path in folders) or "none"
        advice = "give the path of one of them" if folders else "check the path"
        raise InputError(f"{source}: expected one folder of tables such as v1.0-trainval, got {found}: {advice}")
    return folders[0]


def rigid(row: Mapping[str, Any], *, where: str) -> Floats:
    """4 x 4 from a row's `translation` [m] and `rotation`, a unit quaternion w, x, y, z."""
    w, x, y, z = quaternion = numbers(row, "rotation", shape=(4,), where=where)
    if abs(np.linalg.norm(quaternion) - 1) > 1e-3:
        raise InputError(f"{where}, rotation: expected a unit quaternion w, x, y, z, got {row['rotation']}")
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    transform = np.eye(4)
    transform[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    transform[:3, 3] = numbers(row, "translation", shape=(3,), where=where)
    return transform


def whole(row: Mapping[str, Any], key: str, *, where: str) -> int:
    """The whole number of one field."""
    try:
        value = int(row[key])
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{where}, {key}: expected a whole number, got {row[key]!r}: correct the row") from None
    return value


def numbers(row: Mapping[str, Any], key: str, *, shape: tuple[int, ...], where: str) -> Floats:
    """The numbers of one field."""
    try:
        values = np.array(row[key], np.float64)
    except (ValueError, TypeError):
        values = np.zeros(0)
    if values.shape != shape or not np.isfinite(values).all():
        wanted = " x ".join(map(str, shape))
        raise InputError(f"{where}, {key}: expected {wanted} finite numbers, got {row[key]}: correct the row")
    return values
