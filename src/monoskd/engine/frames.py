"""The frames of a run and the order in which they come."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.data.distributed import DistributedSampler

from monoskd.data.samples import Samples
from monoskd.data.transforms import Augmentation
from monoskd.engine.callbacks import say
from monoskd.engine.check import on_cuda, process_number
from monoskd.engine.config import RunConfig
from monoskd.engine.run_folder import PSEUDO_LABELS
from monoskd.engine.sources import Sources
from monoskd.engine.unlabelled import MixedBatches, MixedFrames
from monoskd.kitti.source import WithDetections
from monoskd.structures import Batch, Detector, FrameSource, Sample


class Frames(pl.LightningDataModule):
    """The loaders of a run. The order of frames depends on seed and epoch alone, so a resumed run sees the same.

    detections: makes the folder of the pseudo-labels, given the device, if there are any. first_epoch: with which the
    run goes on, from 0.
    """

    def __init__(
        self,
        config: RunConfig,
        student: Detector,
        sources: Sources,
        *,
        detections: Callable[[torch.device], Path] | None = None,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # the run folder is one for all machines
        self.detections = detections
        self.first_epoch = first_epoch
        self.config = config.data
        self.seed = config.seed
        self.processes = config.processes
        self.pin = on_cuda(config) and bool(config.data.workers)  # else the copy would take the host's time
        self.train = self._samples(student, sources.train, augmentation=config.data.augmentation)
        self.val = self._samples(student, sources.val(depth=student.modality != "rgb"))
        self.unlabelled: Samples | None = None
        if config.data.unlabelled is not None and sources.unlabelled is not None and detections is not None:
            self.unlabelled = self._samples(
                student,
                WithDetections(sources.unlabelled, config.out / PSEUDO_LABELS),
                augmentation=config.data.unlabelled.augmentation,
                soft=config.data.unlabelled.soft,
            )

    def _samples(
        self, student: Detector, source: FrameSource, *, augmentation: Augmentation | None = None, soft: bool = False
    ) -> Samples:
        data = self.config
        return Samples(
            source,
            input_size=student.input_size,
            targets=student.target_maker(min_height_px=data.min_height_px, published=data.published),
            augmentation=augmentation,
            soft=soft,
            cache=data.cache,
            seed=self.seed,
            published=data.published,
        )

    def prepare_data(self) -> None:
        """Let the teacher make the pseudo-labels: Lightning calls this in one process, and the others wait."""
        assert self.trainer is not None
        if self.detections is not None:
            self.detections(self.trainer.strategy.root_device)

    def counts(self) -> dict[str, int]:
        """Frames of each split."""
        unlabelled = {} if self.unlabelled is None else {"unlabelled": len(self.unlabelled)}
        return {"train": len(self.train), "val": len(self.val), **unlabelled}

    def state_dict(self) -> dict[str, Any]:
        """Which frames the run learns from, for its checkpoints."""
        learnt = {"train": self.train, "unlabelled": self.unlabelled}
        return {
            split: {
                "frames": len(samples),
                "names": hashlib.sha256("\n".join(samples.source.names).encode()).hexdigest(),
            }
            for split, samples in learnt.items()
            if samples is not None
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Say where a resumed run has other frames than before: it is then not the run that was never stopped."""
        for split, now in self.state_dict().items():
            if (before := state.get(split, now)) != now and not process_number():
                say(
                    f"frames: {split} had {before['frames']} frames before and has {now['frames']} now, not the same; "
                    "the run goes on with these"
                )

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled by seed and epoch, whole batches only; labelled frames come first in each."""
        assert self.trainer is not None
        sampler: DistributedSampler[Sample] = DistributedSampler(
            self.train,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=True,
            seed=self.seed,
            drop_last=True,  # else it repeats frames until each process has as many
        )
        frames = self.train if self.unlabelled is None else MixedFrames(self.train, self.unlabelled)
        # Lightning lets the loader's processes begin before it says which epoch a resumed run is at.
        sampler.set_epoch(self.first_epoch)
        frames.set_epoch(self.first_epoch)
        if self.unlabelled is None:
            return self._loader(frames, batch_size=self.labelled, sampler=sampler, drop_last=True)
        batches = MixedBatches(sampler, self.labelled, unlabelled=len(self.unlabelled), further=self.further)
        return self._loader(frames, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Every frame, in order; of several processes each has its share, see `Measurement.of_all_processes`."""
        assert self.trainer is not None
        share = range(self.trainer.global_rank, len(self.val), self.trainer.world_size)
        return self._loader(Subset(self.val, share or range(1)), batch_size=self.labelled)

    @property
    def labelled(self) -> int:
        """Labelled images a step and process."""
        return max(self.config.batch_size // self.processes, 1)

    @property
    def further(self) -> int:
        """Images without labels a step and process."""
        return 0 if self.config.unlabelled is None else max(round(self.labelled * self.config.unlabelled.ratio), 1)

    def _loader(self, dataset: Dataset[Sample], **options: Any) -> DataLoader[Sample]:
        options = {
            "num_workers": self.config.workers or 0,
            "persistent_workers": False,
            "pin_memory": self.pin,
            **options,
        }
        return DataLoader(dataset, collate_fn=Batch.collate, **options)
