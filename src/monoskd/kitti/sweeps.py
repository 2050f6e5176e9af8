"""LiDAR sweeps: files without a header, so that only their values tell what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import read_bytes, write_atomically

MOST_SWEEP_BYTES = 2**28  # 16 million points
MOST_RANGE_M = 1000.0  # no LiDAR of a car sees as far
MOST_REFLECTANCE = 65535.0  # KITTI's are in [0, 1]; other recordings write 8 or 16 bits, and nothing here uses them
_ROOF_M = 1.5  # a LiDAR on a car's roof has no returns within
_LEAST_POINTS = 100  # fewer may look like anything
_FEW, _MOST = 0.1, 0.99  # shares of rows that are no points
_MANY_POINTS, _ELSEWHERE = 2000, 0.25  # how far shares of each second to fourth row may differ; 208 real ones: 0.014
_POINTS = "expected points of 4 float32 (x, y, z, reflectance)"
_OTHER_SWEEPS = {
    b"\x93NUMPY": "a .npy file",
    b"# .PCD": "a .pcd file",
    b"VERSION": "a .pcd file",
    b"ply": "a .ply file",
}


def read_velodyne(path: str | Path) -> NDArray[np.float32]:
    """A LiDAR sweep n x 4: x forward, y left, z up [m], reflectance (KITTI's are in [0, 1]).

    A file without a header says nothing about its columns. So their values are checked: points of 5 columns, float64
    and files of other formats, read as 4 x float32, give negative reflectance, points far away, or rows that alternate
    between points and other numbers.
    """
    data = read_bytes(path, at_most=MOST_SWEEP_BYTES)
    for start, kind in _OTHER_SWEEPS.items():
        if data.startswith(start):
            raise InputError(f"{path}: {_POINTS}, got {kind}: convert it")
    if len(data) % 16:
        raise InputError(
            f"{path}: expected points of 16 bytes (4 float32), got {len(data)} bytes: it is cut off or has other "
            "columns, copy or convert it"
        )
    points = np.frombuffer(data, "<f4").reshape(-1, 4)
    is_finite = np.isfinite(points)  # some recordings mark a missing return with NaN
    finite = points if is_finite.all() else points[is_finite.all(1)]
    if len(finite):
        x, y, z, _ = np.abs(finite).T
        extent_m = np.maximum(np.maximum(x, y), z)
        far_m, low, high = extent_m.max(), finite[:, 3].min(), finite[:, 3].max()
        if low < 0 or high > MOST_REFLECTANCE or far_m > MOST_RANGE_M:
            raise InputError(
                f"{path}: {_POINTS} with reflectance in [0, 1], got reflectance from {low:.3g} to {high:.3g} and "
                f"coordinates up to {far_m:.3g} m: are there more columns, or is it float64? convert it"
            )
        near = extent_m < _ROOF_M
        if len(near) >= _LEAST_POINTS and near.mean() > _MOST:
            raise InputError(f"{path}: {_POINTS}, got no point beyond {_ROOF_M} m: are they whole numbers? convert it")
        if (columns := _columns(finite, near)) > 4:
            raise InputError(f"{path}: {_POINTS}, got what looks like {columns} columns: convert it")
    return points


def read_returns(path: str | Path) -> NDArray[np.float32]:
    """The points n x 3 [m] of a sweep that are returns: some recordings mark a missing one with NaN.

    Raises InputError as `read_velodyne`, and where there is none.
    """
    points = read_velodyne(path)[:, :3]
    is_return = np.isfinite(points).all(axis=1)
    if not is_return.any():
        raise InputError(f"{path}: expected LiDAR returns, got none among {len(points)} points: copy it again")
    return points if is_return.all() else points[is_return]


def _columns(points: NDArray[np.float32], near: NDArray[np.bool_]) -> int:
    """How many columns points that were read as 4 have: 4, or 8 to 16 where only every second to fourth row is one.

    Other rows hold a ring's whole number, small numbers that would be points inside the car's roof, or numbers that lie
    elsewhere as a whole: on another side of the car, as steep as no beam, or with another kind of reflectance. Which
    way a beam points says nothing: lasers that fire in turns have rows of their own.
    """
    x, y, z, reflectance = points.T
    is_other = near | (x == np.rint(x))
    kinds = np.stack([x < 0, y < 0, np.abs(z) > np.hypot(x, y), reflectance > 1], axis=1)
    for rows in (2, 3, 4):
        shares = [float(is_other[row::rows].mean()) for row in range(rows)] if len(points) >= _LEAST_POINTS else [1.0]
        if shares[0] < _FEW and max(shares) > _MOST:
            return 4 * rows
        means = [kinds[row::rows].mean(axis=0) for row in range(rows)] if len(points) >= _MANY_POINTS else [0]
        if np.ptp(means, axis=0).max() > _ELSEWHERE:
            return 4 * rows
    return 4


def write_velodyne(path: str | Path, points: NDArray[Any]) -> None:
    """The inverse of `read_velodyne`."""
    if points.ndim != 2 or points.shape[1] != 4:
        raise ValueError(f"points: expected n x 4 (x, y, z, reflectance), got shape {points.shape}")
    write_atomically(path, np.ascontiguousarray(points, "<f4").tobytes())
