"""KITTI's raw drives as frames without labels, in the object layout, and never one of a validation drive.

The object benchmark's frames were drawn from these drives, so a drive that holds one validation frame shows the same
cars a tenth of a second earlier and later. The devkit's `train_mapping.txt` and `train_rand.txt` tell which drive each
object frame is from. Drives are left out by name; one that was renamed is recognised by its LiDAR sweeps.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monoskd.data.files import read_bytes, read_text, write_atomically
from monoskd.data.kitti_io import Calibration, FloatArray, parse_matrix, read_split, write_calibration, write_split
from monoskd.data.layout import UNLABELLED, KittiLayout
from monoskd.errors import InputError

FIRST_FRAME = 100_000  # KITTI's own frames end at 007480
RECORD = "raw_frames.json"

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
_CAMERAS = {"P_rect_00": "P0", "P_rect_01": "P1", "P_rect_02": "P2", "P_rect_03": "P3", "R_rect_00": "R0_rect"}


@dataclass(frozen=True)
class RawReport:
    """What `prepare_raw` did: frames of the unlabelled split, new ones among them, drives left out and the reasons."""

    frames: int
    added: int
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.frames} frames without labels, {self.added} of them new; {len(self.left_out)} drives left out"


def prepare_raw(
    raw_root: str | Path,
    root: str | Path,
    *,
    mapping: str | Path,
    every: int = 1,
    only_training_drives: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RawReport:
    """Add the raw drives under `raw_root` to the data set `root` as its split `unlabelled`.

    Images and sweeps are linked, not copied. Frames are numbered from 100000 on and keep their number when more are
    added. What came from where, and what was left out and why, is written to `root/raw_frames.json`.

    root: holds `ImageSets/val.txt` and, so that renamed drives are recognised, the validation frames' sweeps.
    mapping: the folder of the devkit's mapping files. every: take each n-th frame of a drive. only_training_drives:
    leave out drives without a training frame of the benchmark too, for nobody knows which of them its test frames are
    from. progress: called with (drives done, drives in all).

    Raises InputError where a validation drive stands under another name, and where files are missing or damaged.
    """
    if every < 1:
        raise InputError(f"every: expected to take each 1st, 2nd, ... frame, got {every}")
    layout, drives = KittiLayout(Path(root)), _drive_folders(Path(raw_root))
    validation = _validation_drives(read_split(layout.split("val")), mapping)
    left_out = {
        drive.name: f"holds validation frame {frame}" for drive in drives if (frame := validation.get(drive.name))
    }
    if only_training_drives:
        unknown = {drive.name for drive in drives} - set(read_drives(mapping))
        left_out |= dict.fromkeys(sorted(unknown), "holds no training frame: test frames may be from it")
    kept = [drive for drive in drives if drive.name not in left_out]
    before = _read_record(layout)
    _refuse_validation_drives(before, before, validation, where=layout.root / RECORD)
    _refuse_known_sweeps(kept, layout)
    calibrations = {date: read_raw_calibration(date) for date in sorted({drive.parent for drive in kept})}
    record = _numbered(before, [source for drive in kept for source in _complete_frames(drive)[::every]])
    document = {"schema": "monoskd/raw/1", "left_out": left_out, "frames": record}
    write_atomically(layout.root / RECORD, (json.dumps(document, indent=1) + "\n").encode())
    frames = {source: frame for frame, source in record.items()}
    for done, drive in enumerate(kept, start=1):
        for source in _complete_frames(drive):
            if source in frames:
                _add_frame(layout, frames[source], Path(raw_root) / source, calibrations[drive.parent])
        if progress is not None:
            progress(done, len(kept))
    write_split(layout.split(UNLABELLED), sorted(record))
    return RawReport(frames=len(record), added=len(record) - len(before), left_out=left_out)


def check_unlabelled(root: str | Path, *, split: str = UNLABELLED, mapping: str | Path | None = None) -> list[str]:
    """The frames of an unlabelled split, after making sure that none of them gives validation away.

    Raises InputError where one of them is a validation frame or has a label, where one is from a drive that
    `prepare_raw` left out, and, with the devkit's `mapping`, where one is from a validation drive, whatever was
    recorded.
    """
    layout = KittiLayout(Path(root))
    path, val = layout.split(split), layout.split("val")
    frames, validation = read_split(path), set(read_split(val)) if val.is_file() else set()
    record, left_out = _read_record(layout), _read_left_out(layout)
    for frame in frames:
        if (drive := _drive(record, frame)) in left_out:
            raise InputError(
                f"{path}: expected no frame of a drive that was left out, got {frame} of {drive}, which "
                f"{left_out[drive]}: take it out"
            )
    if mapping is not None:
        _refuse_validation_drives(record, frames, _validation_drives(validation, mapping), where=path)
    for frame in frames:
        if frame in validation:
            raise InputError(f"{path}: expected no validation frame, got {frame}: take it out")
        if layout.label(frame).exists():
            raise InputError(f"{path}: expected frames without a label, got {frame}, which has one: take it out")
    return frames


def read_drives(mapping: str | Path) -> list[str]:
    """The drive of each of the benchmark's training frames, from the devkit's two mapping files in a folder.

    Frame i stands on line `train_rand[i]` (counted from 1) of `train_mapping.txt`: date, drive, raw frame.
    """
    table, order = Path(mapping) / "train_mapping.txt", Path(mapping) / "train_rand.txt"
    drives = []
    for number, line in enumerate(read_text(table).splitlines(), start=1):
        words = line.split()
        if len(words) != 3:
            raise InputError(f"{table}, line {number}: expected date, drive and frame, got '{line}': copy it again")
        drives.append(words[1])
    places = [word.strip() for word in read_text(order).replace("\n", ",").split(",") if word.strip()]
    if sorted(places) != sorted(str(place) for place in range(1, len(drives) + 1)):
        raise InputError(
            f"{order}: expected each of the {len(drives)} lines of {table.name} once, got {len(places)} entries that "
            "are not that: copy both files from one devkit"
        )
    return [drives[int(place) - 1] for place in places]


def read_raw_calibration(date: Path) -> Calibration:
    """The calibration of a day's drives, from the folder that holds `calib_cam_to_cam.txt` and its neighbours."""
    cameras = _read_matrices(date / "calib_cam_to_cam.txt", {raw: (3, 3 if raw[0] == "R" else 4) for raw in _CAMERAS})
    rigid = {"Tr_velo_to_cam": date / "calib_velo_to_cam.txt", "Tr_imu_to_velo": date / "calib_imu_to_velo.txt"}
    if not rigid["Tr_imu_to_velo"].exists():  # nothing here needs it
        del rigid["Tr_imu_to_velo"]
    parts = {key: _read_matrices(path, {"R": (3, 3), "T": (3, 1)}) for key, path in rigid.items()}
    transforms = {key: np.concatenate([part["R"], part["T"]], axis=1) for key, part in parts.items()}
    return Calibration(**{_CAMERAS[raw]: matrix for raw, matrix in cameras.items()}, **transforms)


