"""Pictures to predict: an image, a folder, a glob, a list, a video or a camera, read ahead in a thread."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from glob import glob, has_magic
from itertools import count
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import is_whole_number, read_text, visible
from monoskd.images import IMAGE_SUFFIXES, opened
from monoskd.inference.containers import is_cut_off
from monoskd.kitti.io import read_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_FOLDER_SUFFIXES = (*IMAGE_SUFFIXES, ".mpo", ".jpe", ".ppm", ".heic", ".heif")  # the last two: to say that none is read
_EXIF_IFD, _FOCAL_35MM = 0x8769, 0xA405
_MISSING_SHARE, _MISSING_FRAMES = 0.02, 1  # of a video: what a whole file's header may count too much
_FRAMES_A_SECOND = 10.0  # of a video that is made of pictures


@dataclass(frozen=True)
class Picture:
    """One picture, RGB h x w x 3. stem: its name in what is written; focal_35mm: as its EXIF says, if it does."""

    stem: str
    image: NDArray[np.uint8]
    focal_35mm: float | None = None


@dataclass(frozen=True)
class Broken:
    """A picture that cannot be read, or the end of a video that is missing. reason: one line that names it."""

    reason: str


@dataclass(frozen=True)
class Pictures:
    """A source that is open.

    total: how many pictures there are, 0 if unknown; files: what is read from; left_out: videos of a folder.
    """

    total: int
    items: Iterator[Picture | Broken]
    files: tuple[Path, ...] = ()
    frames_a_second: float = _FRAMES_A_SECOND
    left_out: tuple[Path, ...] = ()


def open_source(source: str | Path) -> Pictures:
    """The pictures of an image, a folder, a glob pattern, a text file with a path a line, a video or a camera number.

    Files whose results would have the same name are `Broken`. Raises InputError where there are no pictures.
    """
    path = Path(source)
    if path.is_dir():
        entries = visible(path.iterdir())
        paths = [path for path in entries if path.suffix.lower() in _FOLDER_SUFFIXES]
        videos = tuple(path for path in entries if path.suffix.lower() in VIDEO_SUFFIXES)
        if not paths:
            got = f"{videos[0].name}: predict videos one by one" if videos else "none"
            raise InputError(f"{source}: expected images ({', '.join(IMAGE_SUFFIXES)}), got {got}")
        return replace(_of_files(paths, source), left_out=videos)
    if not path.exists():
        if is_whole_number(str(source)):
            return _video(source, int(str(source)))
        if not has_magic(str(source)):
            raise InputError(f"{source}: no such image, folder or video")
        names = glob(str(source), recursive=True)  # noqa: PTH207 - a pattern with a folder of its own, maybe absolute
        paths = [path for path in visible(map(Path, names)) if path.is_file()]
        if not paths:
            raise InputError(f"{source}: expected files of this pattern, got none: check it")
        return _of_files(paths, source)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _video(source, str(path), files=(path,))
    if path.suffix.lower() == ".txt":
        return _of_files(_listed(path), source)
    return _of_files([path], source)


def _listed(path: Path) -> list[Path]:
    """The files that a text file names, one a line, relative to it. Raises InputError for a first line that is none."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    paths = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not paths or not paths[0].is_file():
        found = f"'{paths[0].name:.40}', which is none" if paths else "no line"
        raise InputError(f"{path}: expected an image or a list of images, a path a line, got {found}: check it")
    return paths


def _of_files(paths: list[Path], source: str | Path) -> Pictures:
    paths = list(dict.fromkeys(paths))  # a list may name one twice
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(path.stem, []).append(path)

    def item(alike: list[Path]) -> Picture | Broken:
        if len(alike) == 1:
            return read_picture(alike[0])
        return Broken(
            f"{source}: expected names that differ, got {alike[0]} and {alike[1]}: rename one, or predict them with an "
            "`--out` each"
        )

    return Pictures(len(by_stem), map(item, by_stem.values()), files=tuple(paths))


def read_picture(path: Path) -> Picture | Broken:
    """The picture in a file, whose name it takes."""
    try:
        return Picture(path.stem, read_image(path), focal_35mm(path))
    except InputError as error:
        return Broken(str(error))


def focal_35mm(file: Path | IO[bytes], *, formats: tuple[str, ...] | None = None) -> float | None:
    """The lens' focal length [mm] as if on 35 mm film, where the picture's EXIF has it.

    formats: as in `monoskd.images.decode_pixels`.
    """
    try:
        with opened(file, where="", formats=formats) as image:
            value = float(image.getexif().get_ifd(_EXIF_IFD).get(_FOCAL_35MM, 0))
    except Exception:  # damaged EXIF, in any of many ways, is none
        return None
    return value if 1 <= value <= 10_000 else None


def count_frames(video: Path) -> int:
    """How many pictures a video's header says that it has; 0 if it cannot be read."""
    capture = _capture(str(video))
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0


def quiet_opencv() -> None:
    """Let OpenCV keep its own messages about videos: what is wrong is said in one line."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # counts before the first video alone
    cv2.utils.logging.setLogLevel(0)


def _capture(target: str | int) -> Any:
    quiet_opencv()
    return cv2.VideoCapture(target)


def _video(source: str | Path, target: str | int, *, files: tuple[Path, ...] = ()) -> Pictures:
    capture = _capture(target)
    good, bgr = capture.read()
    if not good:
        if isinstance(target, int):
            raise InputError(f"{source}: expected the number of a camera that can be read, got none: is it connected?")
        raise InputError(
            f"{source}: expected a video that OpenCV can read, got something else or one that is cut off; try an .mp4 "
            "or a folder of images"
        )
    total = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if files else 0
    rate = capture.get(cv2.CAP_PROP_FPS)

    def items(good: bool, bgr: Any) -> Iterator[Picture | Broken]:
        for index in count():
            if not good:
                break
            yield Picture(f"{index:06d}", np.ascontiguousarray(bgr[..., ::-1]))
            good, bgr = capture.read()
        is_cut = any(map(is_cut_off, files))
        if total - index > (0 if is_cut else max(_MISSING_FRAMES, _MISSING_SHARE * total)):
            yield Broken(
                f"{source}: expected {total} frames, as its header says, got {index}: it is cut off or damaged"
            )
        elif is_cut:
            yield Broken(
                f"{source}: expected a whole video, got one without its end: it is cut off, and the last of its "
                f"{index} frames may be damaged"
            )
        capture.release()

    rate = rate if np.isfinite(rate) and 1 <= rate <= 1000 else _FRAMES_A_SECOND
    return Pictures(total, items(good, bgr), files, rate)
