"""Result files, or what a model finds in the frames of a recording, to an evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monoskd.errors import InputError
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.results import Evaluation
from monoskd.evaluation.rules import MIN_HEIGHTS_PX, NEIGHBOURS, known_classes
from monoskd.files import visible
from monoskd.frames import AnyPredictor, Frame
from monoskd.kitti.bulk import read_objects_folder
from monoskd.kitti.io import read_split
from monoskd.kitti.layout import frames_in, has_suffix, meant
from monoskd.objects import Objects
from monoskd.workers import groups, read_ahead

if TYPE_CHECKING:
    from monoskd.structures import FrameSource  # with torch, which folders do not need

_KIND = "label_2"  # results are spelt as labels


def evaluate_predictor(
    predictor: AnyPredictor,
    source: "FrameSource",
    *,
    classes: Sequence[str] = tuple(NEIGHBOURS),
    batch_size: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Evaluation:
    """KITTI average precision of what a predictor finds in every frame of a source; options as `evaluate_kitti`.

    A frame without labels has no objects. classes: KITTI's or the predictor's. batch_size: pictures that go through the
    network together. progress: called with (frames done, frames in all).

    Raises InputError before any prediction for another class; one about a picture names its frame, or the batch's.
    """
    known_classes(classes, present=predictor.classes)
    truth: list[Objects] = []
    detections: list[Objects] = []
    for group in groups(read_ahead(_read(source), most=2 * batch_size), batch_size):
        names, frames = zip(*group, strict=True)
        try:
            detections += [found.to_objects() for found in predictor.batch(frames)]
        except InputError as error:
            where = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            raise InputError(f"{where}: {error}") from error
        truth += [Objects.empty() if frame.objects is None else frame.objects for frame in frames]
        progress(len(truth), len(source.names))
    return evaluate_kitti(truth, detections, classes=classes, **options)


def _read(source: "FrameSource") -> Iterator[tuple[str, Frame]]:
    """Every frame with its name. Unlike `map` it does not end where a source raises StopIteration."""
    for name in source.names:
        yield name, source.read(name)


def evaluate_folders(
    labels: Path,
    predictions: Path,
    *,
    split: Path | None = None,
    classes: Sequence[str] = tuple(NEIGHBOURS),
    min_heights: tuple[float, float, float] = MIN_HEIGHTS_PX,
    bootstrap: int | None = None,
    seed: int = 0,
    distances: bool = False,
    anatomy: bool = False,
) -> Evaluation:
    """KITTI average precision of `predictions/<frame>.txt` against `labels/<frame>.txt`; options as `evaluate_kitti`.

    split: file with the frames to evaluate, one name a line; every labelled frame if None. All of them count: a frame
    without a result file is a frame without detections. Results of labelled frames outside the split are left out.
    Notes on the evaluation say how many there were of both, and which classes have no labelled object.

    Raises InputError where a folder, a label or the split is missing, where there is no label or no result at all,
    where a file is damaged, and for a result without a label.
    """
    labelled, predicted = _frames_in(labels, what="label"), _frames_in(predictions, what="result")
    frames = sorted(labelled) if split is None else read_split(split)
    _check_labelled(predicted, labelled, what="result", folder=predictions, labels=labels)
    _check_labelled(set(frames), labelled, what="frame", folder=split or labels, labels=labels)
    with_result = [frame for frame in frames if frame in predicted]
    detections = dict(zip(with_result, read_objects_folder(predictions, with_result, scored=True), strict=True))
    nothing = Objects.empty(scored=True)
    truth = read_objects_folder(labels, frames, scored=False)
    evaluation = evaluate_kitti(
        truth,
        [detections.get(frame, nothing) for frame in frames],
        classes=classes,
        min_heights=min_heights,
        bootstrap=bootstrap,
        seed=seed,
        distances=distances,
        anatomy=anatomy,
    )
    notes = _notes(frames=len(frames), with_result=len(with_result), predicted=len(predicted))
    return replace(evaluation, notes=(*evaluation.notes, *notes))


def _notes(*, frames: int, with_result: int, predicted: int) -> tuple[str, ...]:
    notes = []
    if with_result < frames:
        notes.append(
            f"{frames - with_result} of {frames} frames have no result file and count as frames without detections"
        )
    if with_result < predicted:
        notes.append(f"{predicted - with_result} result files belong to frames outside the split and were left out")
    return tuple(notes)


def _frames_in(folder: Path, *, what: str) -> set[str]:
    """The frames that have a .txt file in the folder. Raises InputError where one has two, and where there is none."""
    try:
        files = visible(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder of .txt files, got '{error.strerror}': check the path"
        ) from error
    frames = set(frames_in(folder, _KIND))
    if not frames:
        folders = [path for path in files if path.is_dir()]
        deeper = {path: sum(has_suffix(file, _KIND) for file in visible(path.glob("*"))) for path in folders}
        best = max(deeper, key=lambda path: deeper[path], default=folder)
        advice = f"{best} holds {deeper[best]} .txt files, give that folder" if deeper.get(best) else "check the path"
        raise InputError(f"{folder}: expected a .txt file for each frame with a {what}, got none: {advice}")
    return frames


def _check_labelled(frames: set[str], labelled: set[str], *, what: str, folder: Path, labels: Path) -> None:
    unknown = sorted(frames - labelled)
    if unknown:
        more = f" and {len(unknown) - 1} more" if unknown[1:] else ""
        raise InputError(
            f"{folder}: expected a label in {labels} for every {what}, got none for {unknown[0]}"
            f"{meant(unknown[0], labelled)}{more}: add the label or remove the {what}"
        )
