"""A recording becomes a data set in KITTI's layout. Pictures are linked, and a second call changes nothing."""

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from monoskd.errors import InputError
from monoskd.files import check_writable, read_text, write_atomically
from monoskd.importers.boxes import DECIMALS
from monoskd.importers.recording import ClassMap, Picture, Recording, nearest
from monoskd.kitti.io import format_calibration, format_objects, write_split, write_velodyne
from monoskd.kitti.layout import UNLABELLED, KittiLayout
from monoskd.workers import each

RECORD, SCHEMA = "import.json", "monoskd/import/1"
FRAMES = "frames.csv"
MOST_TILT_DEG = 5.0
_COLUMNS = ("frame", "split", "scene", "camera", "origin", "token", "sweep", "tilt_deg", "objects", "left_out")
_EVERY_FIFTH = 5  # scene is held out, where nobody says which
_LARGEST_NUMBER = 999_999
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class ImportReport:
    """What an import made.

    frames: by split; objects: by class; left_out: what was left out (pictures, scenes, objects) by reason, with
    counts; noted: labels that are special; tilted: frames whose camera leans more than 5 degrees, of at most
    `most_tilt_deg`; warnings: of the format.
    """

    frames: Mapping[str, int]
    objects: Mapping[str, int]
    left_out: Mapping[str, int]
    noted: Mapping[str, int]
    tilted: int
    most_tilt_deg: float
    warnings: Sequence[str]
    seconds: float

    def __str__(self) -> str:
        lines = [f"{sum(self.frames.values())} frames ({_listed(self.frames)}); objects: {_listed(self.objects)}"]
        lines += [
            f"{what}: {_listed(some)}" for what, some in (("left out", self.left_out), ("kept", self.noted)) if some
        ]
        if self.tilted:
            lines.append(
                f"warning: {self.tilted} frames are from a camera that leans more than {MOST_TILT_DEG:g} degrees (up "
                f"to {self.most_tilt_deg:.1f}); a KITTI box cannot lean with it, so its heading is less exact"
            )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


@dataclass(frozen=True)
class _Planned:
    """A picture, the frame and the split that it becomes, and the frame that holds its converted sweep."""

    picture: Picture
    frame: str
    split: str
    sweep_of: str


@dataclass(frozen=True)
class _Done:
    """What became of a picture. failure: the error, if its files are damaged."""

    planned: _Planned
    tilt_deg: float = 0.0
    objects: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    failure: str | None = None


