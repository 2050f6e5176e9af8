"""Words in, one call, words out. Heavy imports wait for the command that needs them."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from monoskd import __version__
from monoskd.errors import InputError

USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for bad input or usage, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        options, rest = build_parser().parse_known_args([word for word in words if word != "--debug"])
        if rest and options.run is not _train:
            raise InputError(f"unknown option {rest[0]!r}; see `monoskd {options.command} --help`")
        options.overrides = rest
        options.run(options)
    except InputError as error:
        return _complain(str(error), debug)
    except KeyboardInterrupt:
        if argv is None:  # a second one would only interrupt the farewell
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("interrupted; what was done is kept\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _complain(f"{error.filename or options.command}: {error.strerror or error}", debug)
    return 0


def _complain(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"monoskd: {' '.join(message.split())}\n")
    return USAGE_ERROR


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like every other."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(prog="monoskd", description="Teach a camera to see in 3D with the help of a LiDAR.")
    parser.add_argument("--version", action="version", version=f"monoskd {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback behind an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(run: Callable[[argparse.Namespace], None], help_: str, example: str) -> argparse.ArgumentParser:
        name = run.__name__.strip("_")
        sub = commands.add_parser(
            name,
            help=help_,
            description=help_,
            epilog=f"example: monoskd {name} {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    add = command(_demo, "the main job on rendered data, end to end", "--out demo --seed 1").add_argument
    add("--out", type=Path, default=Path("demo"), help="folder for data, runs and report")
    add("--frames", type=_count, default=360, help="rendered frames; 200 of 360 are held out")
    add("--seed", type=int, default=0, help="of the scenes and of every training")
    add("--size", type=_size, default=(320, 96), metavar="WxH", help="size of the pictures")

    add = command(_synth, "rendered street scenes in KITTI layout", "scenes --frames 100").add_argument
    add("out", type=Path, metavar="OUT", help="folder to write")
    add("--frames", type=_count, required=True, help="how many")
    add("--val", type=_share, default=0.25, help="share of the frames in the val split")
    add("--unlabelled", type=_count, default=0, metavar="N", help="so many frames more, without labels")
    add("--seed", type=int, default=0, help="the same seed draws the same scenes")
    add("--size", type=_size, default=(1242, 375), metavar="WxH", help="size of the pictures")
    add("--workers", type=_count, default=None, help="processes; one a core if not given")

    add = command(_prepare, "dense depth maps from velodyne", "data/kitti").add_argument
    add("root", type=Path, metavar="ROOT", help="folder with training/ in KITTI layout")
    add("--workers", type=_count, default=None, help="processes; one a core if not given")
    add("--force", action="store_true", help="write again what is there already")
    add("--raw", type=Path, default=None, metavar="RAW", help="first add KITTI's raw drives as frames without labels")
    add("--mapping", type=Path, default=None, metavar="DIR", help="with --raw: the devkit's train_mapping, train_rand")
    add("--every", type=_count, default=1, metavar="N", help="with --raw: each n-th frame of a drive")
    add("--only-training-drives", action="store_true", help="with --raw: no drives that may hold test frames")

    add = command(_doctor, "what is wrong with a data set", "data/kitti --html findings.html").add_argument
    add("root", type=Path, metavar="ROOT", help="folder with training/ and ImageSets/ in KITTI layout")
    add("--json", type=Path, default=None, help="write the findings as JSON")
    add("--html", type=Path, default=None, help="write the findings as a page")

    add = command(
        _train, "train a teacher, a student, or a student with a teacher", "kitti/teacher.yaml --data.root data/kitti"
    ).add_argument
    add(
        "config",
        type=Path,
        metavar="CONFIG.yaml",
        help="a file, or a shipped one such as kitti/monoskd.yaml; then --a.b VALUE to override",
    )
    add("--resume", type=Path, default=None, metavar="RUN", help="run folder to go on from")

    add = command(_evaluate, "KITTI average precision", "--labels label_2 --predictions out/kitti").add_argument
    add("--labels", type=Path, default=None, help="folder of label_2 files")
    add("--predictions", type=Path, default=None, help="folder of result files")
    add("--model", type=Path, default=None, help="model file: predict first (with --data)")
    add("--data", type=Path, default=None, help="data set to predict on, in KITTI layout")
    add("--split", default=None, help="with --labels a file of frame names, with --data a name in ImageSets [val]")
    add("--classes", type=_names, default=("Pedestrian", "Car", "Cyclist"), help="comma-separated")
    add(
        "--min-heights",
        type=_heights,
        default=(40.0, 25.0, 25.0),
        metavar="EASY,MODERATE,HARD",
        help="2D heights [px] that objects must exceed; scale them with pictures smaller than KITTI's",
    )
    add("--json", type=Path, default=None, help="write the table as JSON")
    add("--html", type=Path, default=None, help="write a page with precision-recall curves")
    add("--bootstrap", type=_count, default=None, metavar="N", help="95 %% intervals from N resamplings of the frames")
    add("--distances", action="store_true", help="also by distance: 0-20, 20-40, 40+ m")
    add("--anatomy", action="store_true", help="also with parts of each detection replaced by the truth")

    add = command(
        _predict, "boxes on images, a folder or a video", "photo.jpg --model model.safetensors --focal 1100 --draw"
    ).add_argument
    add("source", type=Path, metavar="SOURCE", help="image, folder of images or video")
    add("--model", type=Path, required=True, help="model file")
    add("--calib", type=Path, default=None, help="KITTI calibration file, or folder with one for each image")
    add("--focal", type=float, default=None, metavar="PX", help="focal length [px] of a camera without calibration")
    add("--hfov", type=float, default=None, metavar="DEG", help="or its horizontal field of view [degrees]")
    add("--out", type=Path, default=Path("predictions"), help="folder to write")
    add("--score", type=_share, default=0.2, help="least score")
    add("--draw", action="store_true", help="draw the boxes, from the camera and from above")
    add("--device", default="cpu", help="torch device")

    add = command(_convert, "import a published checkpoint", "monoskd.pth student.safetensors").add_argument
    add("source", type=Path, metavar="PUBLISHED.pth", help="checkpoint of the published implementation")
    add("out", type=Path, metavar="OUT.safetensors", help="model file to write")
    add("--part", choices=("student", "teacher"), default="student", help="which network of a distillation checkpoint")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from monoskd.demo.story import demo

    report = demo(options.out, frames=options.frames, seed=options.seed, size=options.size, say=_say)
    _say(f"report: {report}")


def _synth(options: argparse.Namespace) -> None:
    from monoskd.synthetic import synthesize

    with _progress("rendering") as progress:
        synthesize(
            options.out,
            frames=options.frames,
            val=options.val,
            seed=options.seed,
            size=options.size,
            unlabelled=options.unlabelled,
            workers=options.workers,
            progress=progress,
        )
    _say(f"{options.frames + options.unlabelled} frames in {options.out}; next: monoskd prepare {options.out}")


def _prepare(options: argparse.Namespace) -> None:
    from monoskd.kitti.prepare import prepare

    if (options.raw is None) != (options.mapping is None):
        raise InputError("prepare: expected --raw and --mapping together, which tells what validation frames are from")
    if options.raw is None and (options.every > 1 or options.only_training_drives):
        raise InputError("prepare: expected --every and --only-training-drives with --raw alone, got no --raw")
    if options.raw is not None:
        _add_raw(options)
    with _progress("depth maps") as progress:
        report = prepare(options.root, workers=options.workers, force=options.force, progress=progress)
    _say(str(report))


def _add_raw(options: argparse.Namespace) -> None:
    from monoskd.kitti.leakage import RECORD
    from monoskd.kitti.raw import prepare_raw

    with _progress("raw drives") as progress:
        report = prepare_raw(
            options.raw,
            options.root,
            mapping=options.mapping,
            every=options.every,
            only_training_drives=options.only_training_drives,
            progress=progress,
        )
    _say(f"{report}: {options.root / RECORD}")


def _doctor(options: argparse.Namespace) -> None:
    from monoskd.kitti.doctor import examine

    _check_reports(options)
    with _progress("examining") as progress:
        report = examine(options.root, progress=progress)
    _say(report.to_text())
    if options.json:
        report.write_json(options.json)
    if options.html:
        report.write_html(options.html)
    if not report.ok:
        raise InputError(f"{options.root}: {report.verdict}; the findings are listed above")


def _train(options: argparse.Namespace) -> None:
    from monoskd.engine.config import load_config
    from monoskd.engine.run import train

    _say(f"run folder: {train(load_config(options.config, options.overrides), resume=options.resume)}")


def _evaluate(options: argparse.Namespace) -> None:
    from monoskd.evaluation.report import table, write_html, write_json

    folders, model = (options.labels, options.predictions), (options.model, options.data)
    if not ((all(folders) and not any(model)) or (all(model) and not any(folders))):
        raise InputError("evaluate: expected either --labels and --predictions, or --model and --data")
    _check_reports(options)
    wanted = {"classes": options.classes, "min_heights": options.min_heights, "bootstrap": options.bootstrap}
    wanted |= {"distances": options.distances, "anatomy": options.anatomy}
    if all(folders):
        from monoskd.engine.evaluate import evaluate_folders

        split = Path(options.split) if options.split else None
        evaluation = evaluate_folders(labels=options.labels, predictions=options.predictions, split=split, **wanted)
    else:
        from monoskd.engine.measure import evaluate_model

        with _progress("predicting") as progress:
            evaluation = evaluate_model(
                options.model, root=options.data, split=options.split or "val", progress=progress, **wanted
            )
    _say(table(evaluation))
    if options.json:
        write_json(evaluation, options.json)
    if options.html:
        write_html(evaluation, options.html)


def _check_reports(options: argparse.Namespace) -> None:
    """Whether the files of --json and --html can be written, before the work that they are to tell of."""
    from monoskd.files import check_report

    for path, suffix in ((options.json, ".json"), (options.html, ".html")):
        if path is not None:
            check_report(path, suffix=suffix)
    if options.json is not None and options.json == options.html:
        raise InputError(f"{options.command}: expected --json and --html to differ, got {options.json} for both")


def _predict(options: argparse.Namespace) -> None:
    from monoskd.inference.predictor import CameraSource, Predictor, predict_source

    cameras = CameraSource(calibration=options.calib, focal_px=options.focal, hfov_deg=options.hfov)
    predictor = Predictor(options.model, device=options.device)
    with _progress("predicting") as progress:
        found = predict_source(
            predictor,
            options.source,
            cameras=cameras,
            out=options.out,
            score=options.score,
            draw=options.draw,
            progress=progress,
        )
    _say(
        f"{found.images} images, {found.detections} detections with a score of {options.score:g} or more: {options.out}"
    )


def _convert(options: argparse.Namespace) -> None:
    from monoskd.models.did_m3d.published import convert

    _say(str(convert(options.source, options.out, part=options.part)))


def _say(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a plain line now and then elsewhere; called with (done, total)."""
    if sys.stderr.isatty():
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
        return

    def line(done: int, total: int) -> None:
        if done == total or done % max(total // 10, 1) == 0:
            sys.stderr.write(f"{what}: {done}/{total}\n")

    yield line


def _count(text: str) -> int:
    """A positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def _size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT`."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 416x128, got {text!r}")
    return int(width), int(height)


def _names(text: str) -> tuple[str, ...]:
    """Comma-separated names."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"expected comma-separated names, got {text!r}")
    return names


def _heights(text: str) -> tuple[float, ...]:
    """Three heights above 0."""
    try:
        heights = tuple(float(height) for height in text.split(","))
    except ValueError:
        heights = ()
    if len(heights) != 3 or not all(0 < height < float("inf") for height in heights):
        raise argparse.ArgumentTypeError(f"expected three heights above 0 px such as 40,25,25, got {text!r}")
    return heights
