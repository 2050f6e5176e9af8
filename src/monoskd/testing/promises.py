"""What a detector promises (`monoskd.structures.Detector`), one function each.

A promise is given a detector of its own and the batch of two streets, and yields a line for whatever breaks it.
"""

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from torch import Tensor

from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import wrap
from monoskd.models.weights import load_model, save_model
from monoskd.structures import Batch, Detections, Detector, DetectorOutput, Modality, Views
from monoskd.testing.streets import MOVED_PX, enlarged, second_apart, streets

Promise = Callable[[Detector, Batch], Iterator[str]]

_LEARNING_STEPS, _LEARNING_RATE = 15, 1e-3
_ALPHA_TOLERANCE_RAD, _BESIDE_M = 0.05, 0.1  # the camera lies beside the origin of its frame: alpha differs nearby
_LENS_TOLERANCE = 0.02


def settings(detector: Detector, _: None) -> Iterator[str]:
    """It knows what it looks at, what it finds, and what it is made of."""
    if detector.modality not in get_args(Modality):
        yield f"expected a modality of {', '.join(get_args(Modality))}, got {detector.modality!r}"
    classes = detector.classes
    if not (isinstance(classes, tuple) and classes and len({*classes}) == len(classes)):
        yield f"expected a tuple of class names, none twice, got {classes!r}"
    width, height = detector.input_size
    if width % detector.input_multiple or height % detector.input_multiple:
        yield f"expected an input size of multiples of {detector.input_multiple} px, got {width} x {height}"
    config = getattr(detector, "config", None)
    if not is_dataclass(config) or isinstance(config, type):
        yield f"expected a dataclass under the name `config`, for the model file, got {type(config).__name__}"


def output(detector: Detector, batch: Batch) -> Iterator[str]:
    """It says features and heads by name, of the shapes that others read, and numbers."""
    output = _asked(detector, batch.views(detector.modality))
    if not isinstance(output, DetectorOutput):
        yield f"expected a DetectorOutput, got {type(output).__name__}"
        return
    if not output.features:
        yield "expected named features, which distillation taps, got none"
    for name, feature in output.features.items():
        if feature.ndim != 4 or len(feature) != len(batch.frames):
            yield f"expected feature {name} of shape b x c x h x w, b = {len(batch.frames)}, got {tuple(feature.shape)}"
    yield from _not_finite({**output.features, **output.heads})


def detections(detector: Detector, batch: Batch) -> Iterator[str]:
    """There are detections of each image: the best first, in range, turned as KITTI's labels are."""
    found = _detected(detector, batch.views(detector.modality))
    if len(found) != len(batch.frames):
        yield f"expected detections for each of {len(batch.frames)} images, got {len(found)}"
    for rows in found:
        if rows.classes != detector.classes:
            yield f"expected the classes {detector.classes}, got {rows.classes}"
        boxes = rows.boxes_3d
        if rows.boxes_2d.shape != (len(rows), 4):
            yield f"expected 2D boxes of shape {(len(rows), 4)}, got {tuple(rows.boxes_2d.shape)}"
        if ((rows.labels < 0) | (rows.labels >= len(detector.classes))).any():
            yield f"expected labels of 0 to {len(detector.classes) - 1}, got {sorted({*rows.labels.tolist()})}"
        numbers = {"scores": rows.scores, "boxes_2d": rows.boxes_2d, "alpha": rows.alpha, **vars(boxes)}
        if (faults := [*_not_finite(numbers)]) or not len(rows):
            yield from faults
            continue
        low, high = rows.scores.min().item(), rows.scores.max().item()
        if low < 0 or high > 1:
            yield f"expected scores of 0 to 1, got {low:g} to {high:g}"
        if (rows.scores.diff() > 0).any():
            yield "expected the best first, got scores that rise"
        if (boxes.dimensions < 0).any():
            yield "expected dimensions of at least 0 m, got negative ones"
        x, _, z = boxes.bottom.unbind(1)
        apart = wrap(boxes.yaw - torch.atan2(x, z) - rows.alpha).abs()
        if (apart > _ALPHA_TOLERANCE_RAD + _BESIDE_M / torch.hypot(x, z)).any():
            yield f"expected alpha = yaw - atan2(x, z), got {apart.max():.2g} rad beside it"


