"""What the doctor checks in one frame: its files, and whether they agree with each other."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import is_there, read_text
from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import wrap
from monoskd.images import read_image_size
from monoskd.kitti.agreement import depth_errors
from monoskd.kitti.depth import sparse_depth
from monoskd.kitti.doctor_report import Finding, Severity
from monoskd.kitti.io import (
    Calibration,
    parse_objects,
    read_calibration,
    read_depth,
    read_returns,
)
from monoskd.kitti.layout import KittiLayout
from monoskd.objects import (
    KITTI_HEIGHT_PX,
    KITTI_MEAN_SIZES,
    MIN_HEIGHT_PX,
    Objects,
    has_2d_box,
    has_3d_box,
    is_only_2d,
    is_supervised,
    lacks_alpha,
)

CLASSES = tuple(KITTI_MEAN_SIZES)  # what the shipped configs train on

_OUTSIDE_TOLERANCE_PX = 2
_MAX_TRUNCATION = 0.1  # a truncated object's 2D box is clipped, so it says little about the projection
_MIN_PROJECTION_DEPTH_M = 3  # nearer boxes reach behind the camera
_BAD_FRAME_IOU = 0.3  # of a frame's median box; among the 7481 KITTI frames the lowest is 0.38
_MIN_VISIBLE_SHARE = 0.01  # of a sweep's points inside the image; KITTI's have 0.16


@dataclass
class FrameFacts:
    """What one frame says: findings, and what is added up over the data set.

    objects: without DontCare; only_2d: those without a real 3D box; no_alpha: those without alpha; supervised: those
    that training would use, with the least 2D height of KITTI scaled down to smaller pictures.
    """

    findings: list[Finding] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    only_2d: int = 0
    no_alpha: int = 0
    supervised: int = 0
    image_size: tuple[int, int] | None = None
    projection_ious: list[float] = field(default_factory=list)
    alpha_gaps_rad: list[float] = field(default_factory=list)
    lidar_errors_m: list[float] = field(default_factory=list)
    depth_errors_m: list[float] = field(default_factory=list)

    def damaged(self, check: str, path: Path, error: InputError) -> None:
        """Note an InputError about a file: `<file>[, line N]...: <what>: <advice>`."""
        message = str(error).removeprefix(str(path))
        line = re.match(r", line (\d+)", message)
        what, _, advice = message[line.end() if line else 0 :].lstrip(",: ").rpartition(": ")
        self.findings.append(Finding("error", check, what, advice, str(path), int(line[1]) if line else None))

    def note(self, severity: Severity, check: str, path: Path, what: str, advice: str, line: int | None = None) -> None:
        """Note a finding about a file."""
        self.findings.append(Finding(severity, check, what, advice, str(path), line))


def facts_of(layout: KittiLayout, frame: str, *, depths: bool) -> FrameFacts:
    """Read the frame's files and compare them.

    depths: also the points of its sweep and the pixels of its depth map, which take longest.
    """
    facts = FrameFacts()
    facts.image_size = _image(layout.image(frame), facts)
    calibration = _calibration(layout.calibration(frame), facts)
    objects = _label(layout.label(frame), facts)
    if objects is not None and calibration is not None:
        _compare(layout.label(frame), objects, calibration.camera, facts)
    _depth_map(layout, frame, objects, facts, pixels=depths)
    _sweep(layout, frame, calibration, objects, facts, points=depths)
    return facts


def _image(path: Path, facts: FrameFacts) -> tuple[int, int] | None:
    if not is_there(path):
        return None
    try:
        return read_image_size(path)
    except InputError as error:
        facts.damaged("damaged image", path, error)
        return None


def _calibration(path: Path, facts: FrameFacts) -> Calibration | None:
    if not is_there(path):
        return None
    try:
        calibration = read_calibration(path)
    except InputError as error:
        facts.damaged("damaged calibration", path, error)
        return None
    centre_px = calibration.P2[:2, 2]
    if facts.image_size is not None and not ((centre_px > 0) & (centre_px < facts.image_size)).all():
        width, height = facts.image_size
        what = f"expected P2's principal point inside the {width} x {height} image, got {centre_px.round(1)}"
        facts.note("warning", "camera", path, what, "scale P2 as the image was scaled")
    return calibration


def _label(path: Path, facts: FrameFacts) -> Objects | None:
    if not is_there(path):
        return None
    try:
        text = read_text(path)
        objects = parse_objects(text, source=str(path), scored=False)
    except InputError as error:
        facts.damaged("damaged label", path, error)
        return None
    facts.classes.update(objects.names.tolist())
    words = {number: line.split() for number, line in enumerate(text.splitlines(), start=1) if line.strip()}
    lines, first = [*words], {tuple(words[number]): number for number in reversed(words)}
    for index in np.flatnonzero(objects.names != "DontCare"):
        if (earlier := first[tuple(words[lines[index]])]) < lines[index]:
            what = f"expected each object once, got that of line {earlier} again"
            facts.note("warning", "object twice", path, what, "remove one, it counts twice", lines[index])
        for severity, what, advice in _impossible(objects[index : index + 1], facts.image_size):
            facts.note(severity, "impossible box", path, what, advice, lines[index])
    objects = objects[objects.names != "DontCare"]
    height_px = KITTI_HEIGHT_PX if facts.image_size is None else facts.image_size[1]
    least_px = MIN_HEIGHT_PX * min(1, height_px / KITTI_HEIGHT_PX)
    facts.objects = len(objects)
    facts.only_2d = int(is_only_2d(objects).sum())
    facts.no_alpha = int(lacks_alpha(objects).sum())
    facts.supervised = int(is_supervised(objects, CLASSES, min_height_px=least_px).sum())
    return objects


def _impossible(one: Objects, image_size: tuple[int, int] | None) -> Iterator[tuple[Severity, str, str]]:
    """What cannot be true of a labelled object: (severity, what, advice). one: a single row."""
    sizes = one.dimensions[0]
    if (sizes <= 0).any() and not (sizes <= 0).all():  # none above 0 is how labels of 2D boxes alone are written
        yield "error", f"expected height, width and length above 0, got {sizes}", "correct the line"
    left, top, right, bottom = one.boxes_2d[0]
    if not has_2d_box(one)[0]:
        yield "error", f"expected left < right and top < bottom, got {one.boxes_2d[0]}", "correct the line"
    elif image_size is not None:
        slack, (width, height) = _OUTSIDE_TOLERANCE_PX, image_size
        if min(left, top) < -slack or right > width + slack or bottom > height + slack:
            what = f"expected a 2D box inside the {width} x {height} image, got {one.boxes_2d[0]}"
            yield "warning", what, "clip it, or check that image and label belong together"
    if not (0 <= one.truncation[0] <= 1):
        yield "warning", f"expected truncation within 0 and 1, got {one.truncation[0]}", "correct the line"
    if one.occlusion[0] not in (0, 1, 2, 3):
        yield "warning", f"expected occlusion 0, 1, 2 or 3, got {one.occlusion[0]}", "correct the line"


def _compare(path: Path, objects: Objects, camera: Camera, facts: FrameFacts) -> None:
    """Do 3D boxes project onto their 2D boxes, and does alpha follow from rotation_y?"""
    possible = has_3d_box(objects) & (objects.bottom[:, 2] > _MIN_PROJECTION_DEPTH_M)
    objects = objects[possible & (objects.truncation <= _MAX_TRUNCATION)]
    if not len(objects):
        return
    ious = projection_ious(objects, camera, image_size=facts.image_size)
    ray_rad = np.arctan2(objects.bottom[:, 0], objects.bottom[:, 2])
    facts.projection_ious = ious.tolist()
    facts.alpha_gaps_rad = np.abs(wrap(objects.yaw - ray_rad - objects.alpha))[~lacks_alpha(objects)].tolist()
    if np.median(ious) < _BAD_FRAME_IOU:
        what = f"expected 3D boxes to project onto their 2D boxes, got a median IoU of {np.median(ious):.2f}"
        facts.note("warning", "projection", path, what, "check that calibration and label belong together")


def projection_ious(objects: Objects, camera: Camera, *, image_size: tuple[int, int] | None) -> NDArray[np.float64]:
    """IoU of each 2D box with the bounds of its projected 3D box, clipped to the image (width, height) if known."""
    uv = camera.project(objects.boxes_3d.corners())
    limit = np.inf if image_size is None else np.array(image_size) - 1
    low, high = np.clip(uv.min(axis=1), 0, limit), np.clip(uv.max(axis=1), 0, limit)
    boxes = objects.boxes_2d
    overlap = np.minimum(high, boxes[:, 2:]) - np.maximum(low, boxes[:, :2])
    intersection = np.clip(overlap, 0, None).prod(axis=1)
    union = (high - low).prod(axis=1) + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - intersection
    ious: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return ious


def _depth_map(layout: KittiLayout, frame: str, objects: Objects | None, facts: FrameFacts, *, pixels: bool) -> None:
    path = layout.depth(frame)
    if not is_there(path):
        return
    try:
        size = read_image_size(path, mode="I;16")
        if pixels and objects is not None:
            facts.depth_errors_m = depth_errors(read_depth(path), objects)
    except InputError as error:
        facts.damaged("damaged depth map", path, error)
        return
    advice = "run `monoskd prepare --force`"
    if facts.image_size not in (None, size):
        facts.note("error", "depth map", path, f"expected the image's size {facts.image_size}, got {size}", advice)
    sources = (layout.velodyne(frame), layout.calibration(frame))
    if any(source.exists() and source.stat().st_mtime > path.stat().st_mtime for source in sources):
        facts.note("warning", "depth map", path, "expected it newer than sweep and calibration, got older", advice)


def _sweep(
    layout: KittiLayout,
    frame: str,
    calibration: Calibration | None,
    objects: Objects | None,
    facts: FrameFacts,
    *,
    points: bool,
) -> None:
    path = layout.velodyne(frame)
    if not is_there(path):
        return
    if calibration is not None and (calibration.R0_rect is None or calibration.Tr_velo_to_cam is None):
        what = "expected R0_rect and Tr_velo_to_cam beside a LiDAR sweep, got none"
        facts.note("error", "camera", layout.calibration(frame), what, "add them")
        return
    size = path.stat().st_size if path.is_file() else 0
    if points or size == 0 or size % 16:
        try:
            xyz = read_returns(path)
        except InputError as error:
            facts.damaged("damaged sweep", path, error)
            return
        _sweep_points(path, xyz, calibration, objects, facts)


def _sweep_points(
    path: Path,
    xyz: NDArray[np.float32],
    calibration: Calibration | None,
    objects: Objects | None,
    facts: FrameFacts,
) -> None:
    """Do the points fall into the image, and onto the labelled objects?"""
    if calibration is not None and facts.image_size is not None:
        sparse = sparse_depth(calibration.velo_to_camera(xyz), camera=calibration.camera, size=facts.image_size)
        share = np.count_nonzero(sparse) / len(xyz)
        if share < _MIN_VISIBLE_SHARE:
            what = f"expected more than {_MIN_VISIBLE_SHARE:.0%} of the points inside the image, got {share:.1%}"
            facts.note("error", "LiDAR", path, what, "check Tr_velo_to_cam and R0_rect in the calibration")
        if objects is not None:
            facts.lidar_errors_m = depth_errors(sparse, objects)