def import_recording(
    recording: Recording,
    out: str | Path,
    *,
    source: str | Path,
    cameras: Sequence[str] = (),
    classes: Mapping[str, str | None] | None = None,
    every: int = 1,
    labelled_only: bool = False,
    val: Sequence[str] = (),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Write the recording to `out` in KITTI's object layout, with `frames.csv` and `import.json` beside it.

    source: where the recording lies, for the record; cameras: which, by default all; classes: entries of a class map
    that go before the format's; every: each n-th picture of a camera in a scene; labelled_only: no `unlabelled` split;
    val: the scenes to hold out, by default as the format knows, or every fifth.

    Called again with the same arguments it goes on where it stopped; only what differs is written. Raises InputError
    where `out` holds anything else, and, after all other frames are done, where files are damaged.
    """
    started, layout = time.perf_counter(), KittiLayout(Path(out))
    chosen = _select(recording, cameras=cameras, every=every, labelled_only=labelled_only)
    splits = _splits(recording, val)
    planned = _plan(chosen, splits)
    arguments: dict[str, Any] = {
        "source": str(Path(source).resolve()),
        "cameras": list(cameras),
        "classes": dict(classes or {}),
    }
    arguments |= {"every": every, "labelled_only": labelled_only, "val": list(val)}
    listing = [(one.frame, one.split, one.picture.origin) for one in planned]
    _claim(layout.root, {**arguments, "listing": sha256(json.dumps(listing).encode()).hexdigest()})

    left_out = Counter(recording.left_out.values())
    todo, absent = _present(planned)
    left_out.update(absent)
    if not todo:
        raise InputError(f"{source}: expected a picture to import, got none ({_listed(left_out)}): check the path")
    task = partial(_import_picture, layout, ClassMap(recording.classes, classes or {}))
    results: list[_Done] = []
    for result in each(task, todo, workers=workers):
        results.append(result)
        if progress is not None:
            progress(len(results), len(todo))
    results.sort(key=lambda one: one.planned.frame)
    done = [one for one in results if one.failure is None]
    _write_lists(layout, done)
    report = ImportReport(
        frames=dict(Counter(one.planned.split for one in done)),
        objects=_total(one.objects for one in done),
        left_out=dict(left_out + Counter(_total(one.left_out for one in done))),
        noted=_total(one.noted for one in done),
        tilted=sum(one.tilt_deg > MOST_TILT_DEG for one in done),
        most_tilt_deg=max((one.tilt_deg for one in done), default=0.0),
        warnings=[*recording.warnings, *_split_warnings(recording, splits, val)],
        seconds=time.perf_counter() - started,
    )
    _finish(layout.root, recording, report)
    failures = [one.failure for one in results if one.failure is not None]
    if failures:
        more = f", and {len(failures) - 1} more damaged frames" if len(failures) > 1 else ""
        raise InputError(f"{failures[0]}{more} (the other {len(done)} frames are imported)")
    return report


# --- what becomes which frame ---


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
    """The split of every scene."""
    scenes = list(dict.fromkeys(picture.scene for picture in recording.pictures))
    for scene in val:
        if scene not in scenes:
            raise InputError(f"val: expected scenes of this recording, got '{scene}'{nearest(scene, scenes)}")
    if val:
        fixed = {scene: split for scene, split in recording.splits.items() if split not in ("train", "val")}
        return {scene: "val" if scene in val else fixed.get(scene, "train") for scene in scenes}
    unknown = [scene for scene in scenes if scene not in recording.splits]
    held_out = set(unknown[::_EVERY_FIFTH]) if len(scenes) > 1 and "val" not in recording.splits.values() else set()
    return {scene: recording.splits.get(scene, "val" if scene in held_out else "train") for scene in scenes}


def _split_warnings(recording: Recording, splits: Mapping[str, str], val: Sequence[str]) -> Iterator[str]:
    if len(splits) == 1 and "val" not in splits.values():
        yield "there is only one scene, so no frame is held out to evaluate on"
    elif not val and not recording.splits:
        held_out = [scene for scene, split in splits.items() if split == "val"]
        yield f"nobody says which scenes to hold out, so every fifth is: {', '.join(held_out)}; --val chooses others"


def _plan(chosen: Sequence[Picture], splits: Mapping[str, str]) -> list[_Planned]:
    """Number the pictures; split "" for those that belong to none."""
    free = max((picture.number for picture in chosen if picture.number is not None), default=-1) + 1
    planned, first = list[_Planned](), dict[Path | None, str]()
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
        planned.append(_Planned(picture, frame, split, first.setdefault(picture.sweep, frame) if split else frame))
    return planned


def _present(planned: Sequence[_Planned]) -> tuple[list[_Planned], Counter[str]]:
    """What can be imported, and how many pictures cannot, by reason."""
    todo, absent = [], Counter[str]()
    for one in planned:
        if not one.split:
            absent["pictures without labels in a scene of val"] += 1
        elif not one.picture.image.is_file():
            absent["pictures that are not there"] += 1
        else:
            todo.append(one)
    return todo, absent


# --- one frame ---


def _import_picture(layout: KittiLayout, classes: ClassMap, planned: _Planned) -> _Done:
    """Link or write the frame's files; the label comes last."""
    picture, name = planned.picture, planned.frame
    try:
        if picture.image.suffix.lower() not in _IMAGE_SUFFIXES:
            raise InputError(f"{picture.image}: expected {', '.join(_IMAGE_SUFFIXES)}, got another kind: convert it")
        frame = picture.read(classes)
        link(layout.folder("image_2") / f"{name}{picture.image.suffix.lower()}", picture.image.resolve())
        _write_if_different(layout.calibration(name), format_calibration(frame.calibration))
        _place_sweep(layout, planned)
        if frame.objects is not None:
            _write_if_different(layout.label(name), format_objects(frame.objects, decimals=DECIMALS))
    except InputError as error:
        return _Done(planned, failure=str(error))
    objects = Counter(frame.objects.names.tolist() if frame.objects is not None else [])
    return _Done(planned, frame.tilt_deg, objects, frame.left_out, frame.noted)


def _place_sweep(layout: KittiLayout, planned: _Planned) -> None:
    """Link the sweep if its file is KITTI's; else convert it once and link the frames of other cameras to that."""
    picture, path, shared = planned.picture, layout.velodyne(planned.frame), layout.velodyne(planned.sweep_of)
    if picture.sweep is None or not picture.sweep.is_file():
        return
    if not picture.convert:
        link(path, picture.sweep.resolve())
        return
    if not (shared.is_file() and shared.stat().st_mtime >= picture.sweep.stat().st_mtime):
        write_velodyne(shared, picture.points())
    if path != shared:
        link(path, Path(shared.name))


def link(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to `target`. Raises InputError where something else lies there."""
    try:
        if path.is_symlink():
            if path.readlink() == target:
                return
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    except OSError as error:
        raise InputError(f"{path}: expected to link {target} here, got '{error.strerror}': remove it") from error


def _write_if_different(path: Path, text: str) -> None:
    content = text.encode()
    if not (path.is_file() and path.read_bytes() == content):
        write_atomically(path, content)


# --- lists and records ---


def _claim(root: Path, arguments: dict[str, Any]) -> None:
    """Say what this folder is before anything is written into it, and refuse one that holds something else."""
    path = root / RECORD
    check_writable(root)
    if path.is_file():
        try:
            before = json.loads(read_text(path))["arguments"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: expected the record of an import, got something else: remove it") from error
        for name, value in arguments.items():
            if before.get(name) != value:
                what = "the recording" if name == "listing" else f"{name} {value!r} (before: {before.get(name)!r})"
                raise InputError(f"{path}: expected the same import as before, got another {what}: choose a new folder")
        return
    if root.is_dir() and any(root.iterdir()):
        raise InputError(f"{root}: expected an empty or new folder, got one with other files: choose another folder")
    write_atomically(path, (json.dumps({"schema": SCHEMA, "arguments": arguments}, indent=1) + "\n").encode())


def _finish(root: Path, recording: Recording, report: ImportReport) -> None:
    document = json.loads(read_text(root / RECORD)) | asdict(report) | {"scenes_left_out": dict(recording.left_out)}
    write_atomically(root / RECORD, (json.dumps(document, indent=1) + "\n").encode())


def _write_lists(layout: KittiLayout, done: Sequence[_Done]) -> None:
    """`frames.csv` and the splits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in done:
        picture = one.planned.picture
        row = [one.planned.frame, one.planned.split, picture.scene, picture.camera, picture.origin, picture.token]
        sweep = picture.sweep.name if picture.sweep is not None else ""
        writer.writerow([*row, sweep, f"{one.tilt_deg:.3f}", sum(one.objects.values()), _listed(one.left_out)])
    _write_if_different(layout.root / FRAMES, text.getvalue())
    for split in dict.fromkeys(one.planned.split for one in done):
        write_split(layout.split(split), [one.planned.frame for one in done if one.planned.split == split])


def _total(counts: Any) -> dict[str, int]:
    return dict(sum((Counter(one) for one in counts), Counter[str]()).most_common())


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
