"""Prediction on a Ray cluster: the files of `monoskd predict`, by actors that hold the model."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from monoskd.errors import InputError
from monoskd.files import read_json, write_json, write_text
from monoskd.frames import AnyPredictor
from monoskd.inference.cameras import CameraSource
from monoskd.inference.lens import Lens
from monoskd.inference.outputs import DOCUMENT, RESULTS, check_drawing, read_entries, write_document, write_results
from monoskd.inference.pictures import Picture, open_source, read_picture
from monoskd.inference.predict import (
    Summary,
    check_apart,
    check_pictures_suffice,
    complaint,
    predict_pictures,
    with_lens,
)
from monoskd.scale.spread import spread

PROGRESS, MADE_OF = ".ray", "made_of.json"
_GROUP = 16  # pictures that an actor does at a time; what a killed one repeats


@dataclass(frozen=True)
class Done:
    """A picture that was looked at: how many detections it has and a camera from EXIF, or what is wrong with it."""

    detections: int = 0
    exif: str | None = None
    fault: str | None = None


def predict_on_ray(
    make_predictor: Callable[..., AnyPredictor],
    source: str | Path,
    *,
    address: str,
    model: Path,
    cameras: CameraSource,
    out: Path,
    score: float | None = None,
    draw: bool = False,
    batch_size: int = 1,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Predict all pictures of a source on a cluster whose machines see the same files; writes what `predict` writes.

    make_predictor: called with `device=` in each actor, and here with the CPU. model: its file. A later call for the
    same folder skips the pictures that are there; it is refused where model, camera or options differ. Other arguments
    as `predict_source` and `spread`.

    Raises InputError at the end, once all others are done, for pictures that cannot be read or have no camera.
    """
    predictor = make_predictor(device="cpu")
    check_pictures_suffice(predictor)
    score = predictor.score if score is None else score
    pictures = open_source(source)
    if pictures.total != len(pictures.files) or not pictures.files:
        raise InputError(f"{source}: expected pictures with names that differ, got a video or two of one name")
    check_apart(out, [*pictures.files, *cameras.files], video=None)
    folder, start = out / PROGRESS, time.perf_counter()
    cameras = replace(cameras, calibration=_absolute(cameras.calibration), file=_absolute(cameras.file))
    entries = _begin(
        out, {"model": _digest(model), "fit": predictor.fit, "score": score, "draw": draw, **_plain(cameras)}
    )
    todo = [path.absolute() for path in pictures.files if path.stem not in entries]
    groups = [todo[first : first + _GROUP] for first in range(0, len(todo), _GROUP)]
    in_actor = partial(make_predictor, device=device)
    make = partial(_Task, in_actor, cameras, out.absolute(), score=score, draw=draw, batch_size=batch_size)
    gpus = float(device.startswith("cuda"))
    done: list[Done] = []
    try:
        for results in spread(make, groups, address=address, gpus=gpus):
            done += results
            progress(len(done), len(todo))
    finally:
        entries |= _entries(folder)
        if entries:
            write_document(out / DOCUMENT, entries)
            for path in folder.glob("*.entry.json"):
                path.unlink()
    good = [one for one in done if one.fault is None]
    exif = tuple(dict.fromkeys(one.exif for one in good if one.exif is not None))
    detections, seconds = sum(one.detections for one in good), time.perf_counter() - start
    summary = Summary(len(good), detections, score, seconds, exif, left_out=len(pictures.left_out))
    report(summary)
    if broken := sorted(one.fault for one in done if one.fault is not None):
        raise InputError(complaint(broken, done=len(good), out=out))
    return summary


class _Task:
    """What one actor does with a group of pictures."""

    def __init__(
        self,
        make_predictor: Callable[[], AnyPredictor],
        cameras: CameraSource,
        out: Path,
        *,
        score: float,
        draw: bool,
        batch_size: int,
    ) -> None:
        self.predictor = make_predictor()
        self.cameras, self.out = cameras, out
        self.score, self.draw, self.batch_size = score, draw, batch_size

    def __call__(self, paths: list[Path]) -> list[Done]:
        """Predict pictures; what is wrong with one does not stop the others."""
        done: list[Done] = []
        for first in range(0, len(paths), self.batch_size):
            pairs: list[tuple[Picture, Lens]] = []
            for path in paths[first : first + self.batch_size]:
                try:
                    pair = with_lens(read_picture(path), self.cameras)
                    if self.draw:
                        check_drawing(self.out, pair[0])
                    pairs.append(pair)
                except InputError as error:
                    done.append(Done(fault=str(error)))
            done += self._predicted(pairs)
        return done

    def _predicted(self, pairs: list[tuple[Picture, Lens]]) -> list[Done]:
        """Write the files of each picture, and last its entry: what has an entry is done."""
        done = []
        for prediction in predict_pictures(self.predictor, pairs, score=self.score):
            write_results(self.out, prediction, drawn=prediction.drawn() if self.draw else None)
            entry = self.out / PROGRESS / f"{prediction.picture.stem}.entry.json"
            write_text(entry, json.dumps(prediction.as_json()))
            done.append(Done(len(prediction.objects), prediction.lens.exif))
        return done


def _begin(out: Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the pictures that are there. Raises InputError where they are made of something else."""
    record = out / PROGRESS / MADE_OF
    if record.is_file():
        if read_json(record) != made_of:
            raise InputError(
                f"{out}: expected predictions of this model, camera and score to go on with, got others: choose "
                f"another `--out`, or remove {out}"
            )
    elif (out / DOCUMENT).exists() or (out / RESULTS).exists():
        raise InputError(f"{out}: expected a new folder or one of `--ray`, got predictions: choose another `--out`")
    else:
        write_json(record, made_of)
    there = read_entries(out / DOCUMENT) if (out / DOCUMENT).exists() else {}
    return there | _entries(out / PROGRESS)


def _entries(folder: Path) -> dict[str, Any]:
    found = [read_json(path) for path in folder.glob("*.entry.json")]
    return {entry["image"]: entry for entry in found}


def _plain(cameras: CameraSource) -> dict[str, Any]:
    """The way to the cameras as plain values; calibrations by path."""
    names = ("calibration", "file", "focal_px", "hfov_deg", "pitch_deg", "roll_deg")
    values = {name: getattr(cameras, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _digest(model: Path) -> str:
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
