"""A detector's results on `testing` as the archive that KITTI's server takes."""

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import atomic_path, check_output
from monoskd.frames import AnyPredictor
from monoskd.inference.cameras import CameraSource
from monoskd.inference.lens import Lens
from monoskd.inference.pictures import Picture, read_picture
from monoskd.inference.predict import check_pictures_suffice, predict_pictures, with_lens
from monoskd.kitti.io import format_objects, parse_objects, read_split
from monoskd.kitti.layout import KittiLayout
from monoskd.objects import Objects
from monoskd.workers import groups, read_ahead

KITTI_FRAMES = 7518  # of KITTI's own testing part: 000000 to 007517
KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist")  # that its server counts
MOST_BYTES = 2**20  # of one frame's results
_LARGEST_ANGLE = math.pi + 1e-6  # pi, rounded to six decimals
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the date of every file, so that equal results are equal archives


@dataclass(frozen=True)
class Submission:
    """What an archive holds. empty: frames without a detection; dropped: detections that KITTI does not count."""

    frames: tuple[str, ...]
    detections: int
    empty: int
    dropped: int

    @property
    def is_complete(self) -> bool:
        """Whether these are the frames that KITTI's server asks for."""
        return self.frames == tuple(f"{number:06d}" for number in range(KITTI_FRAMES))


def write_submission(
    predictor: AnyPredictor,
    root: Path,
    out: Path,
    *,
    score: float = 0.0,
    batch_size: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Submission:
    """Predict every frame of `root/testing` and write the archive: `<frame>.txt` for each, no folder.

    A frame without detections has an empty file. score: least score. The archive is read again and checked before it
    takes its name; on an error the file that was there before stays. Detections that are not `in_range` are left
    out, as KITTI asks; so are those beside the picture, as `predict` does.

    Raises InputError before any prediction for a name that does not end in .zip, for a depth network, for one whose
    classes the server does not know, and where pictures or calibrations are missing.
    """
    check_output(out, suffix=".zip")
    _check_detector(predictor)
    layout = KittiLayout(root, "testing")
    frames = testing_frames(layout)
    counts: list[int] = []
    dropped = 0
    with atomic_path(out) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for frame, objects in _detections(predictor, layout, frames, score=score, batch_size=batch_size):
                valid = in_range(objects)
                archive.writestr(_entry(frame), format_objects(objects[valid]))
                counts.append(int(valid.sum()))
                dropped += len(objects) - counts[-1]
                progress(len(counts), len(frames))
        check_archive(partial, frames, name=out)
    return Submission(tuple(frames), sum(counts), counts.count(0), dropped)


def testing_frames(layout: KittiLayout) -> list[str]:
    """The frames to predict: all pictures, and those of `ImageSets/test.txt` if there is one.

    Raises InputError where there are none, and where a frame lacks its picture or its calibration.
    """
    pictures = layout.frames("image_2")
    listed = read_split(layout.split("test")) if layout.split("test").is_file() else []
    frames = sorted({*pictures, *listed})
    if not frames:
        raise InputError(
            f"{layout.folder('image_2')}: expected the pictures of KITTI's testing part, got none: give the folder "
            "that holds `testing` as `--data`"
        )
    for kind, present in (("image_2", pictures), ("calib", layout.frames("calib"))):
        if missing := sorted({*frames} - {*present}):
            raise InputError(
                f"{layout.folder(kind)}: expected a file for each of {len(frames)} frames, got none for {len(missing)} "
                f"(the first is {missing[0]}): add them"
            )
    return frames


def in_range(objects: Objects) -> NDArray[np.bool_]:
    """Which detections KITTI's evaluation can count: finite numbers, boxes with an area, dimensions above 0 m, angles
    within a turn.

    Judged as they are written, with six decimals.
    """
    assert objects.scores is not None
    box, dimensions = objects.boxes_2d.round(6), objects.dimensions.round(6)
    angles = np.stack([objects.alpha, objects.yaw], 1)
    numbers = np.concatenate([box, dimensions, objects.bottom, angles, objects.scores[:, None]], 1)
    valid: NDArray[np.bool_] = (
        np.isfinite(numbers).all(1)
        & (box[:, :2] < box[:, 2:]).all(1)
        & (dimensions > 0).all(1)
        & (np.abs(angles) <= _LARGEST_ANGLE).all(1)
    )
    return valid


def check_archive(path: Path, frames: Sequence[str], *, name: Path | None = None) -> None:
    """Raise InputError for an archive that KITTI's server would refuse: what it holds, file by file.

    frames: those that must be there. name: what errors call the archive.
    """
    where = path if name is None else name
    try:
        with zipfile.ZipFile(path) as archive:
            _check_names(archive.namelist(), frames, where)
            for entry in archive.infolist():
                if entry.file_size > MOST_BYTES:
                    raise InputError(
                        f"{where}, {entry.filename}: expected at most {MOST_BYTES} bytes, got {entry.file_size}: "
                        "give a higher `--score`"
                    )
                _check_results(archive.read(entry), source=f"{where}, {entry.filename}")
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{where}: expected a zip archive, got '{error}': write it again") from error


def _check_names(names: Sequence[str], frames: Sequence[str], where: Path) -> None:
    if folder := next((name for name in names if "/" in name), None):
        raise InputError(f"{where}: expected files without a folder, got {folder}: zip the files, not their folder")
    wanted = {f"{frame}.txt" for frame in frames}
    if missing := sorted(wanted - {*names}):
        raise InputError(
            f"{where}: expected {len(wanted)} files, got none for {len(missing)} (the first is {missing[0]}): a frame "
            "without detections needs an empty file"
        )
    if strange := next((name for name in names if name not in wanted or names.count(name) > 1), None):
        raise InputError(f"{where}: expected one file for each of {len(wanted)} frames, got also {strange}: remove it")


def _check_results(content: bytes, *, source: str) -> None:
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: expected ASCII text, got other bytes at offset {error.start}: write it again"
        ) from error
    objects = parse_objects(text, source=source, scored=True)
    if len(bad := np.flatnonzero(~in_range(objects))):
        raise InputError(
            f"{source}, object {bad[0] + 1}: expected left < right, top < bottom, dimensions above 0 m and angles from "
            f"-pi to pi, got '{format_objects(objects[bad[:1]]).strip()}': leave it out"
        )


def _check_detector(predictor: AnyPredictor) -> None:
    check_pictures_suffice(predictor)
    if not {*predictor.classes} & {*KITTI_CLASSES}:
        raise InputError(
            f"model: expected a detector of {', '.join(KITTI_CLASSES)}, got one of {', '.join(predictor.classes)}: "
            "KITTI's server counts no others"
        )


def _detections(
    predictor: AnyPredictor, layout: KittiLayout, frames: Sequence[str], *, score: float, batch_size: int
) -> Iterator[tuple[str, Objects]]:
    """Every frame and what `predict` detects there."""
    cameras = CameraSource(calibration=layout.folder("calib"))

    def read(name: str) -> tuple[Picture, Lens]:
        return with_lens(read_picture(layout.image(name)), cameras)

    for pairs in groups(read_ahead(map(read, frames), most=2 * batch_size), batch_size):
        for prediction in predict_pictures(predictor, pairs, score=score):
            yield prediction.picture.stem, prediction.objects


def _entry(frame: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"{frame}.txt", _OLDEST)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
