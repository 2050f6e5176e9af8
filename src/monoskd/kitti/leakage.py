"""Data leakage: keep validation frames, and copies or neighbours of them, out of the training frames.

A byte-identical copy of a validation frame's picture or sweep is recognised under any name. The object benchmark's
frames were drawn from KITTI's raw drives, so a drive with one validation frame shows the same cars a tenth of a second
earlier and later. The devkit's `train_mapping.txt` and `train_rand.txt` list the drive of each object frame. A
drive is known by its date and number, a link by its target. Copies of neighbouring frames under another name are not
detected.
"""

import hashlib
import os
import re
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from monoskd.errors import InputError
from monoskd.files import MOST_TEXT_BYTES, read_bytes, read_json, read_text, write_json
from monoskd.kitti.io import read_image, read_split
from monoskd.kitti.layout import UNLABELLED, KittiLayout, is_kitti_number

RECORD, SCHEMA = "raw_frames.json", "monoskd/raw/1"
_DRIVE = re.compile(r"(\d{4}_\d\d_\d\d_drive_\d{4})(_sync|_extract)?")


@dataclass(frozen=True)
class RawRecord:
    """`root/raw_frames.json`: which frames came from which raw drives.

    frames: `date/drive/raw frame` by frame. left_out: the reason, by folder name. validation_drives: the first
    validation frame of each drive that holds one, with the drive's name as `drive_of` gives it.
    """

    frames: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    validation_drives: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Self:
        """The record of earlier runs; an empty one where there is none. Raises InputError for anything else."""
        path = root / RECORD
        if not path.exists():
            return cls()
        document = read_json(path)
        try:
            parts = {name: dict(document.get(name, {})) for name in cls.__dataclass_fields__}
            valid = all(isinstance(text, str) for part in parts.values() for text in part.values())
            valid = valid and "frames" in document and all(text.count("/") == 2 for text in parts["frames"].values())
        except (ValueError, TypeError, AttributeError):
            valid = False
        if not valid:
            raise InputError(f"{path}: expected the record of an earlier run, got something else: remove it")
        return cls(**parts)

    def write(self, root: Path) -> None:
        """Write the record, whole or not at all."""
        write_json(root / RECORD, {"schema": SCHEMA, **asdict(self)})


def drive_of(path: Path) -> str | None:
    """The drive that a folder or a file in it belongs to, such as `2011_09_26_drive_0001`; None if there is none."""
    matches = [match for part in path.parts if (match := _DRIVE.fullmatch(part))]
    return matches[-1][1] if matches else None


def drives_behind(folder: Path) -> set[str]:
    """The drives that a folder may hold: by its own name and, of a link, by its target's."""
    return {drive for path in (folder, folder.resolve()) if (drive := drive_of(Path(path.name))) is not None}


def read_drives(mapping: str | Path) -> list[str]:
    """The drive of each of the benchmark's training frames, from the devkit's two mapping files in a folder.

    Frame i is on line `train_rand[i]` (counted from 1) of `train_mapping.txt`: date, drive, raw frame.
    """
    table, order = Path(mapping) / "train_mapping.txt", Path(mapping) / "train_rand.txt"
    drives = []
    for number, line in enumerate(read_text(table).splitlines(), start=1):
        words = line.split()
        drive = drive_of(Path(words[1])) if len(words) == 3 else None
        if drive is None:
            raise InputError(f"{table}, line {number}: expected date, drive and frame, got '{line}': copy it again")
        drives.append(drive)
    lines = [word.strip() for word in read_text(order).replace("\n", ",").split(",") if word.strip()]
    if sorted(lines) != sorted(str(line) for line in range(1, len(drives) + 1)):
        raise InputError(
            f"{order}: expected each of the {len(drives)} lines of {table.name} once, got {len(lines)} entries that "
            "are not that: copy both files from one devkit"
        )
    return [drives[int(line) - 1] for line in lines]


