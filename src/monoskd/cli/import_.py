"""`monoskd import`: other recordings as data sets in KITTI's layout."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monoskd.cli.parser import Commands, add_command, count, names
from monoskd.cli.terminal import progress_of, say
from monoskd.errors import InputError

if TYPE_CHECKING:
    from monoskd.importers.recording import Recording

FORMATS = ("nuscenes", "kitti-raw", "kitti-tracking")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "import",
        run=run,
        help_="another recording in KITTI layout, pictures linked",
        example="nuscenes data/nuscenes data/imported --cameras CAM_FRONT",
    )
    add = parser.add_argument
    add("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    add("source", type=Path, metavar="SOURCE", help="folder of the recording")
    add("out", type=Path, metavar="OUT", help="folder to write")
    add("--cameras", type=names, default=(), metavar="A,B", help="of these cameras; of KITTI the left, else all")
    add("--classes", type=Path, metavar="MAP.yaml", help="`category: Class` lines, null to leave one out")
    add("--every", type=count, default=1, metavar="N", help="every n-th picture of a camera in a scene")
    add("--labelled-only", action="store_true", help="no frames without labels, such as nuScenes' sweeps")
    add(
        "--val",
        type=names,
        default=(),
        metavar="A,B",
        help="scenes or drives to hold out; the format's, or every fifth",
    )
    add("--mapping", type=Path, metavar="DIR", help="kitti-raw: the devkit's train_mapping, train_rand")
    add("--kitti", type=Path, metavar="ROOT", help="kitti-raw: object data whose val.txt is held out")
    add("--workers", type=count, help="number of processes; without it one per core")


def run(options: argparse.Namespace) -> None:
    """Read the recording's tables, then write frame by frame."""
    from monoskd.importers.recording import read_class_map
    from monoskd.importers.write import FRAMES, import_recording

    recording = _read(options)
    classes = read_class_map(options.classes, recording) if options.classes is not None else {}
    with progress_of("importing") as progress:
        report = import_recording(
            recording,
            options.out,
            source=options.source,
            cameras=options.cameras,
            classes=classes,
            every=options.every,
            labelled_only=options.labelled_only,
            val=options.val,
            workers=options.workers,
            progress=progress,
        )
    say(f"{report}\n{options.out / FRAMES} tells where each frame is from; next: monoskd doctor {options.out}")


def _read(options: argparse.Namespace) -> "Recording":
    if options.format == "kitti-raw":
        from monoskd.importers.kitti_raw import read_kitti_raw

        return read_kitti_raw(options.source, mapping=options.mapping, kitti=options.kitti)
    if options.mapping is not None or options.kitti is not None:
        raise InputError(f"import: expected --mapping and --kitti with kitti-raw only, got {options.format}")
    if options.format == "nuscenes":
        from monoskd.importers.nuscenes import read_nuscenes

        return read_nuscenes(options.source)
    from monoskd.importers.kitti_tracking import read_kitti_tracking

    return read_kitti_tracking(options.source)
