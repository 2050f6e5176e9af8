"""`monoskd evaluate`: KITTI average precision of result files or of a model."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monoskd.cli.model_options import add_model_options, check_no_model_options, open_model
from monoskd.cli.parser import Commands, add_command, count, heights, names
from monoskd.cli.reports import add_reports, check_reports, write_reports
from monoskd.cli.terminal import progress_of
from monoskd.errors import InputError

if TYPE_CHECKING:
    from monoskd.evaluation.results import Evaluation


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "evaluate",
        run=run,
        help_="KITTI average precision",
        example="--labels label_2 --predictions out/kitti",
    )
    add = parser.add_argument
    add("--labels", type=Path, help="folder of label_2 files")
    add("--predictions", type=Path, help="folder of result files")
    add_model_options(parser, required=False)
    data = "with --model: data set to predict on, in KITTI layout unless --dataset reads another"
    add("--data", type=Path, help=data)
    add("--dataset", metavar="CLASS", help="with --data: a FrameSource by dotted path, as data.dataset")
    add("--split", help="with --labels a file of frame names, with --data a name in ImageSets (default: val)")
    add("--classes", type=names, default="Pedestrian,Car,Cyclist", help="comma-separated")
    add(
        "--min-heights",
        type=heights,
        default="40,25,25",
        metavar="EASY,MODERATE,HARD",
        help="2D heights [px] that objects must exceed; scale them with pictures smaller than KITTI's",
    )
    add_reports(parser, json="write the table as JSON", html="write a page with precision-recall curves")
    add("--bootstrap", type=count, metavar="N", help="95 %% intervals from N resamplings of the frames")
    add("--distances", action="store_true", help="also by distance: 0-20, 20-40, 40+ m")
    add("--anatomy", action="store_true", help="also with parts of each detection replaced by the truth")


def run(options: argparse.Namespace) -> None:
    """Evaluate; write the files, then print."""
    from monoskd.engine.evaluation_report import text, write_html, write_json

    folders, model = (options.labels, options.predictions), (options.model, options.data)
    if not ((all(folders) and not any(model)) or (all(model) and not any(folders))):
        raise InputError("evaluate: expected either --labels and --predictions, or --model and --data")
    if not all(model):
        if options.dataset is not None:
            raise InputError("evaluate: expected --dataset with --model and --data alone, got it with folders")
        check_no_model_options(options)
    check_reports(options)
    evaluation = _evaluation(options)
    write_reports(
        options, json=partial(write_json, evaluation), html=partial(write_html, evaluation), text=text(evaluation)
    )


def _evaluation(options: argparse.Namespace) -> "Evaluation":
    wanted: dict[str, Any] = {
        name: getattr(options, name) for name in ("classes", "min_heights", "bootstrap", "distances", "anatomy")
    }
    if options.labels is not None:
        from monoskd.engine.evaluate import evaluate_folders

        split = None if options.split is None else Path(options.split)
        return evaluate_folders(labels=options.labels, predictions=options.predictions, split=split, **wanted)
    from monoskd.engine.config import DataConfig, source_class
    from monoskd.engine.evaluate import evaluate_predictor

    source = source_class(options.dataset or DataConfig.dataset)
    predictor = open_model(options)
    name = "val" if options.split is None else options.split
    frames = source(options.data, split=name, depth=predictor.modality != "rgb", labels=True)
    with progress_of("predicting") as progress:
        return evaluate_predictor(predictor, frames, batch_size=options.batch_size, progress=progress, **wanted)
