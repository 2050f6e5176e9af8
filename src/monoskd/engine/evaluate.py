"""Folders of label and result files to an evaluation."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from monoskd.errors import InputError
from monoskd.evaluation.kitti_ap import evaluate_kitti
from monoskd.evaluation.results import Evaluation
from monoskd.evaluation.rules import MIN_HEIGHTS_PX, NEIGHBOURS
from monoskd.kitti.bulk import read_objects_folder
from monoskd.kitti.io import read_split
from monoskd.objects import Objects


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
    """KITTI average precision of `predictions/NNNNNN.txt` against `labels/NNNNNN.txt`; options as `evaluate_kitti`.

    split: file with the frames to evaluate, one a line; every labelled frame if not given. All of them count: one
    without a result file is one without detections. Results of labelled frames outside the split are left out. Notes
    on the evaluation say how many there were of either.

    Raises InputError where a folder, a label or the split is missing, where a file is damaged, and for a result
    without a label.
    """
    labelled, predicted = _frames_in(labels), _frames_in(predictions)
    frames = sorted(labelled) if split is None else read_split(split)
    _check_labelled(predicted, labelled, what="result", folder=predictions, labels=labels)
    _check_labelled(set(frames), labelled, what="frame", folder=split or labels, labels=labels)
    found = [frame for frame in frames if frame in predicted]
    detections = dict(zip(found, read_objects_folder(predictions, found, scored=True), strict=True))
    nothing = Objects.empty(scored=True)
    evaluation = evaluate_kitti(
        read_objects_folder(labels, frames),
        [detections.get(frame, nothing) for frame in frames],
        classes=classes,
        min_heights=min_heights,
        bootstrap=bootstrap,
        seed=seed,
        distances=distances,
        anatomy=anatomy,
    )
    notes = _notes(frames=len(frames), found=len(found), predicted=len(predicted))
    return replace(evaluation, notes=(*evaluation.notes, *notes))


def _notes(*, frames: int, found: int, predicted: int) -> tuple[str, ...]:
    notes = []
    if found < frames:
        notes.append(f"{frames - found} of {frames} frames have no result file and count as frames without detections")
    if found < predicted:
        notes.append(f"{predicted - found} result files belong to frames outside the split and were left out")
    return tuple(notes)


def _frames_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder of .txt files, got '{error.strerror}': check the path"
        ) from error
    return {name.removesuffix(".txt") for name in names if name.endswith(".txt") and not name.startswith(".")}


def _check_labelled(frames: set[str], labelled: set[str], *, what: str, folder: Path, labels: Path) -> None:
    unknown = sorted(frames - labelled)
    if unknown:
        raise InputError(
            f"{folder}: expected a label in {labels} for every {what}, got none for {unknown[0]}"
            f"{f' and {len(unknown) - 1} more' if unknown[1:] else ''}: add the label or remove the {what}"
        )
