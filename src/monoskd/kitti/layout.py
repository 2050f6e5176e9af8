"""Where the files of a data set lie."""

from dataclasses import dataclass
from pathlib import Path

from monoskd.files import is_there, visible
from monoskd.images import IMAGE_SUFFIXES

UNLABELLED = "unlabelled"  # the split of frames without labels

# What the readers read of each kind of file; in lower case, in upper case or capitalised.
_SUFFIXES = {
    "image_2": IMAGE_SUFFIXES,
    "calib": (".txt",),
    "label_2": (".txt",),
    "label_held_back": (".txt",),
    "velodyne": (".bin",),
    "depth_2": (".png",),
}
_SPELLINGS = {
    kind: tuple(spelt for suffix in suffixes for spelt in (suffix, suffix.upper(), suffix.title()))
    for kind, suffixes in _SUFFIXES.items()
}


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

    def folder(self, kind: str) -> Path:
        """The folder of one kind of file: `image_2`, `calib`, `label_2`, `velodyne` or `depth_2`."""
        return self.root / self.part / kind

    def file(self, kind: str, frame: str) -> Path:
        """The frame's file of this kind; the usual path where there is none."""
        return frame_file(self.folder(kind), kind, frame)

    def image(self, frame: str) -> Path:
        """The picture; the `.png` if there are several."""
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

    def frames(self, kind: str) -> list[str]:
        """The sorted frames that have a file of this kind which the readers read; none where there is no folder."""
        return sorted({path.stem for path in self._entries(kind) if self._is_read(kind, path)})

    def strangers(self, kind: str) -> list[Path]:
        """What lies in the folder of a kind and is not read; hidden files aside."""
        return [path for path in self._entries(kind) if not self._is_read(kind, path)]

    def _entries(self, kind: str) -> list[Path]:
        folder = self.folder(kind)
        return visible(folder.iterdir()) if folder.is_dir() else []

    @staticmethod
    def _is_read(kind: str, path: Path) -> bool:
        return has_suffix(path, kind) and is_frame(path.stem)


def frame_file(folder: Path, kind: str, frame: str) -> Path:
    """The frame's file of this kind in a folder, however its suffix is spelt; the usual path where there is none."""
    candidates = [folder / f"{frame}{suffix}" for suffix in _SPELLINGS[kind]]
    return next(filter(is_there, candidates), candidates[0])


def has_suffix(path: Path, kind: str) -> bool:
    """Whether the readers of this kind of file take one that ends so."""
    return path.suffix in _SPELLINGS[kind]


def suffixes(kind: str) -> str:
    """The suffixes of a kind of file, for messages."""
    return ", ".join(_SUFFIXES[kind])


def is_frame(name: str) -> bool:
    """Whether `name` can name a frame: the stem of a visible file, without a path."""
    return name == name.strip() != "" and not name.startswith(".") and "/" not in name and name.isprintable()


def is_kitti_number(name: str) -> bool:
    """Whether `name` is a frame of six digits, as KITTI's own frames and its server have them."""
    return len(name) == 6 and name.isascii() and name.isdigit()
