"""KITTI's raw drives with `tracklet_labels.xml`, which is also what labelling tools such as CVAT write for 3D boxes.

SOURCE/2011_09_26/calib_cam_to_cam.txt, calib_velo_to_cam.txt, calib_imu_to_velo.txt (the last may be missing)
SOURCE/2011_09_26/2011_09_26_drive_0001_sync/{image_02,image_03,velodyne_points}/data, tracklet_labels.xml

CVAT's file has the same elements and means other things: w, h, l are a box's extents along its x, y and z axis;
tx, ty, tz its centre; gaps have states spelt as words; `frame_list.txt` beside it says which frame each number is.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from monoskd.errors import InputError
from monoskd.files import as_number, is_whole_number, read_bytes, read_text
from monoskd.images import read_image_size
from monoskd.importers.boxes import Floats, OrientedBoxes, label, tilt_deg
from monoskd.importers.recording import ClassMap, Frame, Picture, Recording
from monoskd.kitti.io import Calibration, read_split
from monoskd.kitti.layout import KittiLayout, file_of_each, frame_file
from monoskd.kitti.leakage import Fingerprints, drives_behind, validation_drives
from monoskd.kitti.raw import drive_folders, read_raw_calibration, refuse_validation_drive

TRACKLETS, FRAME_LIST = "tracklet_labels.xml", "frame_list.txt"
CLASSES: dict[str, str | None] = {
    **{name: name for name in ("Car", "Van", "Truck", "Pedestrian", "Cyclist", "Tram", "Misc")},
    "Person (sitting)": "Person_sitting",
}
CAMERAS = {"image_02": "P2", "image_03": "P3"}  # the colour cameras
UNKNOWN_OCCLUSION = 3
OUT_OF_PICTURE = (2, 99)  # truncation states: outside the picture, behind the camera
STATES = {"OCCLUSION_UNSET": -1, "VISIBLE": 0, "PARTLY": 1, "FULLY": 2} | {
    "TRUNCATION_UNSET": -1,
    "IN_IMAGE": 0,
    "TRUNCATED": 1,
    "OUT_IMAGE": 2,
    "BEHIND_IMAGE": 99,
}
_POSE_FIELDS = ("tx", "ty", "tz", "rx", "ry", "rz")


class Tracklet(NamedTuple):
    """An object in one frame. size_hwl [m]; bottom: x, y, z [m] of the LiDAR's frame; angles: rx, ry, rz [rad]."""

    category: str
    size_hwl: tuple[float, ...]
    bottom: tuple[float, ...]
    angles: tuple[float, ...]
    occlusion: int
    truncation: int


@dataclass(frozen=True, kw_only=True, eq=False)
class RawPicture(Picture):
    """A picture of a drive. calibration: with P2 of this camera."""

    calibration: Calibration
    tracklets: Sequence[Tracklet]

    def read(self, classes: ClassMap) -> Frame:
        """Move the tracklets from the LiDAR's frame to the camera's and project them."""
        velo_to_camera = np.eye(4)
        velo_to_camera[:3] = self.calibration.R0_rect @ self.calibration.Tr_velo_to_cam  # type: ignore[operator]
        tracklets = [tracklet for tracklet in self.tracklets if tracklet.truncation not in OUT_OF_PICTURE]
        labels = label(
            _boxes(tracklets).moved(velo_to_camera),
            [(tracklet.category,) for tracklet in tracklets],
            np.array([tracklet.occlusion for tracklet in tracklets], np.int64),
            classes=classes,
            camera=self.calibration.camera,
            size=read_image_size(self.image),
        )
        return Frame(self.calibration, labels.objects, tilt_deg(velo_to_camera[:3, 2]), labels.left_out)


