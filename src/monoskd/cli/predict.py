"""`monoskd predict`: boxes on images, a folder or a video."""

import argparse
from pathlib import Path

from monoskd.cli.parser import Commands, add_command, share
from monoskd.cli.terminal import progress_of, say


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
    add("source", type=Path, metavar="SOURCE", help="image, folder of images or video")
    add("--model", type=Path, required=True, help="model file")
    add("--calib", type=Path, default=None, help="KITTI calibration file, or folder with one for each image")
    add("--focal", type=float, default=None, metavar="PX", help="focal length [px] of a camera without calibration")
    add("--hfov", type=float, default=None, metavar="DEG", help="or its horizontal field of view [degrees]")
    add("--out", type=Path, default=Path("predictions"), help="folder to write")
    add("--score", type=share, default=0.2, help="least score")
    add("--draw", action="store_true", help="draw the boxes, from the camera and from above")
    add("--device", default="cpu", help="torch device")


def run(options: argparse.Namespace) -> None:
    """Predict, and say how much was detected."""
    from monoskd.inference.predictor import CameraSource, Predictor, predict_source

    cameras = CameraSource(calibration=options.calib, focal_px=options.focal, hfov_deg=options.hfov)
    predictor = Predictor(options.model, device=options.device)
    with progress_of("predicting") as progress:
        summary = predict_source(
            predictor,
            options.source,
            cameras=cameras,
            out=options.out,
            score=options.score,
            draw=options.draw,
            progress=progress,
        )
    counts = f"{summary.images} images, {summary.detections} detections"
    say(f"{counts} with a score of {options.score:g} or more: {options.out}")