def _read_matrices(path: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, FloatArray]:
    found = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        key, _, numbers = line.partition(":")
        if key in shapes:
            found[key] = parse_matrix(numbers.split(), shape=shapes[key], where=f"{path}, line {number}, {key}")
    missing = [key for key in shapes if key not in found]
    if missing:
        raise InputError(f"{path}: expected a line '{missing[0]}: ...', got none: copy the file again")
    return found


def _drive_folders(raw_root: Path) -> list[Path]:
    """The folders `raw_root/DATE/DATE_drive_NNNN_sync`, sorted."""
    drives = sorted(path.parent for path in raw_root.glob("*/*/velodyne_points"))
    if not drives:
        raise InputError(
            f"{raw_root}: expected raw drives such as 2011_09_26/2011_09_26_drive_0001_sync/velodyne_points, got none: "
            "check the path"
        )
    return drives


def _validation_drives(validation: Iterable[str], mapping: str | Path) -> dict[str, str]:
    """The drives that hold a validation frame, each with the first of them."""
    drives = read_drives(mapping)
    unknown = sorted(frame for frame in validation if int(frame) >= len(drives))
    if unknown:
        raise InputError(
            f"{mapping}: expected every validation frame below {len(drives)}, got {unknown[0]}: check val.txt"
        )
    return {drives[int(frame)]: frame for frame in sorted(validation, reverse=True)}


