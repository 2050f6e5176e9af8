"""Frames without labels: the teacher makes pseudo-labels once, and batches mix them with labelled frames."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from monoskd.data.lost import naming_lost_frames
from monoskd.data.samples import Samples
from monoskd.engine.callbacks import say
from monoskd.engine.config import DataConfig, UnlabelledConfig
from monoskd.engine.run_folder import PSEUDO_LABEL_QUALITY, PSEUDO_LABELS
from monoskd.engine.sources import Sources
from monoskd.errors import InputError
from monoskd.evaluation.quality import label_quality
from monoskd.files import read_json, write_json
from monoskd.frames import shown
from monoskd.kitti.io import write_objects
from monoskd.objects import Objects
from monoskd.structures import Batch, Detector, FrameSource, Sample

SCHEMA = "monoskd/detections-as-labels/1"
_BATCH = 8


def detect_unlabelled(
    teacher: Detector, data: DataConfig, sources: Sources, out: Path, device: torch.device, *, keep: bool
) -> Path:
    """The folder of the pseudo-labels, `out/detections`, written unless it exists already.

    device: where the teacher runs. keep: use the pseudo-labels of an earlier part of this run, if teacher, frames
    and thresholds are the same. `detections.json` beside the folder holds their quality, measured on these frames where
    their labels are held back, else on the validation split. Raises InputError where there is no detection.
    """
    unlabelled, frames = data.unlabelled, sources.unlabelled
    assert unlabelled is not None
    assert frames is not None
    folder, record = out / PSEUDO_LABELS, out / PSEUDO_LABEL_QUALITY
    made_of = _made_of(teacher, frames.names, unlabelled)
    if keep and record.is_file() and read_json(record).get("made_of") == made_of:
        return folder
    teacher.to(device)
    detections = detect(teacher, data, frames)
    if not any(map(len, detections)):
        raise InputError(
            f"{data.root}: expected the teacher to find something on the {len(frames.names)} frames without labels, "
            "got no detection that reaches its threshold: lower `--data.unlabelled.threshold`, or train "
            "the teacher longer"
        )
    for name, objects in zip(frames.names, detections, strict=True):
        write_objects(folder / f"{name}.txt", objects)
    document = {
        "schema": SCHEMA,
        "frames": len(frames.names),
        "made_of": made_of,
        "threshold": unlabelled.threshold,
        "thresholds": unlabelled.thresholds,
    }
    write_json(record, document | _quality(teacher, data, sources, detections))
    names = np.concatenate([objects.names for objects in detections])
    counts = ", ".join(f"{name} {(names == name).sum()}" for name in teacher.classes)
    say(f"pseudo-labels on {len(frames.names)} frames: {counts}; how good they are: {record}")
    return folder


def _quality(teacher: Detector, data: DataConfig, sources: Sources, detections: Sequence[Objects]) -> dict[str, Any]:
    """How good the pseudo-labels are, and on which frames that was measured: entries of `detections.json`."""
    assert data.unlabelled is not None
    assert sources.unlabelled is not None
    frames, measured_on = sources.unlabelled, f"{data.unlabelled.split}, labels held back"
    truth = [frames.held_back(name) for name in frames.names]
    if any(objects is None for objects in truth):
        frames, measured_on = sources.val(depth=teacher.modality != "rgb"), data.val
        truth = [frames.objects(name) for name in frames.names]
        detections = detect(teacher, data, frames)
    labels = [Objects.empty() if objects is None else objects for objects in truth]
    rows = label_quality(labels, detections, classes=teacher.classes, min_height_px=data.min_height_px)
    return {"measured_on": measured_on, "quality": [row.to_json() for row in rows]}


@torch.no_grad()
def detect(teacher: Detector, data: DataConfig, frames: FrameSource) -> list[Objects]:
    """The teacher's detections that reach the thresholds on each frame, without augmentation.

    The score is the heat alone. A detection's usual score, heat times confidence in the depth, ranks well but is no
    probability: few detections of a briefly trained network would reach a threshold.
    """
    assert data.unlabelled is not None
    samples = Samples(frames, input_size=teacher.input_size, published=data.published)
    weights, least = next(teacher.parameters()), _thresholds(data.unlabelled, teacher.classes)
    teacher.eval()
    detected: list[Objects] = []
    with naming_lost_frames(samples):
        for batch in DataLoader(samples, batch_size=_BATCH, num_workers=data.workers or 0, collate_fn=Batch.collate):
            batch = batch.to(weights.device)
            views = (batch.double() if weights.dtype == torch.float64 else batch).views(teacher.modality)
            detections = teacher.decode(teacher(views), views)
            detections = shown(detections, batch.picture_sizes, published=teacher.published_input)
            detected += [_above(replace(image, scores=image.heat).to_objects(), least) for image in detections]
    return detected


def _above(objects: Objects, thresholds: Mapping[str, float]) -> Objects:
    """The detections that reach their class's threshold."""
    assert objects.scores is not None
    return objects[objects.scores >= np.array([thresholds[name] for name in objects.names.tolist()], np.float64)]