def read_kitti_raw(
    source: str | Path, *, mapping: str | Path | None = None, kitti: str | Path | None = None
) -> Recording:
    """The drives under `source`, as KITTI lays them out.

    mapping: the folder of the object benchmark's train_mapping.txt and train_rand.txt; kitti: a data set with
    `ImageSets/val.txt`. With both, the drives that hold validation frames become the split val, all others train;
    pictures and sweeps of validation frames in other drives are refused.

    Raises InputError for drives of other names, and where files are missing or damaged.
    """
    if (mapping is None) != (kitti is None):
        raise InputError(
            "kitti-raw: expected both the devkit's mapping and a KITTI data set, got one: give --mapping and --kitti"
        )
    reasons = {folder: _why_not(folder) for folder in drive_folders(Path(source))}
    drives = [folder for folder, reason in reasons.items() if reason is None]
    splits, warnings = dict[str, str](), [_UNKNOWN_DRIVES]
    if mapping is not None and kitti is not None:
        splits, warnings = _splits(drives, mapping=mapping, layout=KittiLayout(Path(kitti))), []
    warnings += [line for drive in drives for line in _unlisted(drive)]
    calibrations = {date: read_raw_calibration(date) for date in sorted({drive.parent for drive in drives})}
    pictures = [picture for drive in drives for picture in _pictures(drive, calibrations[drive.parent])]
    return Recording(
        format="kitti-raw",
        pictures=pictures,
        classes=CLASSES,
        categories={*CLASSES, *(tracklet.category for picture in pictures for tracklet in picture.tracklets)},
        splits=splits,
        left_out={folder.name: reason for folder, reason in reasons.items() if reason is not None},
        default_cameras=("image_02",),
        warnings=warnings,
    )


_UNKNOWN_DRIVES = (
    "nobody says which drives hold frames of KITTI's validation split: give --mapping and --kitti before you compare "
    "with numbers on that split"
)


def read_tracklets(path: str | Path) -> dict[int, list[Tracklet]]:
    """The objects of each frame of a drive. Raises InputError where the file is damaged."""
    try:
        root = ElementTree.fromstring(read_bytes(path))
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: expected XML, got a damaged file ({error}): copy it again") from error
    frames: dict[int, list[Tracklet]] = defaultdict(list)
    items = root.findall("tracklets/item")
    cvat = root.findtext("tracklets/item/poses/item_version") == "0"  # KITTI's own files have 2
    if root.find("tracklets") is None:
        raise InputError(f"{path}: expected an element 'tracklets', got none: is it a tracklet_labels.xml?")
    for number, item in enumerate(items):
        where = f"{path}, tracklet {number}"
        category = item.findtext("objectType")
        if not category:
            raise InputError(f"{where}: expected an objectType, got none: correct the file")
        size = tuple(_number(item, key, where=where) for key in (("l", "h", "w") if cvat else ("h", "w", "l")))
        if min(size) <= 0:
            raise InputError(f"{where}: expected a size above 0, got h, w, l = {size}: correct the file")
        first = int(_number(item, "first_frame", where=where))
        for index, pose in enumerate(item.findall("poses/item")):
            at = f"{where}, pose {index}"
            values = tuple(_number(pose, key, where=at) for key in _POSE_FIELDS)
            if cvat:
                place = np.array(values[:3]) - size[0] / 2 * _rotation(*values[3:])[:, 2]
                values = (*place.tolist(), *values[3:])
            occlusion, truncation = (_state(pose, key, where=at) for key in ("occlusion", "truncation"))
            occlusion = occlusion if occlusion in (0, 1, 2) else UNKNOWN_OCCLUSION
            one = Tracklet(category, size, values[:3], values[3:], occlusion, truncation)
            frames[first + index].append(one)
    return frames


def _number(element: ElementTree.Element, key: str, *, where: str) -> float:
    text = element.findtext(key)
    value = as_number(text or "")
    if not np.isfinite(value):
        raise InputError(f"{where}, {key}: expected a finite number, got {text!r}: correct the file")
    return value


def _state(pose: ElementTree.Element, key: str, *, where: str) -> int:
    """A number, or a word such as `TruncationStates.OUT_IMAGE`."""
    word = (pose.findtext(key) or "").rpartition(".")[2]
    return STATES[word] if word in STATES else int(_number(pose, key, where=where))


