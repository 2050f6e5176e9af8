"""What keeps validation out of frames without labels.

The object benchmark's frames were drawn from KITTI's raw drives, so a drive that holds one validation frame shows the
same cars a tenth of a second earlier and later. The devkit's `train_mapping.txt` and `train_rand.txt` tell which drive
each object frame is from. A drive is known by its date and number, and a link by where it leads; the very picture or
sweep of a validation frame is recognised whatever it is called. Copies of its neighbours under another name are not.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from monoskd.errors import InputError
from monoskd.files import read_bytes, read_text, write_atomically
from monoskd.kitti.io import read_split
from monoskd.kitti.layout import UNLABELLED, KittiLayout

RECORD, SCHEMA = "raw_frames.json", "monoskd/raw/1"
_DRIVE = re.compile(r"(\d{4}_\d\d_\d\d_drive_\d{4})(_sync|_extract)?")


@dataclass(frozen=True)
class RawRecord:
    """`root/raw_frames.json`: what raw drives have become.

    frames: `date/drive/raw frame` by frame. left_out: why, by folder name. validation_drives: the first validation
    frame of each drive that holds one, as `drive_of` names drives.
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
        try:
            document = json.loads(read_text(path))
            parts = {name: dict(document.get(name, {})) for name in cls.__dataclass_fields__}
            fine = all(isinstance(one, str) for part in parts.values() for one in part.values())
            fine = fine and "frames" in document and all(one.count("/") == 2 for one in parts["frames"].values())
        except (ValueError, TypeError, AttributeError):
            fine = False
        if not fine:
            raise InputError(f"{path}: expected the record of an earlier run, got something else: remove it")
        return cls(**parts)

    def write(self, root: Path) -> None:
        """Write it, whole or not at all."""
        write_atomically(root / RECORD, (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n").encode())


def drive_of(path: Path) -> str | None:
    """The drive that a folder or a file in it belongs to, such as `2011_09_26_drive_0001`; None if it is of none."""
    found = [match for part in path.parts if (match := _DRIVE.fullmatch(part))]
    return found[-1][1] if found else None


def read_drives(mapping: str | Path) -> list[str]:
    """The drive of each of the benchmark's training frames, from the devkit's two mapping files in a folder.

    Frame i stands on line `train_rand[i]` (counted from 1) of `train_mapping.txt`: date, drive, raw frame.
    """
    table, order = Path(mapping) / "train_mapping.txt", Path(mapping) / "train_rand.txt"
    drives = []
    for number, line in enumerate(read_text(table).splitlines(), start=1):
        words = line.split()
        drive = drive_of(Path(words[1])) if len(words) == 3 else None
        if drive is None:
            raise InputError(f"{table}, line {number}: expected date, drive and frame, got '{line}': copy it again")
        drives.append(drive)
    places = [word.strip() for word in read_text(order).replace("\n", ",").split(",") if word.strip()]
    if sorted(places) != sorted(str(place) for place in range(1, len(drives) + 1)):
        raise InputError(
            f"{order}: expected each of the {len(drives)} lines of {table.name} once, got {len(places)} entries that "
            "are not that: copy both files from one devkit"
        )
    return [drives[int(place) - 1] for place in places]


def validation_drives(validation: Iterable[str], mapping: str | Path) -> dict[str, str]:
    """The drives that hold a validation frame, each with the first of them."""
    drives = read_drives(mapping)
    unknown = sorted(frame for frame in validation if int(frame) >= len(drives))
    if unknown:
        raise InputError(
            f"{mapping}: expected every validation frame below {len(drives)}, got {unknown[0]}: check val.txt"
        )
    return {drives[int(frame)]: frame for frame in sorted(validation, reverse=True)}


class Fingerprints:
    """The pictures and sweeps of the validation frames, to recognise them under any name.

    Files are compared by size first, so that hardly any is read. unknown: validation frames that have neither here.
    """

    def __init__(self, layout: KittiLayout, validation: Iterable[str]) -> None:
        self._of_size: dict[int, list[Path]] = {}
        self._digests: dict[Path, bytes] = {}
        self.unknown: list[str] = []
        for frame in validation:
            known = [path for path in (layout.velodyne(frame), layout.image(frame)) if path.is_file()]
            for path in known:
                self._of_size.setdefault(path.stat().st_size, []).append(path)
            if not known:
                self.unknown.append(frame)

    def same(self, path: Path) -> str | None:
        """The validation frame whose picture or sweep this file holds."""
        for known in self._of_size.get(path.stat().st_size, []) if path.is_file() else ():
            if self._digest(path) == self._digest(known):
                return known.stem
        return None

    def _digest(self, path: Path) -> bytes:
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(read_bytes(path)).digest()
        return self._digests[path]


def check_unlabelled(root: str | Path, *, split: str = UNLABELLED, mapping: str | Path | None = None) -> list[str]:
    """The frames of an unlabelled split, after making sure that none of them gives validation away.

    Raises InputError where one of them

    - is a validation frame, holds the picture or the sweep of one, or has a label;
    - is from a drive that holds a validation frame: by `raw_frames.json`, by where its links lead, and by the devkit's
      `mapping` if that is given;
    - is from a drive that `prepare_raw` left out, or from a raw drive of which nobody can tell what it holds.
    """
    layout = KittiLayout(Path(root))
    path, val = layout.split(split), layout.split("val")
    frames, validation = read_split(path), read_split(val) if val.is_file() else []
    record = RawRecord.read(layout.root)
    forbidden = record.validation_drives | (validation_drives(validation, mapping) if mapping is not None else {})
    fingerprints, in_validation = Fingerprints(layout, validation), set(validation)
    told = mapping is not None or (layout.root / RECORD).exists()
    for frame in frames:
        files = [layout.image(frame), layout.velodyne(frame)]
        problem = _origin(frame, files, record, forbidden, told=told)
        if frame in in_validation:
            problem = "expected no validation frame, got {frame}"
        elif layout.label(frame).exists():
            problem = "expected frames without a label, got {frame}, which has one"
        elif known := next(filter(None, map(fingerprints.same, files)), None):
            problem = f"expected no validation frame, got {{frame}}, which shows that of {known}"
        if problem:
            raise InputError(f"{path}: {problem.format(frame=frame)}: take it out")
    return frames


def _origin(
    frame: str, files: list[Path], record: RawRecord, forbidden: Mapping[str, str], *, told: bool
) -> str | None:
    """What is wrong with the drives that a frame is from, as far as anyone wrote down or its links show."""
    source = Path(record.frames.get(frame, ""))
    drives = {drive_of(source), *(drive_of(file.resolve()) for file in files if file.is_symlink())} - {None}
    folder = source.parts[1] if source.parts else ""
    for drive in sorted(map(str, drives)):
        if drive in forbidden:
            return (
                f"expected no frame of a validation drive, got {{frame}} of {drive}, which holds validation frame "
                f"{forbidden[drive]}"
            )
        if not told:
            return (
                f"expected {RECORD} or `data.unlabelled.mapping` to tell which drives hold validation frames, got "
                f"neither, and {{frame}} is of {drive}; make it again with `monoskd prepare --raw`, or"
            )
    if folder in record.left_out:
        why = record.left_out[folder]
        return f"expected no frame of a drive that was left out, got {{frame}} of {folder}, which {why}"
    return None
