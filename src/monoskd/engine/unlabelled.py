"""Frames without labels: the teacher looks at each once, and batches mix them with labelled ones."""

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

from monoskd.data.samples import Samples
from monoskd.engine.config import DataConfig, UnlabelledConfig
from monoskd.engine.sources import Sources
from monoskd.errors import InputError
from monoskd.evaluation.quality import label_quality
from monoskd.files import read_json, write_json
from monoskd.kitti.io import write_objects
from monoskd.objects import Objects
from monoskd.structures import Batch, Detector, FrameSource, Sample

FOLDER, RECORD, SCHEMA = "detections", "detections.json", "monoskd/detections-as-labels/1"
_BATCH = 8


def detect_unlabelled(teacher: Detector, data: DataConfig, sources: Sources, out: Path, *, keep: bool) -> Path:
    """The folder of the teacher's detections on the frames without labels, `out/detections`, made if need be.

    teacher: on the device where it is to run. keep: use what an earlier part of this run has written, if it was the
    same teacher's on the same frames. Beside the folder, `detections.json` says how good they are: on these frames
    where their labels are held back, else on the validation split. Raises InputError where there is no detection.
    """
    unlabelled, frames = data.unlabelled, sources.unlabelled
    assert unlabelled is not None
    assert frames is not None
    folder, record = out / FOLDER, out / RECORD
    made_of = _made_of(teacher, frames.names, unlabelled)
    if keep and record.is_file() and read_json(record).get("made_of") == made_of:
        return folder
    detections = detect(teacher, data, frames)
    if not any(map(len, detections)):
        raise InputError(
            f"{data.root}: expected the teacher to find something on the {len(frames.names)} frames without labels, "
            "got no detection that reaches its threshold: lower `--data.unlabelled.threshold`, or train "
            "the teacher longer"
        )
    for name, objects in zip(frames.names, detections, strict=True):
        write_objects(folder / f"{name}.txt", objects)
    measured_on, truth = f"{unlabelled.split}, labels held back", [frames.held_back(name) for name in frames.names]
    if any(objects is None for objects in truth):
        val = sources.val(depth=teacher.modality == "depth")
        measured_on, truth = data.val, [val.objects(name) for name in val.names]
        detections = detect(teacher, data, val)
    labels = [Objects.empty() if objects is None else objects for objects in truth]
    rows = label_quality(labels, detections, classes=teacher.classes, min_height_px=data.min_height_px)
    document = {
        "schema": SCHEMA,
        "frames": len(frames.names),
        "made_of": made_of,
        "threshold": unlabelled.threshold,
        "thresholds": unlabelled.thresholds,
        "measured_on": measured_on,
        "quality": [row.to_json() for row in rows],
    }
    write_json(record, document)
    return folder


@torch.no_grad()
def detect(teacher: Detector, data: DataConfig, frames: FrameSource) -> list[Objects]:
    """What the teacher finds on each frame, unaugmented, from the thresholds on.

    Scored by heat alone: detections are ranked by it times the confidence in the depth, which makes a good order but no
    probability, and few of a young network's detections would reach any threshold.
    """
    assert data.unlabelled is not None
    samples = Samples(frames, input_size=teacher.input_size, published=data.published)
    device, least = next(teacher.parameters()).device, _thresholds(data.unlabelled, teacher.classes)
    teacher.eval()
    detected: list[Objects] = []
    for batch in DataLoader(samples, batch_size=_BATCH, num_workers=data.workers, collate_fn=Batch.collate):
        views = batch.to(device).views(teacher.modality)
        detections = teacher.decode(teacher(views), views)
        detected += [_sure(replace(found, scores=found.heat).to_objects(), least) for found in detections]
    return detected


def _sure(objects: Objects, thresholds: Mapping[str, float]) -> Objects:
    """The detections that reach their class's threshold."""
    assert objects.scores is not None
    return objects[objects.scores >= np.array([thresholds[name] for name in objects.names.tolist()], np.float64)]


def _thresholds(config: UnlabelledConfig, classes: Sequence[str]) -> dict[str, float]:
    """The least score of each class, whatever the case in which the config spells it."""
    spelling = {name.lower(): name for name in classes}
    unknown = [name for name in config.thresholds if name.lower() not in spelling]
    if unknown:
        raise InputError(
            f"data.unlabelled.thresholds: expected classes of the teacher ({', '.join(classes)}), got {unknown[0]!r}"
        )
    own = {spelling[name.lower()]: value for name, value in config.thresholds.items()}
    return {name: own.get(name, config.threshold) for name in classes}


def _made_of(teacher: Detector, frames: Sequence[str], config: UnlabelledConfig) -> str:
    """A digest of all that decides which detections there are."""
    digest = hashlib.sha256(json.dumps([list(frames), config.threshold, config.thresholds]).encode())
    for value in teacher.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


class MixedFrames(Dataset[Sample]):
    """Labelled frames, and after them frames with a teacher's detections."""

    def __init__(self, labelled: Samples, unlabelled: Samples) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def __getitem__(self, index: int) -> Sample:
        """A labelled frame below `len(labelled)`, another one from there on."""
        known = len(self.labelled)
        sample: Sample = self.labelled[index] if index < known else self.unlabelled[index - known]
        return sample

    def set_epoch(self, epoch: int) -> None:
        """From now on, draw this epoch's augmentation."""
        self.labelled.set_epoch(epoch)
        self.unlabelled.set_epoch(epoch)


class MixedBatches(Sampler[list[int]]):
    """Indices into `MixedFrames`: whole batches of labelled frames, and `further` others with each.

    sampler: of the labelled frames; its seed and epoch decide everything. An epoch is one pass over them; the others go
    by in a stream of shuffled passes that epochs cut where they end, so that all of them are seen equally often.
    """

    def __init__(self, sampler: DistributedSampler[Any], size: int, *, unlabelled: int, further: int) -> None:
        self.sampler = sampler  # under this name Lightning looks for what it tells the epoch
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
        mine = stream[self.sampler.rank :: self.sampler.num_replicas]
        for step in range(len(self)):
            others = mine[step * self.further : (step + 1) * self.further]
            yield labelled[step * self.size : (step + 1) * self.size] + [known + index for index in others]


def endless(frames: int, *, first: int, count: int, seed: int) -> Sequence[int]:
    """Entries first .. first + count - 1 of all frames shuffled, shuffled anew, and so on."""
    passes = range(first // frames, (first + count - 1) // frames + 1)
    shuffled = [np.random.default_rng([seed, number]).permutation(frames) for number in passes]
    start = first - passes.start * frames
    entries: list[int] = np.concatenate(shuffled)[start : start + count].tolist()
    return entries
