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

from monoskd.data.kitti import KittiDataset
from monoskd.engine.config import DataConfig, UnlabelledConfig
from monoskd.errors import InputError
from monoskd.evaluation.quality import label_quality
from monoskd.files import read_text, write_atomically
from monoskd.kitti.io import read_objects, read_split, write_objects
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.leakage import check_unlabelled
from monoskd.objects import Objects
from monoskd.structures import Batch, Sample

FOLDER, RECORD, SCHEMA = "detections", "detections.json", "monoskd/detections-as-labels/1"
_BATCH = 8


def detect_unlabelled(teacher: Any, data: DataConfig, out: Path, *, keep: bool) -> Path:
    """The folder of the teacher's detections on the frames without labels, `out/detections`, made if need be.

    teacher: a detector on the device where it is to run. keep: use what an earlier part of this run has written, if it
    was the same teacher's on the same frames. Beside the folder, `detections.json` says how good they are: where labels
    have been held back, on these very frames, else on the validation split. Raises InputError where a frame has a label
    or gives validation away, and where the teacher finds nothing at all.
    """
    assert data.unlabelled is not None
    folder, record = out / FOLDER, out / RECORD
    frames = check_unlabelled(data.root, split=data.unlabelled.split, mapping=data.unlabelled.mapping)
    made_of = _made_of(teacher, frames, data.unlabelled)
    if keep and record.is_file() and json.loads(read_text(record)).get("made_of") == made_of:
        return folder
    found = detect(teacher, data, data.unlabelled.split)
    if not any(map(len, found)):
        raise InputError(
            f"{data.root}: expected the teacher to find something on the {len(frames)} frames without labels, got no "
            "detection that reaches its threshold: lower `--data.unlabelled.threshold`, or train the teacher longer"
        )
    for frame, detected in zip(frames, found, strict=True):
        write_objects(folder / f"{frame}.txt", detected)
    layout = KittiLayout(data.root)
    held_back = [layout.held_back(frame) for frame in frames]
    if all(path.is_file() for path in held_back):
        measured_on, truth = f"{data.unlabelled.split}, labels held back", held_back
    else:
        measured_on, found = data.val, detect(teacher, data, data.val)
        truth = [layout.label(frame) for frame in read_split(layout.split(data.val))]
    objects = [read_objects(path, scored=False) for path in truth]
    rows = label_quality(objects, found, classes=teacher.classes, min_height_px=data.min_height_px)
    document = {
        "schema": SCHEMA,
        "frames": len(frames),
        "made_of": made_of,
        "threshold": data.unlabelled.threshold,
        "thresholds": data.unlabelled.thresholds,
        "measured_on": measured_on,
        "quality": [row.to_json() for row in rows],
    }
    write_atomically(record, (json.dumps(document, indent=1) + "\n").encode())
    return folder


@torch.no_grad()
def detect(teacher: Any, data: DataConfig, split: str) -> list[Objects]:
    """What the teacher finds on each frame of a split, unaugmented, from the thresholds on.

    Scored by heat alone: detections are ranked by it times the confidence in the depth, which makes a good order but no
    probability, and few of a young network's detections would reach any threshold.
    """
    assert data.unlabelled is not None
    dataset = KittiDataset(
        data.root,
        split=split,
        input_size=teacher.input_size,
        classes=teacher.classes,
        mean_sizes=teacher.config.mean_sizes,
        depth=teacher.modality == "depth",
        labels=False,
        published=data.published,
    )
    device, least = next(teacher.parameters()).device, _thresholds(data.unlabelled, teacher.classes)
    teacher.eval()
    found: list[Objects] = []
    for batch in DataLoader(dataset, batch_size=_BATCH, num_workers=data.workers, collate_fn=Batch.collate):
        batch = batch.to(device)
        place = (batch.cameras, batch.letterbox)
        detections = teacher.decode(teacher(batch.input(teacher.modality), *place), *place)
        found += [_sure(replace(one, scores=one.heat).to_objects(), least) for one in detections]
    return found


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


def _made_of(teacher: Any, frames: Sequence[str], config: UnlabelledConfig) -> str:
    """A digest of all that decides which detections there are."""
    digest = hashlib.sha256(json.dumps([list(frames), config.threshold, config.thresholds]).encode())
    for value in teacher.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


class MixedFrames(Dataset[Sample]):
    """Labelled frames, and after them frames with a teacher's detections."""

    def __init__(self, labelled: Any, unlabelled: Any) -> None:
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
