"""Where the files of a data set lie."""

from dataclasses import dataclass
from pathlib import Path

UNLABELLED = "unlabelled"  # the split of frames without labels
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class KittiLayout:
    """Where the files of a data set in KITTI's object layout lie.

    `root/ImageSets/<split>.txt` lists the frames of a split; `root/<part>/<kind>/NNNNNN.*` are the files of a frame.
    """

    root: Path
    part: str = "training"

    def split(self, name: str) -> Path:
        """The list of a split's frames."""
        return self.root / "ImageSets" / f"{name}.txt"

    def folder(self, kind: str) -> Path:
        """The folder of one kind of file: `image_2`, `calib`, `label_2`, `velodyne` or `depth_2`."""
        return self.root / self.part / kind

    def image(self, frame: str) -> Path:
        """The picture; the `.png` unless only a `.jpg` or `.jpeg` is there."""
        candidates = [self.folder("image_2") / f"{frame}{suffix}" for suffix in _IMAGE_SUFFIXES]
        return next((path for path in candidates if path.exists()), candidates[0])

    def calibration(self, frame: str) -> Path:
        """The calibration."""
        return self.folder("calib") / f"{frame}.txt"

    def label(self, frame: str) -> Path:
        """The labelled objects."""
        return self.folder("label_2") / f"{frame}.txt"

    def held_back(self, frame: str) -> Path:
        """What is true of a frame that counts as one without labels: to measure with, not to train on."""
        return self.folder("label_held_back") / f"{frame}.txt"

    def velodyne(self, frame: str) -> Path:
        """The LiDAR sweep."""
        return self.folder("velodyne") / f"{frame}.bin"

    def depth(self, frame: str) -> Path:
        """The dense depth map that `monoskd prepare` writes."""
        return self.folder("depth_2") / f"{frame}.png"

    def frames(self, kind: str) -> list[str]:
        """The sorted frames that have a file of this kind; none where the folder is missing."""
        folder = self.folder(kind)
        return sorted({path.stem for path in folder.iterdir() if is_frame(path.stem)}) if folder.is_dir() else []


def is_frame(name: str) -> bool:
    """Whether `name` is a frame's name: six digits."""
    return len(name) == 6 and name.isascii() and name.isdigit()
