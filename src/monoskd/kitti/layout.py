"""Where the files of a data set lie."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from monoskd.errors import InputError
from monoskd.files import is_there, visible
from monoskd.images import IMAGE_SUFFIXES

ONE_FILE = "remove one, or rename it if it is another frame's"  # what to do about two
UNLABELLED = "unlabelled"  # the split of frames without labels

# What the readers read of each kind of file, in upper or lower case.
_SUFFIXES = {
    "image_2": IMAGE_SUFFIXES,
    "calib": (".txt",),
    "label_2": (".txt",),
    "label_held_back": (".txt",),
    "velodyne": (".bin",),
    "depth_2": (".png",),
}
_SPELLINGS = {
    kind: [
        "".join(letters)
        for suffix in suffixes
        for letters in product(*(dict.fromkeys((letter, letter.upper())) for letter in suffix))
    ]
    for kind, suffixes in _SUFFIXES.items()
}
_SECOND_DOWNLOAD = re.compile(r"(.+?) ?\(\d+\)")  # what browsers make of a name that is there already


@dataclass(frozen=True)
class KittiLayout:
    """Where the files of a data set in KITTI's object layout lie.

    `root/ImageSets/<split>.txt` lists the frames of a split; `root/<part>/<kind>/<frame>.*` are the files of a frame.
    """

    root: Path
    part: str = "training"

    def split(self, name: str) -> Path:
        """The list of a split's frames."""
        return self.root / "ImageSets" / f"{name}.txt"

    def splits(self) -> list[str]:
        """The sorted names of the splits that have a list."""
        return sorted(path.stem for path in _visible_in(self.root / "ImageSets") if path.suffix == ".txt")

    def folder(self, kind: str) -> Path:
        """The folder of one kind of file: `image_2`, `calib`, `label_2`, `velodyne` or `depth_2`."""
        return self.root / self.part / kind

    def file(self, kind: str, frame: str) -> Path:
        """The frame's file of this kind; the usual path where there is none."""
        return frame_file(self.folder(kind), kind, frame)

    def image(self, frame: str) -> Path:
        """The picture."""
        return self.file("image_2", frame)

    def calibration(self, frame: str) -> Path:
        """The calibration."""
        return self.file("calib", frame)

    def label(self, frame: str) -> Path:
        """The labelled objects."""
        return self.file("label_2", frame)

    def held_back(self, frame: str) -> Path:
        """The true objects of a frame that counts as one without labels: to measure with, not to train on."""
        return self.file("label_held_back", frame)

    def velodyne(self, frame: str) -> Path:
        """The LiDAR sweep."""
        return self.file("velodyne", frame)

    def depth(self, frame: str) -> Path:
        """The dense depth map that `monoskd prepare` writes."""
        return self.file("depth_2", frame)

    def files(self, kind: str) -> dict[str, list[Path]]:
        """The files of this kind that the readers read, by frame; a right frame has one. See `files_in`."""
        return {frame: paths for frame, paths in files_in(self.folder(kind), kind).items() if is_frame(frame)}

    def frames(self, kind: str) -> list[str]:
        """The sorted frames that have a file of this kind that is read. Raises InputError where one has two."""
        return [frame for frame in frames_in(self.folder(kind), kind) if is_frame(frame)]

    def unread_files(self, kind: str) -> list[Path]:
        """What lies in the folder of a kind and is not read; hidden files aside."""
        return [path for path in _visible_in(self.folder(kind)) if not (has_suffix(path, kind) and is_frame(path.stem))]


def files_in(folder: Path, kind: str) -> dict[str, list[Path]]:
    """The visible files of a kind in a folder by frame, sorted; none where there is no folder.

    `a.txt`, `a.TXT` and `a (1).txt` beside one of them, a browser's second download, are files of the frame `a`.
    """
    paths = [path for path in _visible_in(folder) if has_suffix(path, kind)]
    stems, by_frame = {path.stem for path in paths}, dict[str, list[Path]]()
    for path in paths:
        again = _SECOND_DOWNLOAD.fullmatch(path.stem)
        by_frame.setdefault(again[1] if again and again[1] in stems else path.stem, []).append(path)
    return dict(sorted(by_frame.items()))


def frames_in(folder: Path, kind: str) -> list[str]:
    """The sorted frames that have a file of this kind in a folder. Raises InputError where one has two."""
    return list(file_of_each(folder, kind))


def file_of_each(folder: Path, kind: str) -> dict[str, Path]:
    """The file of this kind of each frame in a folder, sorted. Raises InputError where a frame has two."""
    files = files_in(folder, kind)
    for paths in files.values():
        if paths[1:]:
            raise InputError(f"{folder}: {two_files(paths)}: {ONE_FILE}")
    return {frame: paths[0] for frame, paths in files.items()}


def two_files(paths: list[Path]) -> str:
    """What is wrong with a frame that has several files."""
    return f"expected one file for each frame, got {paths[0].name} and {paths[1].name}"


def _visible_in(folder: Path) -> list[Path]:
    """What a folder holds; nothing where there is none. Raises InputError for a file or a broken link in its place."""
    if not is_there(folder):
        return []
    try:
        return visible(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: expected a folder, got '{error.strerror}': check it, or where it links") from error


def frame_file(folder: Path, kind: str, frame: str) -> Path:
    """The frame's file of this kind in a folder, however its suffix is spelt; the usual path where there is none."""
    spellings = _SPELLINGS[kind]
    candidates = (folder / f"{frame}{suffix}" for suffix in spellings)
    return next(filter(is_there, candidates), folder / f"{frame}{spellings[0]}")


def has_suffix(path: Path, kind: str) -> bool:
    """Whether the readers of this kind of file take one that ends so."""
    return path.suffix.lower() in _SUFFIXES[kind]


def suffixes(kind: str) -> str:
    """The suffixes of a kind of file, for messages."""
    return ", ".join(_SUFFIXES[kind])


def is_frame(name: str) -> bool:
    """Whether `name` can name a frame: the stem of a visible file, without a path."""
    return name == name.strip() != "" and not name.startswith(".") and "/" not in name and name.isprintable()


def meant(name: str, frames: Iterable[str]) -> str:
    """` (is it ...?)` with the frame that a name seems to mean; empty where it resembles none.

    Names are written with a suffix, with other zeros in front, in other case, or with accents as macOS stores them.
    """
    plain = {_plain(frame): frame for frame in frames}
    guess = plain.get(_plain(name)) or plain.get(_plain(Path(name).stem))
    return f" (is it {guess}?)" if guess and guess != name else ""


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower().lstrip("0")


def is_kitti_number(name: str) -> bool:
    """Whether `name` is a frame of six digits, as KITTI's own frames and its server have them."""
    return len(name) == 6 and name.isascii() and name.isdigit()