def validation_drives(validation: Collection[str], mapping: str | Path) -> dict[str, str]:
    """The drives that hold a validation frame, each with the first of them.

    Validation frames without a benchmark number are from other recordings, not from KITTI's drives.
    """
    drives = read_drives(mapping)
    benchmark, _ = by_origin(validation, frames=len(drives))
    return {drives[int(frame)]: frame for frame in sorted(benchmark, reverse=True)}


def by_origin(names: Collection[str], *, frames: int) -> tuple[list[str], list[str]]:
    """The names that are among the benchmark's `frames` numbers of six digits, and the others."""
    benchmark = [name for name in names if is_kitti_number(name) and int(name) < frames]
    return benchmark, sorted(set(names) - set(benchmark))


class Fingerprints:
    """The pictures and sweeps of the validation frames, to recognise them under any name.

    Files are compared by size first, then by their first bytes, so that few are read whole. Pictures of frames with the
    same labels or the same depth map are compared by their pixels, as they may be encoded anew. unknown: validation
    frames that have neither here.
    """

    def __init__(self, layout: KittiLayout, validation: Iterable[str]) -> None:
        self._files: dict[int, list[tuple[str, Path]]] = {}  # by size
        self._depths: dict[int, list[tuple[str, Path]]] = {}
        self._frames_of_label: dict[bytes, list[str]] = {}
        self._digests: dict[tuple[Path, bool], bytes] = {}
        self._pixels: dict[Path, bytes] = {}
        self._layout = layout
        self.unknown: list[str] = []
        for frame in validation:
            if label := self._label(frame):
                self._frames_of_label.setdefault(label, []).append(frame)
            paths = [path for path in (layout.velodyne(frame), layout.image(frame)) if path.is_file()]
            for path in paths:
                self._files.setdefault(path.stat().st_size, []).append((frame, path))
            if (depth := layout.depth(frame)).is_file():
                self._depths.setdefault(depth.stat().st_size, []).append((frame, depth))
            if not paths:
                self.unknown.append(frame)

    def same(self, path: Path) -> str | None:
        """The validation frame whose picture or sweep has the same bytes as this file; None if there is none."""
        return next(self._alike(path, self._files), None)

    def same_pixels(self, frame: str) -> str | None:
        """The validation frame whose pixels, and labels or depth map, this one has, however its picture is encoded."""
        image, alike = self._layout.image(frame), self._alike(self._layout.depth(frame), self._depths)
        for other in (*self._frames_of_label.get(self._label(frame), []), *alike):
            path = self._layout.image(other)
            if image.is_file() and path.is_file() and self._picture(image) == self._picture(path):
                return other
        return None

    def _alike(self, path: Path, known: Mapping[int, Sequence[tuple[str, Path]]]) -> Iterator[str]:
        """The frames of the known files that have the same bytes as this one."""
        size = path.stat().st_size if path.is_file() else 0
        for frame, other in known.get(size, []) if size else []:
            if all(self._digest(path, whole=whole) == self._digest(other, whole=whole) for whole in (False, True)):
                yield frame

    def _label(self, frame: str) -> bytes:
        """The lines of a label, however they are ordered, spaced, ended and spelt."""
        path = self._layout.label(frame)
        content = read_bytes(path, at_most=MOST_TEXT_BYTES).removeprefix(BOM_UTF8).lower() if path.is_file() else b""
        return b"\n".join(sorted(b" ".join(line.split()) for line in content.splitlines() if line.strip()))

    def _picture(self, path: Path) -> bytes:
        if path not in self._pixels:
            pixels = read_image(path)
            self._pixels[path] = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        return self._pixels[path]

    def _digest(self, path: Path, *, whole: bool) -> bytes:
        key = (path, whole)
        if key not in self._digests:
            self._digests[key] = hashlib.sha256(read_bytes(path) if whole else _start(path)).digest()
        return self._digests[key]


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return read_bytes(path)  # raises InputError


