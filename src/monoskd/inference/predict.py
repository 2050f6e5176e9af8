"""Pictures of any source become result files, a document, drawings and a video."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monoskd.errors import InputError
from monoskd.frames import AnyPredictor, DetectionRows, Frame
from monoskd.inference.cameras import CameraSource
from monoskd.inference.lens import Lens
from monoskd.inference.outputs import DRAWINGS, RESULTS, Outputs, Prediction
from monoskd.inference.pictures import Broken, Picture, open_source
from monoskd.inference.rerun_file import RerunFile
from monoskd.objects import has_2d_box
from monoskd.workers import groups, read_ahead

_NAMED = 3  # broken pictures that the error names


@dataclass(frozen=True)
class Summary:
    """What was done.

    score: the least of the detections. exif: cameras that come from there. earlier: pictures of earlier predictions
    that are in the folder too. left_out: videos of the source, a folder.
    """

    images: int
    detections: int
    score: float
    seconds: float
    exif: tuple[str, ...] = ()
    earlier: int = 0
    left_out: int = 0


def predict_source(
    predictor: AnyPredictor,
    source: str | Path,
    *,
    cameras: CameraSource,
    out: Path,
    score: float | None = None,
    draw: bool = False,
    video: Path | None = None,
    rerun: Path | None = None,
    batch_size: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Predict all pictures of a source (see `open_source`); returns what was done.

    Writes `out/kitti/<stem>.txt` and `out/detections.json`, with `draw` also `out/drawn/<stem>.jpg` (the boxes on the
    picture and from above), with `video` an MP4 of these drawings, with `rerun` a recording for the Rerun viewer.
    score: least score, by default the predictor's. batch_size: pictures that go through the network together. What was
    done before an interruption stays. progress: called with (done or broken, total), total 0 if unknown; report: called
    with what was done, also before an error.

    Raises InputError where files that are read would be written over, and at the end, once all others are done, for
    pictures that cannot be read or have no camera.
    """
    check_pictures_suffice(predictor)
    score = predictor.score if score is None else score
    pictures = open_source(source)
    check_apart(out, [*pictures.files, *cameras.files], video=video)
    broken: list[str] = []
    exif: dict[str, None] = {}
    images, detections, start = 0, 0, time.perf_counter()
    recording = None if rerun is None else RerunFile(rerun)
    with (
        Outputs(out, draw=draw, video=video, frames_a_second=pictures.frames_a_second) as outputs,
        closing(recording) if recording else nullcontext(),
    ):
        for group in groups(read_ahead(pictures.items, most=2 * batch_size), batch_size):
            pairs = []
            for item in group:
                try:
                    pair = with_lens(item, cameras)
                    outputs.check(pair[0])
                    pairs.append(pair)
                except InputError as error:
                    broken.append(str(error))
            for prediction in predict_pictures(predictor, pairs, score=score):
                outputs.write(prediction)
                if recording is not None:
                    recording.add(prediction)
                images, detections = images + 1, detections + len(prediction.objects)
                if prediction.lens.exif is not None:
                    exif[prediction.lens.exif] = None
            progress(images + len(broken), pictures.total)
    earlier = len(outputs.entries) - images
    seconds = time.perf_counter() - start
    summary = Summary(images, detections, score, seconds, tuple(exif), earlier, len(pictures.left_out))
    report(summary)
    if broken:
        raise InputError(complaint(broken, done=images, out=out))
    return summary


def check_pictures_suffice(predictor: AnyPredictor) -> None:
    """Raise InputError for a network that needs more than pictures."""
    if predictor.modality != "rgb":
        raise InputError("model: expected an rgb network, got one that needs depth maps: give the student's model")


def with_lens(item: Picture | Broken, cameras: CameraSource) -> tuple[Picture, Lens]:
    """A picture and its camera. Raises InputError for one that cannot be read or has none."""
    if isinstance(item, Broken):
        raise InputError(item.reason)
    height, width = item.image.shape[:2]
    return item, cameras.lens(item.stem, width=width, height=height, focal_35mm=item.focal_35mm)


def predict_pictures(
    predictor: AnyPredictor, pairs: Sequence[tuple[Picture, Lens]], *, score: float
) -> Iterator[Prediction]:
    """Pictures with their lenses, rectified, looked at together, and put back into their own pixels.

    score: least score.
    """
    frames = []
    for picture, lens in pairs:
        image = picture.image if lens.rectified is None else lens.rectified.picture(picture.image)
        frames.append(Frame(image=image, camera=lens.camera))
    for (picture, lens), detections in zip(pairs, predictor.batch(frames) if frames else [], strict=True):
        yield _prediction(picture, lens, detections.above(score))


def _prediction(picture: Picture, lens: Lens, detections: DetectionRows) -> Prediction:
    """In the picture as it was; what shows only beside it, in the rectified one alone, is left out."""
    objects, deviation = detections.to_objects(), detections.depth_std_m
    deviation = None if deviation is None else np.asarray(deviation, np.float64)
    if lens.rectified is not None:
        objects = replace(objects, boxes_2d=lens.rectified.back_boxes(objects.boxes_2d))
        shown = has_2d_box(objects)
        objects, deviation = objects[shown], None if deviation is None else deviation[shown]
    return Prediction(picture, lens, objects, deviation)


def complaint(broken: list[str], *, done: int, out: Path) -> str:
    """One line about the pictures that were not predicted, a reason that several share said once.

    broken: a line a picture, its name in front of the first colon.
    """
    if len(broken) == 1 and not done:
        return broken[0]
    names_of: dict[str, list[str]] = {}
    for line in broken:
        name, _, reason = line.partition(": ")
        names_of.setdefault(reason, []).append(name)
    told = [(names[:_NAMED], len(names), reason) for reason, names in names_of.items()]
    parts = [
        f"{', '.join(names)}{f' and {count - len(names)} more' if count > len(names) else ''}: {reason}"
        for names, count, reason in told[:_NAMED]
    ]
    untold = sum(count for _, count, _ in told[_NAMED:])
    more = f", and {untold} more" if untold else ""
    kept = f"; {done} others are done and kept in {out}" if done else ""
    return "; ".join(parts) + more + kept


def check_apart(out: Path, read: list[Path], *, video: Path | None) -> None:
    """Refuse an output folder whose files would fall on those that are read."""
    writes = {(out / RESULTS).resolve(): "results", (out / DRAWINGS).resolve(): "drawings"}
    for path in read:
        folder = (path if path.is_dir() else path.parent).resolve()
        if folder in writes:
            raise InputError(f"{path}: expected a place that no {writes[folder]} go to, got {folder}: change `--out`")
        if video is not None and path.resolve() == video.resolve():
            raise InputError(f"{video}: expected a video to write, got the one that is read: change `--video`")
