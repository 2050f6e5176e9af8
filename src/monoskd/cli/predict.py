"""`monoskd predict`: boxes on images, a folder or a video."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monoskd.cli.model_options import add_model_options, open_model
from monoskd.cli.parser import Commands, add_command, number, share
from monoskd.cli.terminal import progress_of, say
from monoskd.errors import InputError

if TYPE_CHECKING:
    from monoskd.inference.predict import Summary


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "predict",
        run=run,
        help_="boxes on images, a folder or a video",
        example="photo.jpg --model model.safetensors --focal 1100 --draw",
    )
    add = parser.add_argument
    add_model_options(parser)
    source = "image, folder, glob, text list of images, video or camera number"
    add("source", type=Path, metavar="SOURCE", help=source)
    add("--calib", type=Path, help="KITTI calibration file, or folder with one for each image")
    add("--camera", type=Path, metavar="FILE", help="camera file (JSON or YAML), with lens distortion")
    add("--focal", type=number, metavar="PX", help="focal length [px] of a camera without calibration")
    add("--hfov", type=number, metavar="DEG", help="or its horizontal field of view [degrees]")
    add("--pitch", type=number, default=0.0, metavar="DEG", help="how far the camera looks down [degrees]")
    add("--roll", type=number, default=0.0, metavar="DEG", help="how far it is turned clockwise [degrees]")
    add("--out", type=Path, default=Path("predictions"), help="folder to write")
    add("--score", type=share, help="least score (default: the best of the model's validation)")
    add("--draw", action="store_true", help="draw the boxes, from the camera and from above")
    add("--video", type=Path, metavar="OUT.mp4", help="write the drawings as a video")
    add("--rerun", type=Path, metavar="OUT.rrd", help="write a recording for the Rerun viewer")
    add("--ray", metavar="ADDRESS", help="do it on a Ray cluster (docs/scale.md): an address, auto or local")


def run(options: argparse.Namespace) -> None:
    """Predict, and say how much was detected."""
    from monoskd.inference.cameras import CameraSource
    from monoskd.inference.predict import predict_source

    cameras = CameraSource(
        calibration=options.calib,
        file=options.camera,
        focal_px=options.focal,
        hfov_deg=options.hfov,
        pitch_deg=options.pitch,
        roll_deg=options.roll,
    )
    done: list[Summary] = []
    try:
        with progress_of("predicting") as progress:
            if options.ray is not None:
                _on_ray(options, cameras=cameras, progress=progress, report=done.append)
                return
            predict_source(
                open_model(options),
                options.source,
                cameras=cameras,
                out=options.out,
                score=options.score,
                draw=options.draw,
                video=options.video,
                rerun=options.rerun,
                batch_size=options.batch_size,
                progress=progress,
                report=done.append,
            )
    finally:
        for summary in done:
            _say(summary, options)


def _on_ray(options: argparse.Namespace, **given: Any) -> None:
    from monoskd.inference.open_model import open_predictor
    from monoskd.scale.predict import predict_on_ray

    if in_order := next((name for name in ("video", "rerun") if getattr(options, name) is not None), None):
        raise InputError(
            f"--{in_order}: expected no --ray, whose machines do not predict in order, got both: leave one out"
        )
    names = ("model", "out", "score", "draw", "batch_size", "device")
    given |= {name: getattr(options, name) for name in names}
    make_predictor = partial(open_predictor, options.model.absolute(), fit=options.fit, half=options.half)
    predict_on_ray(make_predictor, options.source, address=options.ray, **given)


def _say(summary: "Summary", options: argparse.Namespace) -> None:
    for camera in summary.exif:
        say(f"camera from {camera}")
    if summary.left_out:
        say(f"{summary.left_out} videos in {options.source} are left out: predict them one by one")
    if not summary.images:
        return
    rate = summary.images / max(summary.seconds, 1e-9)
    counts = f"{summary.images} images, {summary.detections} detections"
    say(f"{counts} with a score of {summary.score:.2g} or more, {rate:.3g} images/s: {options.out}")
    if summary.earlier:
        say(f"{summary.earlier} images of earlier predictions are in {options.out} too")
