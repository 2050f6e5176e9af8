"""What an importer tells of a recording: its pictures, what belongs to each, and how scenes are split."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import load_yaml, read_text
from monoskd.kitti.io import Calibration
from monoskd.objects import Objects


@dataclass(frozen=True)
class ClassMap:
    """The recording's categories to KITTI's class names; None leaves a category out.

    own: the user's entries, asked first; default: the format's. A key may be a pattern such as `vehicle.bus.*`.
    """

    default: Mapping[str, str | None]
    own: Mapping[str, str | None] = field(default_factory=dict)

    def __call__(self, *names: str) -> str | None:
        """The class of an object that goes by these names, the most specific first; None where no entry says one."""
        for entries in (self.own, self.default):
            for name in names:
                for pattern, kitti_class in entries.items():
                    if fnmatchcase(name, pattern):
                        return kitti_class
        return None


@dataclass(frozen=True)
class Frame:
    """What belongs to a picture, in KITTI's terms.

    objects: what it shows, None if nobody labelled it; tilt_deg: between the picture's up and the scene's;
    left_out: objects in the picture that become no label, by reason; noted: labels that are special, by what they are.
    """

    calibration: Calibration
    objects: Objects | None = None
    tilt_deg: float = 0.0
    left_out: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture(ABC):
    """One picture of a recording. It goes to a worker process, so it holds plain data.

    image: its file; origin: what the recording calls it; scene: the scene or drive, which is never split; token: its
    key in the recording's tables, if there are any; sweep: the LiDAR sweep that belongs to it; convert: whether
    `points` reads the sweep, else its file is KITTI's and is linked; number: of its frame, by default counted.
    """

    image: Path
    origin: str
    scene: str
    camera: str
    labelled: bool = True
    sweep: Path | None = None
    convert: bool = False
    token: str = ""
    number: int | None = None

    @abstractmethod
    def read(self, classes: ClassMap) -> Frame:
        """Work out what belongs to the picture. Raises InputError for what is damaged."""

    def points(self) -> NDArray[Any]:
        """The sweep as n x 4: x forward, y left, z up [m], reflectance."""
        raise NotImplementedError("a picture with `convert` has its own `points`")


@dataclass(frozen=True)
class Recording:
    """Pictures in the order in which they are numbered, each camera's in time order.

    format: its name, for the record; classes: the default class map; categories: every name that a class map may mean;
    splits: the split of a scene, where the format knows it; left_out: scenes or drives that give no picture, and why;
    default_cameras: all if empty; warnings: what the user should know.
    """

    format: str
    pictures: Sequence[Picture]
    classes: Mapping[str, str | None]
    categories: Iterable[str]
    splits: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    default_cameras: Sequence[str] = ()
    warnings: Sequence[str] = ()


def read_class_map(path: str | Path, recording: Recording) -> dict[str, str | None]:
    """A YAML file of `category: Class`, or `category: null` to leave one out.

    Raises InputError where it is something else, and where an entry means no category of the recording.
    """
    try:
        document = load_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: expected YAML, got what cannot be parsed ({error}): correct the file") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected lines such as 'vehicle.car: Car', got {document!r}: write a mapping")
    categories = set(recording.categories)
    for pattern, kitti_class in document.items():
        if not (kitti_class is None or (isinstance(kitti_class, str) and len(kitti_class.split()) == 1)):
            raise InputError(f"{path}, {pattern}: expected a class name of one word or null, got {kitti_class!r}")
        if not any(fnmatchcase(name, str(pattern)) for name in categories):
            raise InputError(
                f"{path}, {pattern}: expected a category of this recording, got none of that name"
                f"{nearest(str(pattern), categories)}"
            )
    return {str(pattern): kitti_class for pattern, kitti_class in document.items()}


def nearest(name: str, known: Iterable[str]) -> str:
    """The advice at the end of an error about an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {close[0]}?" if close else f": choose from {', '.join(names)}"