def inputs_stay_as_they_are(detector: Detector, batch: Batch) -> Iterator[str]:
    """Student, teacher, losses and terms read the same tensors."""
    views, targets = batch.views(detector.modality), batch.targets
    given = copy.deepcopy((views.images, targets))
    with torch.no_grad():
        output = detector.eval()(views)
        if not isinstance(output, DetectorOutput):
            return  # another promise, which names it
        said = copy.deepcopy(output)
        detector.decode(output, views)
        if not _same(said, output):
            yield "expected `decode` to leave the output as it is, got it changed in place"
        output = detector.train()(views, targets)
        said = copy.deepcopy(output)
        detector.loss(output, targets)
        if not _same(said, output):
            yield "expected `loss` to leave the output as it is, got it changed in place"
    if not _same(given[0], views.images):
        yield "expected the images of the views as they were given, got them changed in place"
    if not _same(given[1], targets):
        yield "expected the targets as they were given, got them changed in place"


def original_pixels(detector: Detector, batch: Batch) -> Iterator[str]:
    """The same network pixels, cut from a picture of twice as many pixels: the same losses and boxes in space."""
    if detector.published_input:  # a quirk
        return
    torch.manual_seed(0)
    losses = _lost(detector, batch)
    larger = enlarged(detector, batch)
    torch.manual_seed(0)
    for name, loss in _lost(detector, larger).items():
        if not torch.allclose(loss, losses[name], rtol=0.1, atol=1e-3):  # edges between cells may round otherwise
            yield (
                f"expected the same {name} for the same network pixels of a larger original picture, got "
                f"{loss.item():g} for {losses[name].item():g}: does the target maker apply the letterbox?"
            )
    both = (_detected(detector, each.views(detector.modality)) for each in (batch, larger))
    for ours, theirs in zip(*both, strict=True):
        if len(ours) != len(theirs):
            yield f"expected as many detections in a larger original picture, {len(ours)}, got {len(theirs)}"
        elif not torch.allclose(theirs.boxes_2d, 2 * ours.boxes_2d + MOVED_PX, rtol=1e-2, atol=0.5):
            yield "expected 2D boxes in original pixels (`letterbox.invert`), got some that do not follow the letterbox"
        elif not torch.allclose(theirs.boxes_3d.bottom, ours.boxes_3d.bottom, rtol=1e-2, atol=1e-2):
            yield "expected the same boxes in space from a larger original picture, got others: `letterbox.invert`?"


def each_image_by_itself(detector: Detector, batch: Batch) -> Iterator[str]:
    """Two images of different cameras, the second one darker."""
    views = batch.views(detector.modality)
    if not detector.published_input:
        views = second_apart(views, enlarged(detector, batch).views(detector.modality))
    for number, rows in enumerate(_detected(detector, views)):
        part = slice(number, number + 1)
        alone = Views(views.images[part], Camera(views.cameras.P[part]), views.letterbox[part])
        if not _alike(rows, _detected(detector, alone)[0]):
            yield f"expected the same detections in image {number} of a batch and in that image alone, got others"


def distance_follows_the_lens(detector: Detector, batch: Batch) -> Iterator[str]:
    """Through a lens of twice the focal length the same picture shows what is twice as far away."""
    if detector.published_input:  # a quirk
        return
    views = batch.views(detector.modality)
    images = views.images.clone()
    if detector.modality != "rgb":
        images[:, -1] *= 2
    longer = Camera(views.cameras.P * torch.tensor([2.0, 2.0, 1.0])[:, None])
    near, far = (
        torch.cat([rows.boxes_3d.bottom[:, 2] for rows in _detected(detector, asked)])
        for asked in (views, Views(images, longer, views.letterbox))
    )
    if not len(near) or not len(far):
        return
    ratio = (far.median() / near.median()).item()
    if abs(ratio - 2) > 2 * _LENS_TOLERANCE:
        yield f"expected twice the distances through twice the focal length, got {ratio:.3g} times"