def copies(layout: KittiLayout, frames: Iterable[str], *, validation: Sequence[str]) -> dict[str, str]:
    """Which of the frames hold the picture or the sweep of a validation frame under another name, and of which."""
    fingerprints, in_validation = Fingerprints(layout, validation), set(validation)
    originals = {}
    for frame in frames:
        if frame not in in_validation:
            same = (fingerprints.same(path) for path in (layout.image(frame), layout.velodyne(frame)))
            if known := next(filter(None, same), None) or fingerprints.same_pixels(frame):
                originals[frame] = known
    return originals


def check_copies(layout: KittiLayout, *, train: str, val: str) -> None:
    """Raise InputError where a frame of the split `train` is a copy of a frame of the split `val`."""
    copied = copies(layout, read_split(layout.split(train)), validation=read_split(layout.split(val)))
    for frame, known in copied.items():
        raise InputError(
            f"{layout.split(train)}: expected no copy of a frame of {val}, got {frame}, which shows {known}"
            f"{f', and {len(copied) - 1} more' if len(copied) > 1 else ''}: take it out"
        )


def drives_of(layout: KittiLayout, frame: str, record: RawRecord) -> set[str]:
    """The raw drives that a frame comes from, by the record and by the targets of its links."""
    files = (layout.image(frame), layout.velodyne(frame))
    drives = {
        drive_of(Path(record.frames.get(frame, ""))),
        *(drive_of(Path(os.path.realpath(f))) for f in files if f.is_symlink()),
    }
    return {drive for drive in drives if drive is not None}


def check_unlabelled(root: str | Path, *, split: str = UNLABELLED, mapping: str | Path | None = None) -> list[str]:
    """The frames of an unlabelled split, after checking that none of them leaks a validation frame.

    Raises InputError where one of them

    - is a validation frame, holds the picture or the sweep of one, or has a label;
    - is from a drive that holds a validation frame: by `raw_frames.json`, by the targets of its links, and by the
      devkit's `mapping` if that is given;
    - is from a drive that `prepare_raw` left out, or from a raw drive whose frames are not known.
    """
    layout = KittiLayout(Path(root))
    path, val = layout.split(split), layout.split("val")
    frames, validation = read_split(path), read_split(val) if val.is_file() else []
    record = RawRecord.read(layout.root)
    forbidden = record.validation_drives | (validation_drives(validation, mapping) if mapping is not None else {})
    drives_are_known = mapping is not None or (layout.root / RECORD).exists()
    in_validation, copied = set(validation), copies(layout, frames, validation=validation)
    for frame in frames:
        problem = _origin(layout, frame, record, forbidden, drives_are_known=drives_are_known)
        if frame in in_validation:
            problem = f"expected no validation frame, got {frame}"
        elif layout.label(frame).exists():
            problem = f"expected frames without a label, got {frame}, which has one"
        elif frame in copied:
            problem = f"expected no validation frame, got {frame}, which shows that of {copied[frame]}"
        if problem:
            raise InputError(f"{path}: {problem}: take it out")
    return frames


def _origin(
    layout: KittiLayout, frame: str, record: RawRecord, forbidden: Mapping[str, str], *, drives_are_known: bool
) -> str | None:
    """What is wrong with the drives that a frame is from."""
    for drive in sorted(drives_of(layout, frame, record)):
        if drive in forbidden:
            return (
                f"expected no frame of a validation drive, got {frame} of {drive}, which holds validation frame "
                f"{forbidden[drive]}"
            )
        if not drives_are_known:
            return (
                f"expected {RECORD} or `data.unlabelled.mapping`, which say which drives hold validation frames, got "
                f"neither, and {frame} is of {drive}; make it again with `monoskd prepare --raw`, or"
            )
    source = Path(record.frames.get(frame, "")).parts
    if source and source[1] in record.left_out:
        reason = record.left_out[source[1]]
        return f"expected no frame of a drive that was left out, got {frame} of {source[1]}, which {reason}"
    return None
