"""Depth maps for a whole data set: the LiDAR sweep of each frame becomes `depth_2/<frame>.png`."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from monoskd.errors import InputError
from monoskd.files import check_writable, is_there, remove_partial_files
from monoskd.images import read_image_size
from monoskd.kitti.agreement import depth_errors, disagreement
from monoskd.kitti.depth import DepthMap, complete_depth, sparse_depth
from monoskd.kitti.io import (
    read_calibration,
    read_depth,
    read_objects,
    read_returns,
    write_depth,
)
from monoskd.kitti.layout import KittiLayout, suffixes
from monoskd.objects import Objects
from monoskd.workers import map_in_processes

_ABANDONED_S = 3600  # older partial files are left over from a killed process


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did.

    depth_error_m: the self-check, a median over `objects` near and visible labelled objects (see `agreement`); None
    without any. unread_files: files in `velodyne` with another suffix than a sweep's.
    """

    written: int
    skipped: int
    seconds: float
    objects: int
    depth_error_m: float | None
    unread_files: int = 0

    @property
    def frames_per_second(self) -> float:
        """Frames per second, written or skipped."""
        return (self.written + self.skipped) / self.seconds

    def __str__(self) -> str:
        done = f"{self.written} depth maps written, {self.skipped} were there, {self.frames_per_second:.1f} frames/s"
        if self.unread_files:
            done += f"; {self.unread_files} files in velodyne are not {suffixes('velodyne')} and were left alone"
        if self.depth_error_m is None:
            return f"{done}; no near and visible labelled objects to check them against"
        return (
            f"{done}; self-check: depths in 2D boxes lie {self.depth_error_m:.2f} m beside the 3D boxes "
            f"(median of {self.objects} near and visible objects)"
        )


@dataclass(frozen=True)
class _Frame:
    """The outcome of one frame: whether its map was written now, the errors of its objects [m], and what failed."""

    name: str
    written: bool
    errors_m: list[float]
    failure: str | None = None


Each: TypeAlias = Callable[[Callable[[str], _Frame], Sequence[str]], Iterable[_Frame]]


def prepare(
    root: str | Path,
    *,
    workers: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    each: Each | None = None,
) -> PrepareReport:
    """Write the depth map of every frame of `root/training` that has a LiDAR sweep.

    Complete maps of the right size are kept, unless `force`; so an interrupted run continues where it stopped. A map
    that is written takes the place of a symlink, and what that points to stays as it is. workers: processes, one per
    core if None. progress: called with (frames done, frames in all). each: gives the results of a task for all frames,
    in place of these processes.

    Raises InputError where there is nothing to prepare; at once, where nothing can be written; after all other frames
    are done, where a frame's files are damaged or missing; and where the depths are not on the labelled objects: then
    no map that was written now is left.
    """
    layout = KittiLayout(Path(root))
    frames = _frames(layout)
    check_writable(layout.folder("depth_2"))
    remove_partial_files(layout.folder("depth_2"), older_than_s=_ABANDONED_S)
    started = time.perf_counter()
    results: list[_Frame] = []
    each = each or partial(map_in_processes, workers=workers)
    try:
        for result in each(partial(_prepare_frame, layout, force), frames):
            results.append(result)
            if progress is not None:
                progress(len(results), len(frames))
    except InputError as error:  # what stops all frames, such as a full disk
        raise InputError(f"{error} ({len(results)} of {len(frames)} frames are done; call again to go on)") from error
    failures = sorted(result.failure for result in results if result.failure is not None)
    if failures:
        more = f", and {len(failures) - 1} more damaged frames" if len(failures) > 1 else ""
        raise InputError(f"{failures[0]}{more} (the other {len(frames) - len(failures)} frames are prepared)")
    errors_m = [error for result in results for error in result.errors_m]
    if wrong := disagreement(errors_m):
        written = [layout.depth(result.name) for result in results if result.written]
        for path in written:
            path.unlink(missing_ok=True)
        raise InputError(
            f"{layout.folder('depth_2')}: {wrong}: the depth maps cannot be used, and the {len(written)} that were "
            "written now are removed; check Tr_velo_to_cam and that sweeps, labels and calibrations belong together, "
            "then call again with `--force`"
        )
    return PrepareReport(
        written=sum(result.written for result in results),
        skipped=sum(not result.written for result in results),
        seconds=time.perf_counter() - started,
        objects=len(errors_m),
        depth_error_m=float(np.median(errors_m)) if errors_m else None,
        unread_files=len(layout.unread_files("velodyne")),
    )


def _frames(layout: KittiLayout) -> list[str]:
    if not layout.root.is_dir():
        raise InputError(f"{layout.root}: expected a data set's folder, got none: check the path")
    folder = layout.folder("velodyne")
    frames = layout.frames("velodyne")
    if not frames:
        got = "no such folder"
        if folder.is_dir():
            unread_files = layout.unread_files("velodyne")
            got = f"{unread_files[0].name} and no .bin file" if unread_files else "no .bin file"
        raise InputError(f"{folder}: expected LiDAR sweeps to make depth maps from, got {got}: add or convert them")
    return frames


def _prepare_frame(layout: KittiLayout, force: bool, frame: str) -> _Frame:
    """Raises InputError where the map cannot be written: nor can the next one."""
    try:
        size = read_image_size(layout.image(frame))
        there = None if force else _existing(layout.depth(frame), size)
        depth_m = frame_depth(layout, frame, size=size) if there is None else there
    except InputError as error:
        return _Frame(frame, False, [], failure=str(error))
    if there is None:
        if layout.depth(frame).is_symlink():  # what it points to is another's, or nowhere
            layout.depth(frame).unlink()
        write_depth(layout.depth(frame), depth_m)
    try:
        objects = read_objects(layout.label(frame), scored=False) if is_there(layout.label(frame)) else Objects.empty()
    except InputError as error:
        return _Frame(frame, there is None, [], failure=str(error))
    return _Frame(frame, there is None, depth_errors(depth_m, objects))


def frame_depth(layout: KittiLayout, frame: str, *, size: tuple[int, int]) -> DepthMap:
    """The dense depth map of one frame, height x width [m], from its sweep and calibration; size: (width, height)."""
    calibration = read_calibration(layout.calibration(frame), require=("R0_rect", "Tr_velo_to_cam"))
    xyz = read_returns(layout.velodyne(frame))
    sparse = sparse_depth(calibration.velo_to_camera(xyz), camera=calibration.camera, size=size)
    if not sparse.any():
        raise InputError(
            f"{layout.velodyne(frame)}: expected LiDAR returns inside the image, got none of {len(xyz)}: "
            f"check Tr_velo_to_cam in {layout.calibration(frame)}"
        )
    return complete_depth(sparse, focal_px=float(calibration.camera.focal_px))


def _existing(path: Path, size: tuple[int, int]) -> DepthMap | None:
    """The depth map on disk, if it is complete and of the right size."""
    if not path.exists():
        return None
    try:
        depth_m = read_depth(path)
    except InputError:
        return None
    return depth_m if depth_m.shape == size[::-1] else None