def targets(detector: Detector, batch: Batch) -> Iterator[str]:
    """Targets are made in loader processes, of labels and pseudo-labels, with a row for each object or image."""
    maker = detector.target_maker()
    try:
        pickle.loads(pickle.dumps(maker))
    except Exception as error:
        yield f"expected a target maker that loader processes can pickle, got {type(error).__name__}: {error}"
    targets, pseudo = batch.targets, streets(detector, soft=True).targets
    assert targets is not None
    assert pseudo is not None
    if not len(targets.image):
        yield "expected targets for the cars of two streets, got none"
    for made, labelled in ((targets, True), (pseudo, False)):
        if made.labelled.tolist() != [labelled] * len(batch.frames):
            yield f"expected labelled = {labelled} where soft is {not labelled}, got {made.labelled.tolist()}"
    for name in (field.name for field in fields(targets)):
        rows = len(batch.frames) if name in targets.BY_IMAGE else len(targets.image)
        if len(getattr(targets, name)) != rows:
            each = "image" if name in targets.BY_IMAGE else "object"
            yield f"expected {name} with a row for each {each}, {rows} in all, got {len(getattr(targets, name))}"


def losses(detector: Detector, batch: Batch) -> Iterator[str]:
    """Of both images, of the second alone (as where the first has no label), and of streets without an object."""
    usual = _lost(detector, batch)
    second = torch.tensor([number == 1 for number in range(len(batch.frames))])
    cases = {"two images": usual, "one of two images": _lost(detector, batch, of=second)}
    cases["images without objects"] = _lost(detector, streets(detector, objects=False))
    for case, losses in cases.items():
        if {*losses} != {*usual}:
            yield f"expected the losses {', '.join(usual)} of {case}, too, got {', '.join(losses)}"
        for name, loss in losses.items():
            if loss.ndim:
                yield f"expected a scalar, got {name} of shape {tuple(loss.shape)} of {case}"
        yield from (f"{line} of {case}" for line in _not_finite(losses))
        detector.zero_grad()
        _propagate(losses)
        gradients = {name: value.grad for name, value in detector.named_parameters() if value.grad is not None}
        yield from (f"{line}'s gradient, of {case}" for line in _not_finite(gradients))


def every_parameter_is_trained(detector: Detector, batch: Batch) -> Iterator[str]:
    """No parameter is left without a gradient."""
    _propagate(_lost(detector, batch))
    idle = [name for name, value in detector.named_parameters() if value.requires_grad and value.grad is None]
    if idle:
        yield f"expected a gradient for every parameter, as several processes wait for it, got none for {idle}"


def learning(detector: Detector, batch: Batch) -> Iterator[str]:
    """A few steps on one batch lower the loss."""
    optimizer = torch.optim.Adam(detector.parameters(), _LEARNING_RATE)
    totals = []
    for _ in range(_LEARNING_STEPS):
        optimizer.zero_grad()
        totals.append(_propagate(_lost(detector, batch)))
        optimizer.step()
    if not totals[-1] < totals[0]:
        yield f"expected a lower loss after {_LEARNING_STEPS} steps on one batch, got {totals[0]:g} to {totals[-1]:g}"


def metrics(detector: Detector, batch: Batch) -> Iterator[str]:
    """Errors have a number for each labelled object."""
    views, targets = batch.views(detector.modality), batch.targets
    assert targets is not None
    with torch.inference_mode():
        errors = detector.eval().metrics(detector(views), targets, views)
    for name, values in errors.items():
        if values.shape != targets.image.shape:
            rows = f"{len(targets.image)} objects"
            yield f"expected {name} with a number for each of {rows}, got shape {tuple(values.shape)}"


