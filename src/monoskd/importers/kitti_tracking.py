"""KITTI's tracking benchmark: sequences with one label file and one calibration each.

    SOURCE/training/{image_02,velodyne}/0001/000000.png, .bin; SOURCE/training/{label_02,calib}/0001.txt

Its labels have 2D boxes for the left colour camera only, so that is the camera which is imported.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monoskd.errors import InputError
from monoskd.files import is_whole_number, read_text, visible
from monoskd.geometry.camera import Camera
from monoskd.images import read_image_size
from monoskd.importers.boxes import Floats, OrientedBoxes, outlines
from monoskd.importers.recording import ClassMap, Frame, Picture, Recording
from monoskd.kitti.io import Calibration, parse_objects, read_calibration
from monoskd.kitti.layout import file_of_each, frame_file
from monoskd.objects import Objects

CAMERA = "image_02"
CLASSES: dict[str, str | None] = {
    **{name: name for name in ("Car", "Van", "Truck", "Pedestrian", "Cyclist", "Tram", "Misc", "DontCare")},
    "Person": "Person_sitting",
}
WARNING = (
    "the sequences are cut from the raw drives that the object benchmark is drawn from: what is trained on them cannot "
    "be evaluated on its validation split"
)
_FIELDS = 17  # frame, track, then the 15 of a label


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackingPicture(Picture):
    """A picture of a sequence. lines: its labels without frame and track; label_file: where they are from."""

    calibration: Calibration
    lines: Sequence[str]
    label_file: Path

    def read(self, classes: ClassMap) -> Frame:
        """The labels as they are, truncation as a share."""
        size = read_image_size(self.image)
        if not self.labelled:
            return Frame(self.calibration)
        source = f"{self.label_file}, frame {self.image.stem}"
        objects = parse_objects("\n".join(self.lines), source=source, scored=False)
        mapped = [classes(str(name)) for name in objects.names]
        kept = [index for index, name in enumerate(mapped) if name is not None]
        lost = Counter(str(objects.names[index]) for index, name in enumerate(mapped) if name is None)
        shares = _truncation(objects, Camera(self.calibration.P2), size)
        named = replace(objects, names=np.array([name or "" for name in mapped], np.str_), truncation=shares)
        return Frame(
            self.calibration, named[kept], left_out={f"objects of {name}": count for name, count in lost.items()}
        )


def read_kitti_tracking(source: str | Path) -> Recording:
    """The sequences of `source/training`, or of `source`; those without a label file become frames without labels."""
    root = Path(source) / "training" if (Path(source) / "training").is_dir() else Path(source)
    sequences = [path.name for path in visible((root / CAMERA).glob("*")) if path.is_dir()]
    if not sequences:
        raise InputError(f"{root}: expected sequences such as {CAMERA}/0001, got none: check the path")
    return Recording(
        format="kitti-tracking",
        pictures=[picture for sequence in sequences for picture in _pictures(root, sequence)],
        classes=CLASSES,
        categories=CLASSES,
        warnings=(WARNING,),
    )


def _pictures(root: Path, sequence: str) -> list[TrackingPicture]:
    """The sequence's pictures in time order."""
    label_file = root / "label_02" / f"{sequence}.txt"
    lines = _lines(label_file) if label_file.is_file() else {}
    calibration = read_calibration(root / "calib" / f"{sequence}.txt", require=("R0_rect", "Tr_velo_to_cam"))
    images = file_of_each(root / CAMERA / sequence, "image_2")
    pictures = []
    for stem in filter(is_whole_number, images):
        image, sweep = images[stem], frame_file(root / "velodyne" / sequence, "velodyne", stem)
        pictures.append(
            TrackingPicture(
                image=image,
                origin=f"{CAMERA}/{sequence}/{stem}",
                scene=sequence,
                camera=CAMERA,
                labelled=label_file.is_file(),
                sweep=sweep if sweep.is_file() else None,
                calibration=calibration,
                lines=lines.get(int(stem), ()),
                label_file=label_file,
            )
        )
    return pictures


def _lines(path: Path) -> dict[int, list[str]]:
    """The label lines of each frame, without frame and track."""
    lines: dict[int, list[str]] = defaultdict(list)
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != _FIELDS or not is_whole_number(words[0]):
            raise InputError(
                f"{path}, line {number}: expected {_FIELDS} fields that begin with a frame's number, got '{line}': the "
                "line is damaged or cut off"
            )
        lines[int(words[0])].append(" ".join(words[2:]))
    return lines


def _truncation(objects: Objects, camera: Camera, size: tuple[int, int]) -> Floats:
    """Shares for the states 1 and 2 (partly, largely outside): of the projected 3D box, what lies outside."""
    shares = objects.truncation.copy()
    rows = np.flatnonzero((shares > 0) & (objects.dimensions > 0).all(1))
    boxes, yaw = objects[rows].boxes_3d, objects.yaw[rows]
    zero, one = np.zeros(len(rows)), np.ones(len(rows))
    forward, up = np.stack([np.cos(yaw), zero, -np.sin(yaw)], 1), np.stack([zero, -one, zero], 1)
    axes = np.stack([forward, np.cross(up, forward), up], 2)
    shares[rows] = outlines(OrientedBoxes(boxes.centres, axes, boxes.dimensions), camera, size).truncation
    return shares
