"""KITTI's raw drives as frames without labels in the object layout, without validation drives (see `leakage`)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monoskd.errors import InputError
from monoskd.files import link, read_text, visible
from monoskd.kitti.io import Calibration, FloatArray, parse_matrix, read_split, write_calibration, write_split
from monoskd.kitti.layout import UNLABELLED, KittiLayout, file_of_each, is_kitti_number
from monoskd.kitti.leakage import (
    Fingerprints,
    RawRecord,
    by_origin,
    drive_of,
    drives_behind,
    read_drives,
    validation_drives,
)

FIRST_FRAME = 100_000  # KITTI's own frames end at 007480
_KINDS = ("image_2", "calib", "label_2", "velodyne", "depth_2")

_CAMERAS = {"P_rect_00": "P0", "P_rect_01": "P1", "P_rect_02": "P2", "P_rect_03": "P3", "R_rect_00": "R0_rect"}


@dataclass(frozen=True)
class RawReport:
    """What `prepare_raw` did.

    frames: of the unlabelled split; added: new ones among them; left_out: drives, by folder name, and the reasons.
    unknown: validation frames that have neither picture nor sweep here, so copies of them cannot be recognised.
    own: validation frames without a benchmark number, which the mapping does not list.
    """

    frames: int
    added: int
    left_out: Mapping[str, str]
    unknown: int
    own: int = 0

    def __str__(self) -> str:
        text = f"{self.frames} frames without labels, {self.added} of them new; {len(self.left_out)} drives left out"
        if self.unknown:
            text += (
                f"; {self.unknown} validation frames have neither picture nor sweep here: a renamed drive that holds "
                "them would not be noticed"
            )
        if self.own:
            text += f"; {self.own} validation frames are not in the mapping: they count as frames of no KITTI drive"
        return text


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

    Images and sweeps are linked, not copied. New frames get free numbers of six digits from 100000 on and keep them
    when more are added; other frames of the data set may have any names. `root/raw_frames.json` records where
    each frame came from, and which drives were left out and why.

    root: holds `ImageSets/val.txt` and, so that renamed drives are recognised, the validation frames' pictures or
    sweeps. mapping: the folder of the devkit's mapping files. every: take each n-th frame of a drive.
    only_training_drives: also leave out drives without a training frame of the benchmark, since its test frames may be
    from them. progress: called with (drives done, drives in all).

    Raises InputError where a validation drive has another name, where a folder is not named as KITTI names drives, and
    where files are missing or damaged.
    """
    if every < 1:
        raise InputError(f"every: expected to take each 1st, 2nd, ... frame, got {every}")
    layout, drives = KittiLayout(Path(root)), drive_folders(Path(raw_root))
    validation = read_split(layout.split("val"))
    forbidden = validation_drives(validation, mapping)
    allowed = set(read_drives(mapping)) if only_training_drives else None
    reasons = {drive: _why_not(drive, forbidden, allowed) for drive in drives}
    kept = [drive for drive, reason in reasons.items() if reason is None]
    left_out = {drive.name: reason for drive, reason in reasons.items() if reason is not None}
    if not kept:
        raise InputError(
            f"{raw_root}: expected a drive that can be used, got {len(left_out)} that are left out: "
            + "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        )
    fingerprints = Fingerprints(layout, validation)
    for drive in kept:
        refuse_validation_drive(drive, fingerprints)
    calibrations = {date: read_raw_calibration(date) for date in sorted({drive.parent for drive in kept})}

    before, names = RawRecord.read(layout.root), {drive.name for drive in drives}
    _refuse_validation(before, forbidden, where=layout.split(UNLABELLED))
    staying = {frame: source for frame, source in before.frames.items() if Path(source).parts[1] not in left_out}
    complete = {drive: _complete_frames(drive) for drive in kept}
    sources = [source for files in complete.values() for source in [*files][::every]]
    frames = _numbered(staying, taken=before.frames.keys() | _numbers_in(layout), sources=sources)
    earlier = {name: reason for name, reason in before.left_out.items() if name not in names}
    RawRecord(frames, {**earlier, **left_out}, forbidden).write(layout.root)
    of_source = {source: frame for frame, source in frames.items()}
    for done, (drive, files) in enumerate(complete.items(), start=1):
        for source, (image, sweep) in files.items():
            if source in of_source:
                _add_frame(layout, of_source[source], image, sweep, calibrations[drive.parent])
        if progress is not None:
            progress(done, len(kept))
    listed = _listed(layout, before, frames)
    _refuse_broken_links(layout, listed)
    write_split(layout.split(UNLABELLED), listed)
    return RawReport(
        frames=len(listed),
        added=len(frames.keys() - before.frames.keys()),
        left_out=left_out,
        unknown=len(fingerprints.unknown),
        own=len(by_origin(validation, frames=len(read_drives(mapping)))[1]),
    )


def read_raw_calibration(date: Path) -> Calibration:
    """The calibration of a day's drives, from the folder that holds `calib_cam_to_cam.txt` and its neighbours."""
    cameras = _read_matrices(date / "calib_cam_to_cam.txt", {raw: (3, 3 if raw[0] == "R" else 4) for raw in _CAMERAS})
    rigid = {"Tr_velo_to_cam": date / "calib_velo_to_cam.txt", "Tr_imu_to_velo": date / "calib_imu_to_velo.txt"}
    if not rigid["Tr_imu_to_velo"].exists():  # not needed
        del rigid["Tr_imu_to_velo"]
    parts = {key: _read_matrices(path, {"R": (3, 3), "T": (3, 1)}) for key, path in rigid.items()}
    transforms = {key: np.concatenate([part["R"], part["T"]], axis=1) for key, part in parts.items()}
    return Calibration(**{_CAMERAS[raw]: matrix for raw, matrix in cameras.items()}, **transforms)


def _read_matrices(path: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, FloatArray]:
    matrices = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        key, _, numbers = line.partition(":")
        if key in shapes:
            matrices[key] = parse_matrix(numbers.split(), shape=shapes[key], where=f"{path}, line {number}, {key}")
    missing = [key for key in shapes if key not in matrices]
    if missing:
        raise InputError(f"{path}: expected a line '{missing[0]}: ...', got none: copy the file again")
    return matrices


def drive_folders(raw_root: Path) -> list[Path]:
    """The folders `raw_root/DATE/DATE_drive_NNNN_sync`, sorted. Raises InputError for other names, and for none."""
    drives = [path for path in visible(raw_root.glob("*/*drive*")) if path.is_dir()]
    if not drives:
        raise InputError(
            f"{raw_root}: expected raw drives such as 2011_09_26/2011_09_26_drive_0001_sync, got none: check the path"
        )
    for drive in drives:
        if drive_of(Path(drive.name)) is None:
            raise InputError(
                f"{drive}: expected a name such as 2011_09_26_drive_0001_sync, which names its drive, got "
                f"'{drive.name}': give it KITTI's name"
            )
    return drives


def _why_not(drive: Path, forbidden: Mapping[str, str], allowed: set[str] | None) -> str | None:
    """Why the drive is left out, or None; a link is judged by its own name and by its target."""
    for name in drives_behind(drive):
        if name in forbidden:
            return f"holds validation frame {forbidden[name]}"
        if allowed is not None and name not in allowed:
            return "holds no training frame: test frames may be from it"
    if drive.name.endswith("_extract"):
        return "is not rectified: its _sync download is"
    return None if _complete_frames(drive) else "has no frame with both a picture and a sweep"


def _refuse_validation(record: RawRecord, forbidden: Mapping[str, str], *, where: Path) -> None:
    """Raise where an earlier run added a drive that holds validation frames now."""
    for frame, source in record.frames.items():
        if (drive := drive_of(Path(source))) in forbidden:
            raise InputError(
                f"{where}: expected no frame of a validation drive, got {frame} of {drive}, which holds validation "
                f"frame {forbidden[str(drive)]}: take it out, and out of raw_frames.json"
            )


def refuse_validation_drive(drive: Path, fingerprints: Fingerprints) -> None:
    """Raise InputError where a drive of any name holds the picture or sweep of a validation frame."""
    for path in visible(path for sensor in ("velodyne_points", "image_02") for path in drive.glob(f"{sensor}/data/*")):
        if frame := fingerprints.same(path):
            raise InputError(
                f"{path}: expected no validation frame, got what frame {frame} has: the drive is a validation drive "
                "under another name, remove it"
            )


def _complete_frames(drive: Path) -> dict[str, tuple[Path, Path]]:
    """Picture and sweep by `date/drive/frame`, of the frames that have both; KITTI's LiDAR lacks a few."""
    pictures = file_of_each(drive / "image_02" / "data", "image_2")
    sweeps = file_of_each(drive / "velodyne_points" / "data", "velodyne")
    where = f"{drive.parent.name}/{drive.name}"
    return {f"{where}/{name}": (pictures[name], sweeps[name]) for name in sorted(pictures.keys() & sweeps.keys())}


def _numbers_in(layout: KittiLayout) -> set[str]:
    """The frames of six digits that the data set has already."""
    return {frame for kind in _KINDS for frame in layout.frames(kind) if is_kitti_number(frame)}


def _numbered(staying: Mapping[str, str], *, taken: Collection[str], sources: Sequence[str]) -> dict[str, str]:
    """`staying` (source by frame), and for each source that is not in it a new frame whose number is not `taken`."""
    known = set(staying.values())
    new = [source for source in sources if source not in known]
    free = (name for number in range(FIRST_FRAME, 1_000_000) if (name := f"{number:06d}") not in taken)
    numbered = dict(zip(free, new, strict=False))
    if len(numbered) < len(new):
        raise InputError(
            f"raw frames: expected free numbers of six digits, got {len(new)} new frames and {len(numbered)} numbers: "
            "raise `every`"
        )
    return {**staying, **numbered}


def _listed(layout: KittiLayout, before: RawRecord, frames: Mapping[str, str]) -> list[str]:
    """The split: what it lists already, without removed frames, with new ones. Frames that a user took out stay out."""
    path = layout.split(UNLABELLED)
    listed = set(read_split(path)) if path.is_file() else set(before.frames)
    return sorted((listed - (before.frames.keys() - frames.keys())) | (frames.keys() - before.frames.keys()))


def _refuse_broken_links(layout: KittiLayout, frames: Sequence[str]) -> None:
    """Raise where a frame's sweep is a broken link."""
    broken = [frame for frame in frames if layout.velodyne(frame).is_symlink() and not layout.velodyne(frame).exists()]
    if broken:
        raise InputError(
            f"{layout.velodyne(broken[0])}: expected a link to a sweep, got a broken one, as for {len(broken)} "
            "frames: call again with --raw where they are now, or take them out of the split"
        )


def _add_frame(layout: KittiLayout, frame: str, image: Path, sweep: Path, calibration: Calibration) -> None:
    """Link the picture and the sweep, and write the calibration."""
    link(layout.folder("image_2") / f"{frame}{image.suffix}", image.resolve())
    link(layout.velodyne(frame), sweep.resolve())
    if not layout.calibration(frame).exists():
        write_calibration(layout.calibration(frame), calibration)