def candidates(detector: Detector, batch: Batch) -> Iterator[str]:
    """They are `decode` without its choice; a detector without them cannot be exported, which is no fault."""
    views = batch.views(detector.modality)
    output = _asked(detector, views)
    try:
        flat = detector.candidates(output, views)
    except NotImplementedError:
        return
    each, rest = divmod(len(flat), len(views))
    if rest:
        yield f"expected equally many candidates for each of {len(views)} images, got {len(flat)}"
    for number, rows in enumerate(detector.decode(output, views)):
        candidates = flat[number * each : (number + 1) * each]
        if not _alike(rows, candidates[candidates.scores >= 0]):
            yield f"expected candidates with a score as `decode` has detections in image {number}, got others"


def half_precision(detector: Detector, batch: Batch) -> Iterator[str]:
    """Losses and detections survive layers in bfloat16."""
    views = batch.views(detector.modality)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = _lost(detector, batch)
        found = _detected(detector, views)
    yield from _not_finite({**losses, "depths": torch.cat([rows.boxes_3d.bottom[:, 2] for rows in found])})


def model_file(detector: Detector, batch: Batch) -> Iterator[str]:
    """The file of a detector gives back that detector."""
    views = batch.views(detector.modality)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(detector, path, provenance={})
        loaded = load_model(path)
    pairs = zip(_detected(detector, views), _detected(loaded, views), strict=True)
    if not all(_alike(ours, theirs) for ours, theirs in pairs):
        yield "expected the detections of the detector that was saved, got others"


PROMISES: Sequence[Promise] = (
    output,
    detections,
    original_pixels,
    each_image_by_itself,
    distance_follows_the_lens,
    targets,
    losses,
    every_parameter_is_trained,
    learning,
    metrics,
    candidates,
    half_precision,
    model_file,
)


def _asked(detector: Detector, views: Views) -> Any:
    """What it says at inference."""
    with torch.inference_mode():
        return detector.eval()(views)


def _detected(detector: Detector, views: Views) -> list[Detections]:
    with torch.inference_mode():
        return detector.decode(_asked(detector, views), views)


def _lost(detector: Detector, batch: Batch, *, of: Tensor | None = None) -> dict[str, Tensor]:
    """Its losses in training; of: the images that count."""
    output, targets = detector.train()(batch.views(detector.modality), batch.targets), batch.targets
    assert targets is not None
    return detector.loss(output, targets) if of is None else detector.loss(output.of(of), targets.of(of))


def _propagate(losses: dict[str, Tensor]) -> float:
    """The sum of the losses, after its backward pass."""
    total = torch.stack([loss.sum() for loss in losses.values()]).sum()
    torch.autograd.backward(total)
    return total.item()


def _not_finite(values: dict[str, Tensor]) -> Iterator[str]:
    for name, value in values.items():
        if not value.isfinite().all():
            yield f"expected finite numbers, got NaN or infinity in {name}"


def _alike(ours: Detections, theirs: Detections) -> bool:
    """Whether scores and depths are the same, in any order, and the middle of all boxes.

    Scores of an untrained network may be all but equal: then a few rows may be of other cells.
    """
    if len(ours) != len(theirs):
        return False
    each = ((ours.scores, theirs.scores), (ours.boxes_3d.bottom[:, 2], theirs.boxes_3d.bottom[:, 2]))
    if not all(torch.allclose(a.sort().values, b.sort().values, rtol=1e-3, atol=1e-4) for a, b in each):
        return False
    places = ((ours.boxes_2d, theirs.boxes_2d, 1.0), (ours.boxes_3d.bottom, theirs.boxes_3d.bottom, 0.1))
    return not len(ours) or all(
        torch.allclose(a.median(0).values, b.median(0).values, rtol=0.05, atol=most) for a, b, most in places
    )


def _same(before: Any, after: Any) -> bool:
    """Whether all tensors inside are the same, bit for bit; those of dataclasses and dicts."""
    if isinstance(before, Tensor):
        return torch.equal(before.nan_to_num(), after.nan_to_num())
    if isinstance(before, dict):
        return {*before} == {*after} and all(_same(value, after[key]) for key, value in before.items())
    if is_dataclass(before):
        return all(_same(getattr(before, field.name), getattr(after, field.name)) for field in fields(before))
    return True