def _thresholds(config: UnlabelledConfig, classes: Sequence[str]) -> dict[str, float]:
    """The least score of each class; the config may spell the classes in any case."""
    spelling = {name.lower(): name for name in classes}
    unknown = [name for name in config.thresholds if name.lower() not in spelling]
    if unknown:
        raise InputError(
            f"data.unlabelled.thresholds: expected classes of the teacher ({', '.join(classes)}), got {unknown[0]!r}"
        )
    given = {spelling[name.lower()]: value for name, value in config.thresholds.items()}
    return {name: given.get(name, config.threshold) for name in classes}


def _made_of(teacher: Detector, frames: Sequence[str], config: UnlabelledConfig) -> str:
    """A digest of everything that the pseudo-labels depend on."""
    digest = hashlib.sha256(json.dumps([list(frames), config.threshold, config.thresholds]).encode())
    for value in teacher.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


class MixedFrames(Dataset[Sample]):
    """Labelled frames, followed by frames with pseudo-labels."""

    def __init__(self, labelled: Samples, unlabelled: Samples) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def __getitem__(self, index: int) -> Sample:
        """A labelled frame for an index below `len(labelled)`, else one with pseudo-labels."""
        known = len(self.labelled)
        sample: Sample = self.labelled[index] if index < known else self.unlabelled[index - known]
        return sample

    def set_epoch(self, epoch: int) -> None:
        """Use the augmentation of this epoch from now on."""
        self.labelled.set_epoch(epoch)
        self.unlabelled.set_epoch(epoch)


class MixedBatches(Sampler[list[int]]):
    """Indices into `MixedFrames`: whole batches of labelled frames, each with `further` frames with pseudo-labels.

    sampler: of the labelled frames; its seed and epoch decide everything. An epoch is one pass over them. The others
    come as one stream of shuffled passes that runs on from epoch to epoch, so that all are seen equally often.
    """

    def __init__(self, sampler: DistributedSampler[Any], size: int, *, unlabelled: int, further: int) -> None:
        self.sampler = sampler  # Lightning looks for this name to set the epoch
        self.size = size
        self.unlabelled = unlabelled
        self.further = further

    def __len__(self) -> int:
        return len(self.sampler) // self.size

    def __iter__(self) -> Iterator[list[int]]:
        labelled = list(self.sampler)
        known = len(self.sampler.dataset)  # type: ignore[arg-type]
        count = len(self) * self.further * self.sampler.num_replicas
        stream = endless(self.unlabelled, first=self.sampler.epoch * count, count=count, seed=self.sampler.seed)
        indices = stream[self.sampler.rank :: self.sampler.num_replicas]
        for step in range(len(self)):
            others = indices[step * self.further : (step + 1) * self.further]
            yield labelled[step * self.size : (step + 1) * self.size] + [known + index for index in others]


def endless(frames: int, *, first: int, count: int, seed: int) -> Sequence[int]:
    """Entries first .. first + count - 1 of an endless sequence of shuffled passes over the frames."""
    passes = range(first // frames, (first + count - 1) // frames + 1)
    shuffled = [np.random.default_rng([seed, number]).permutation(frames) for number in passes]
    start = first - passes.start * frames
    entries: list[int] = np.concatenate(shuffled)[start : start + count].tolist()
    return entries