def read_frame_list(path: Path) -> dict[str, int]:
    """CVAT's number of each frame by the stem of its name. Raises InputError where a line is not `NUMBER NAME`."""
    numbers = {}
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        number, _, name = text.strip().partition(" ")
        if text.strip() and not (is_whole_number(number) and name):
            raise InputError(
                f"{path}, line {line}: expected a number and a frame's name, got '{text}': correct the file"
            )
        if name:
            numbers[Path(name.strip()).stem] = int(number)
    return numbers


def _boxes(tracklets: Sequence[Tracklet]) -> OrientedBoxes:
    """The boxes in the LiDAR's frame; a tracklet's place is its bottom centre, z points up."""
    if not tracklets:
        return OrientedBoxes.empty()
    axes = np.array([_rotation(*tracklet.angles) for tracklet in tracklets])
    sizes = np.array([tracklet.size_hwl for tracklet in tracklets])
    return OrientedBoxes(
        np.array([tracklet.bottom for tracklet in tracklets]) + sizes[:, :1] / 2 * axes[:, :, 2], axes, sizes
    )


def _rotation(rx: float, ry: float, rz: float) -> Floats:
    """Rz Ry Rx."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([rx, ry, rz]), np.sin([rx, ry, rz])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation: Floats = about_z @ about_y @ about_x
    return rotation


def _listed(drive: Path) -> dict[str, int] | None:
    """What CVAT says of the drive's frames, if it does."""
    return read_frame_list(drive / FRAME_LIST) if (drive / FRAME_LIST).is_file() else None


def _images(drive: Path) -> dict[tuple[str, str], Path]:
    """The pictures by frame and camera."""
    return {
        (stem, camera): path
        for camera in CAMERAS
        for stem, path in file_of_each(drive / camera / "data", "image_2").items()
        if is_whole_number(stem)
    }


def _unlisted(drive: Path) -> list[str]:
    """A line about the frames that CVAT does not name."""
    listed = _listed(drive)
    absent = set() if listed is None else {stem for stem, _ in _images(drive)} - listed.keys()
    return [f"{drive.name}: {len(absent)} frames are left out, {FRAME_LIST} does not name them"] if absent else []


def _pictures(drive: Path, calibration: Calibration) -> list[RawPicture]:
    """Frame by frame, camera by camera."""
    tracklets = read_tracklets(drive / TRACKLETS)
    listed, images = _listed(drive), _images(drive)
    of_camera = {camera: replace(calibration, P2=getattr(calibration, key)) for camera, key in CAMERAS.items()}
    pictures = []
    for stem, camera in sorted(images):
        if listed is not None and stem not in listed:
            continue  # nobody has labelled it
        sweep = frame_file(drive / "velodyne_points" / "data", "velodyne", stem)
        pictures.append(
            RawPicture(
                image=images[stem, camera],
                origin=f"{drive.parent.name}/{drive.name}/{camera}/{stem}",
                scene=drive.name,
                camera=camera,
                sweep=sweep if sweep.is_file() else None,
                calibration=of_camera[camera],
                tracklets=tracklets.get(int(stem) if listed is None else listed[stem], []),
            )
        )
    return pictures


def _why_not(drive: Path) -> str | None:
    """Why the drive is left out, if it is."""
    if drive.name.endswith("_extract"):
        return "drives that are not rectified (their _sync download is)"
    if not (drive / TRACKLETS).is_file():
        return f"drives without {TRACKLETS} (`monoskd prepare --raw` adds them as frames without labels)"
    return None


def _splits(drives: Sequence[Path], *, mapping: str | Path, layout: KittiLayout) -> dict[str, str]:
    """val for the drives that hold frames of the object benchmark's validation, train for all others."""
    validation = read_split(layout.split("val"))
    forbidden = validation_drives(validation, mapping)
    splits = {}
    fingerprints = Fingerprints(layout, validation)
    for drive in drives:
        splits[drive.name] = "val" if drives_behind(drive) & forbidden.keys() else "train"
        if splits[drive.name] == "train":
            refuse_validation_drive(drive, fingerprints)
    return splits
