"""Which pictures of a recording become which frames of which split. Nothing is read or written here."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from monoskd.errors import InputError
from monoskd.importers.recording import Picture, Recording, nearest
from monoskd.kitti.layout import UNLABELLED

_HELD_OUT = 5  # every fifth scene, where nobody says which
_LARGEST_NUMBER = 999_999


@dataclass(frozen=True)
class Planned:
    """A picture, its frame, its split ("" if it belongs to none), and the frame that holds its converted sweep."""

    picture: Picture
    frame: str
    split: str
    sweep_of: str


@dataclass(frozen=True)
class Plan:
    """All frames of an import, and what the user should know about the split."""

    frames: Sequence[Planned]
    warnings: Sequence[str]

    @property
    def digest(self) -> str:
        """Changes when a frame becomes another picture's or another split's."""
        listing = [(planned.frame, planned.split, planned.picture.origin) for planned in self.frames]
        return sha256(json.dumps(listing).encode()).hexdigest()

    def present(self) -> tuple[list[Planned], Counter[str]]:
        """The frames that can be made, and how many cannot, by reason."""
        todo, absent = list[Planned](), Counter[str]()
        for one in self.frames:
            if not one.split:
                absent["pictures without labels in a scene of val"] += 1
            elif not one.picture.image.is_file():
                absent["pictures that are not there"] += 1
            else:
                todo.append(one)
        return todo, absent


def make_plan(
    recording: Recording, *, cameras: Sequence[str], every: int, labelled_only: bool, val: Sequence[str]
) -> Plan:
    """Choose, split by scene and number; see `import_recording` for the arguments."""
    splits = _splits(recording, val)
    chosen = _select(recording, cameras=cameras, every=every, labelled_only=labelled_only)
    return Plan(_number(chosen, splits), list(_warnings(recording, splits, val)))


def _select(recording: Recording, *, cameras: Sequence[str], every: int, labelled_only: bool) -> list[Picture]:
    """The pictures of these cameras, of each camera's stream in a scene each n-th."""
    if every < 1:
        raise InputError(f"every: expected to take each 1st, 2nd, ... picture, got {every}")
    known = {picture.camera for picture in recording.pictures}
    for camera in cameras:
        if camera not in known:
            raise InputError(f"cameras: expected cameras of this recording, got '{camera}'{nearest(camera, known)}")
    wanted = set(cameras or recording.default_cameras or known)
    count: Counter[tuple[str, str, bool]] = Counter()
    chosen = []
    for picture in recording.pictures:
        if picture.camera in wanted and (picture.labelled or not labelled_only):
            stream = (picture.scene, picture.camera, picture.labelled)
            if count[stream] % every == 0:
                chosen.append(picture)
            count[stream] += 1
    return chosen


def _splits(recording: Recording, val: Sequence[str]) -> dict[str, str]:
    """The split of every scene: as `val` says, else as the format knows, else every fifth scene is held out."""
    scenes = list(dict.fromkeys(picture.scene for picture in recording.pictures))
    for scene in val:
        if scene not in scenes:
            raise InputError(f"val: expected scenes of this recording, got '{scene}'{nearest(scene, scenes)}")
    if val:
        fixed = {scene: split for scene, split in recording.splits.items() if split not in ("train", "val")}
        return {scene: "val" if scene in val else fixed.get(scene, "train") for scene in scenes}
    if recording.splits:
        return {scene: recording.splits.get(scene, "train") for scene in scenes}
    held_out = scenes[::_HELD_OUT] if len(scenes) > 1 else []
    return {scene: "val" if scene in held_out else "train" for scene in scenes}


def _warnings(recording: Recording, splits: Mapping[str, str], val: Sequence[str]) -> Iterator[str]:
    if len(splits) == 1 and "val" not in splits.values():
        yield "there is only one scene, so no frame is held out to evaluate on"
    elif splits and not val and not recording.splits:
        held_out = [scene for scene, split in splits.items() if split == "val"]
        yield f"nobody says which scenes to hold out, so every fifth is: {', '.join(held_out)}; --val chooses others"


def _number(chosen: Sequence[Picture], splits: Mapping[str, str]) -> list[Planned]:
    """Pictures without a number of their own are counted on from the largest."""
    free = max((picture.number for picture in chosen if picture.number is not None), default=-1) + 1
    planned, first = list[Planned](), dict[Path | None, str]()
    for picture in chosen:
        number = picture.number
        if number is None:
            number, free = free, free + 1
        if number > _LARGEST_NUMBER:
            raise InputError(
                f"frames: expected numbers of six digits to suffice, got {len(chosen)} pictures: raise --every or "
                "choose fewer --cameras"
            )
        split = splits[picture.scene]
        if not picture.labelled and split in ("train", "val"):
            split = UNLABELLED if split == "train" else ""
        frame = f"{number:06d}"
        planned.append(Planned(picture, frame, split, first.setdefault(picture.sweep, frame) if split else frame))
    return planned
