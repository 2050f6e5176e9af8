"""A recording becomes a data set in KITTI's layout. Pictures are linked, and a second call changes nothing."""

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from monoskd.errors import InputError
from monoskd.files import check_writable, link, read_json, visible, write_atomically, write_json
from monoskd.images import IMAGE_SUFFIXES
from monoskd.importers.boxes import DECIMALS
from monoskd.importers.plan import Planned, make_plan
from monoskd.importers.recording import ClassMap, Recording
from monoskd.kitti.io import format_calibration, format_objects, format_split, write_velodyne
from monoskd.kitti.layout import KittiLayout
from monoskd.workers import map_in_processes

RECORD, SCHEMA = "import.json", "monoskd/import/1"
FRAMES = "frames.csv"
MOST_TILT_DEG = 5.0
_COLUMNS = ("frame", "split", "scene", "camera", "origin", "token", "sweep", "tilt_deg", "objects", "left_out")


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
            f"{what}: {_listed(counts)}"
            for what, counts in (("left out", self.left_out), ("kept", self.noted))
            if counts
        ]
        if self.tilted:
            lines.append(
                f"warning: {self.tilted} frames are from a camera that leans more than {MOST_TILT_DEG:g} degrees (up "
                f"to {self.most_tilt_deg:.1f}); a KITTI box cannot lean with it, so its heading is less exact"
            )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


@dataclass(frozen=True)
class _Done:
    """What became of a picture. failure: the error, if its files are damaged."""

    planned: Planned
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
    plan = make_plan(recording, cameras=cameras, every=every, labelled_only=labelled_only, val=val)
    todo, absent = plan.present()
    absent.update(recording.left_out.values())
    if not todo:
        raise InputError(f"{source}: expected a picture to import, got none ({_listed(absent)}): check the path")
    _claim(
        layout.root,
        {"format": recording.format, "source": str(Path(source).resolve()), "cameras": list(cameras)}
        | {"classes": dict(classes or {}), "every": every, "labelled_only": labelled_only, "val": list(val)}
        | {"frames": plan.digest},
    )
    task = partial(_import_picture, layout, ClassMap(recording.classes, classes or {}))
    results: list[_Done] = []
    for result in map_in_processes(task, todo, workers=workers):
        results.append(result)
        if progress is not None:
            progress(len(results), len(todo))
    results.sort(key=lambda frame: frame.planned.frame)
    done = [frame for frame in results if frame.failure is None]
    sweeps = [frame.planned.picture.sweep for frame in done]
    lacking = sum(sweep is None or not sweep.is_file() for sweep in sweeps)
    if lacking and any(sweeps):  # a recording without a LiDAR lacks none
        absent["sweeps that are not there"] = lacking
    _write_lists(layout, done)
    warnings = [*recording.warnings, *plan.warnings]
    report = _report(done, absent, warnings, seconds=time.perf_counter() - started)
    document = read_json(layout.root / RECORD) | asdict(report)
    write_json(layout.root / RECORD, document | {"scenes_left_out": dict(recording.left_out)})
    failures = [frame.failure for frame in results if frame.failure is not None]
    if failures:
        more = f", and {len(failures) - 1} more damaged frames" if len(failures) > 1 else ""
        raise InputError(f"{failures[0]}{more} (the other {len(done)} frames are imported)")
    return report


def _report(done: Sequence[_Done], absent: Counter[str], warnings: Sequence[str], *, seconds: float) -> ImportReport:
    return ImportReport(
        frames=dict(Counter(frame.planned.split for frame in done)),
        objects=_total(frame.objects for frame in done),
        left_out=dict(absent) | _total(frame.left_out for frame in done),
        noted=_total(frame.noted for frame in done),
        tilted=sum(frame.tilt_deg > MOST_TILT_DEG for frame in done),
        most_tilt_deg=max((frame.tilt_deg for frame in done), default=0.0),
        warnings=warnings,
        seconds=seconds,
    )


# --- one frame ---


def _import_picture(layout: KittiLayout, classes: ClassMap, planned: Planned) -> _Done:
    """Link or write the frame's files; the label comes last."""
    picture, name = planned.picture, planned.frame
    try:
        if picture.image.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{picture.image}: expected {', '.join(IMAGE_SUFFIXES)}, got another kind: convert it")
        frame = picture.read(classes)
        link(layout.folder("image_2") / f"{name}{picture.image.suffix.lower()}", picture.image.resolve())
        _write_if_different(layout.calibration(name), format_calibration(frame.calibration))
        _write_sweep(layout, planned)
        if frame.objects is not None:
            _write_if_different(layout.label(name), format_objects(frame.objects, decimals=DECIMALS))
    except InputError as error:
        return _Done(planned, failure=str(error))
    objects = Counter(frame.objects.names.tolist() if frame.objects is not None else [])
    return _Done(planned, frame.tilt_deg, objects, frame.left_out, frame.noted)


def _write_sweep(layout: KittiLayout, planned: Planned) -> None:
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
            before = read_json(path)["arguments"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: expected the record of an import, got something else: remove it") from error
        for name, value in arguments.items():
            if name not in before or before[name] != value:
                what = "pictures" if name == "frames" else f"{name} {value!r}, before {before.get(name)!r}"
                raise InputError(f"{path}: expected the same import as before, got other {what}: choose a new folder")
        return
    if root.is_dir() and visible(root.iterdir()):
        raise InputError(f"{root}: expected an empty or new folder, got one with other files: choose another folder")
    write_json(path, {"schema": SCHEMA, "arguments": arguments})


def _write_lists(layout: KittiLayout, done: Sequence[_Done]) -> None:
    """`frames.csv` and the splits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for frame in done:
        picture = frame.planned.picture
        row = [frame.planned.frame, frame.planned.split, picture.scene, picture.camera, picture.origin, picture.token]
        sweep = picture.sweep.name if picture.sweep is not None else ""
        writer.writerow([*row, sweep, f"{frame.tilt_deg:.3f}", sum(frame.objects.values()), _listed(frame.left_out)])
    _write_if_different(layout.root / FRAMES, text.getvalue())
    for split in dict.fromkeys(frame.planned.split for frame in done):
        frames = [frame.planned.frame for frame in done if frame.planned.split == split]
        _write_if_different(layout.split(split), format_split(frames))


def _total(counts: Any) -> dict[str, int]:
    return dict(sum((Counter(part) for part in counts), Counter[str]()).most_common())


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
