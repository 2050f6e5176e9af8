"""`monoskd prepare`: dense depth maps from LiDAR sweeps, and KITTI's raw drives as frames without labels."""

import argparse
from pathlib import Path

from monoskd.cli.parser import Commands, add_command, count
from monoskd.cli.terminal import progress_of, say
from monoskd.errors import InputError


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "prepare", run=run, help_="dense depth maps from velodyne", example="data/kitti")
    add = parser.add_argument
    add("root", type=Path, metavar="ROOT", help="folder with training/ in KITTI layout")
    add("--workers", type=count, help="number of processes; without it one per core")
    add(
        "--ray",
        metavar="ADDRESS",
        help="do it on a Ray cluster (docs/scale.md): an address, auto or local",
    )
    add("--force", action="store_true", help="write existing depth maps again")
    add("--raw", type=Path, metavar="RAW", help="first add KITTI's raw drives as frames without labels")
    add("--mapping", type=Path, metavar="DIR", help="with --raw: the devkit's train_mapping, train_rand")
    add("--every", type=count, default=1, metavar="N", help="with --raw: every n-th frame of a drive")
    add("--only-training-drives", action="store_true", help="with --raw: no drives that may hold test frames")


def run(options: argparse.Namespace) -> None:
    """Add the raw drives if asked to, then write the depth maps."""
    from monoskd.kitti.prepare import prepare

    if (options.raw is None) != (options.mapping is None):
        raise InputError("prepare: expected --raw and --mapping together: the mapping keeps validation frames out")
    if options.raw is None and (options.every > 1 or options.only_training_drives):
        raise InputError("prepare: expected --every and --only-training-drives with --raw only, got no --raw")
    if options.raw is not None:
        _add_raw(options)
    with progress_of("depth maps") as progress:
        if options.ray is not None:
            from monoskd.scale.prepare import prepare_on_ray

            report = prepare_on_ray(options.root, address=options.ray, force=options.force, progress=progress)
        else:
            report = prepare(options.root, workers=options.workers, force=options.force, progress=progress)
    say(str(report))


def _add_raw(options: argparse.Namespace) -> None:
    from monoskd.kitti.leakage import RECORD
    from monoskd.kitti.raw import prepare_raw

    with progress_of("raw drives") as progress:
        report = prepare_raw(
            options.raw,
            options.root,
            mapping=options.mapping,
            every=options.every,
            only_training_drives=options.only_training_drives,
            progress=progress,
        )
    say(f"{report}: {options.root / RECORD}")