def _refuse_validation_drives(
    record: Mapping[str, str], frames: Iterable[str], forbidden: Mapping[str, str], *, where: Path
) -> None:
    """Raise where one of the frames was recorded by a forbidden drive."""
    for frame in frames:
        if (drive := _drive(record, frame)) in forbidden:
            raise InputError(
                f"{where}: expected no frame of a validation drive, got {frame} of {drive}, which holds validation "
                f"frame {forbidden[drive]}: take it out"
            )


def _refuse_known_sweeps(drives: Sequence[Path], layout: KittiLayout) -> None:
    """Raise where a drive holds the very sweep of a validation frame, whatever the drive is called."""
    of_size: dict[int, list[Path]] = {}
    for frame in read_split(layout.split("val")):
        if layout.velodyne(frame).exists():
            of_size.setdefault(layout.velodyne(frame).stat().st_size, []).append(layout.velodyne(frame))
    for drive in drives:
        for sweep in sorted((drive / "velodyne_points" / "data").glob("*.bin")):
            for known in of_size.get(sweep.stat().st_size, []):
                if _digest(sweep) == _digest(known):
                    raise InputError(
                        f"{sweep}: expected no sweep of validation, got that of frame {known.stem}: the drive is one "
                        "of validation under another name, remove it"
                    )


def _digest(path: Path) -> bytes:
    return hashlib.sha256(read_bytes(path)).digest()


def _complete_frames(drive: Path) -> list[str]:
    """`date/drive/frame` of the frames that have a picture and a sweep, sorted; KITTI's LiDAR lacks a few."""
    images = {path.stem for path in (drive / "image_02" / "data").glob("*.*") if path.suffix in _IMAGE_SUFFIXES}
    sweeps = {path.stem for path in (drive / "velodyne_points" / "data").glob("*.bin")}
    if not images & sweeps:
        raise InputError(
            f"{drive}: expected image_02/data and velodyne_points/data, got no frame with both: copy it again"
        )
    return [f"{drive.parent.name}/{drive.name}/{name}" for name in sorted(images & sweeps)]


def _numbered(record: Mapping[str, str], sources: Sequence[str]) -> dict[str, str]:
    """`record` (frame to source) with a free number for each source that is not in it yet."""
    known = set(record.values())
    free = max((int(frame) for frame in record), default=FIRST_FRAME - 1) + 1
    new = [source for source in sources if source not in known]
    if free + len(new) > 1_000_000:
        raise InputError(f"raw frames: expected numbers of six digits to suffice, got {len(new)} frames: raise `every`")
    return {**record, **{f"{free + index:06d}": source for index, source in enumerate(new)}}


def _add_frame(layout: KittiLayout, frame: str, source: Path, calibration: Calibration) -> None:
    """Link the picture and the sweep of `source` = raw_root/date/drive/frame, and write the calibration."""
    images = (source.parent / "image_02" / "data").glob(f"{source.name}.*")
    image = next(path for path in sorted(images) if path.suffix in _IMAGE_SUFFIXES)
    _link(layout.folder("image_2") / f"{frame}{image.suffix}", image)
    _link(layout.velodyne(frame), source.parent / "velodyne_points" / "data" / f"{source.name}.bin")
    if not layout.calibration(frame).exists():
        write_calibration(layout.calibration(frame), calibration)


def _link(path: Path, target: Path) -> None:
    target = target.resolve()
    if path.is_symlink() and path.readlink() == target:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    except OSError as error:
        raise InputError(
            f"{path}: expected to link {target} here, got '{error.strerror}': remove what is there"
        ) from error


def _drive(record: Mapping[str, str], frame: str) -> str:
    """The drive that the frame was recorded by; nothing where nobody wrote it down."""
    return Path(record[frame]).parts[1] if frame in record else ""


def _read_left_out(layout: KittiLayout) -> dict[str, str]:
    """The drives that earlier runs left out, and why."""
    path = layout.root / RECORD
    left_out: dict[str, str] = json.loads(read_text(path)).get("left_out", {}) if path.exists() else {}
    return left_out


def _read_record(layout: KittiLayout) -> dict[str, str]:
    """Frame to `date/drive/raw frame`, of what earlier runs added."""
    path = layout.root / RECORD
    if not path.exists():
        return {}
    try:
        return {str(frame): str(source) for frame, source in json.loads(read_text(path))["frames"].items()}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected the record of an earlier run, got something else: remove it") from error
