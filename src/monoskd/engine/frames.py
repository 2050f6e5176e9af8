"""The frames of a run and the order in which they come."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from monoskd.engine.config import RunConfig, dataset_class
from monoskd.engine.unlabelled import MixedBatches, MixedFrames
from monoskd.errors import InputError
from monoskd.structures import Batch, Sample


class Frames(pl.LightningDataModule):
    """The loaders of a run. The order of frames is a function of seed and epoch, so a resumed run sees the same.

    detections: the folder of the teacher's detections on the frames without labels, if there are any.
    """

    def __init__(self, config: RunConfig, student: Any, detections: Path | None = None) -> None:
        super().__init__()
        self.config = config.data
        self.seed = config.seed
        self.devices = config.devices
        build = dataset_class(config.data.dataset)
        common: dict[str, Any] = {
            "input_size": student.input_size,
            "classes": student.classes,
            "mean_sizes": student.config.mean_sizes,
            "published": config.data.published,
            "min_height_px": config.data.min_height_px,
            "cache": config.data.cache,
        }
        # Even a student that sees no depth maps is trained with them: the targets' visual depth is read from them.
        self.train: Any = build(
            config.data.root,
            split=config.data.train,
            augmentation=config.data.augmentation,
            seed=config.seed,
            depth=True,
            **common,
        )
        self.unlabelled: Any = None
        if (unlabelled := config.data.unlabelled) is not None:
            self.unlabelled = build(
                config.data.root,
                split=unlabelled.split,
                augmentation=unlabelled.augmentation,
                seed=config.seed,
                depth=True,
                detections=detections,
                soft=unlabelled.soft,
                **common,
            )
        self.val: Dataset[Sample] = build(
            config.data.root, split=config.data.val, depth=student.modality == "depth", **common
        )
        self._check()

    def _check(self) -> None:
        """What would make a run of no use, said before it begins."""
        config, counts = self.config, self.counts()
        if counts["train"] < config.batch_size:
            raise InputError(
                f"{config.root}: expected at least one batch of {config.batch_size} frames in split {config.train}, "
                f"got {counts['train']} frames; lower `--data.batch_size`"
            )
        named = [set(getattr(one, "frames", ())) for one in (self.train, self.val)]  # one's own data set may name none
        if config.train != config.val and (both := named[0] & named[1]):
            raise InputError(
                f"{config.root}: expected no frame of split {config.train} in split {config.val}, got {len(both)} "
                f"(the first is {min(both)}): take them out of one, or say so with `--data.val {config.train}`"
            )
        if config.unlabelled is not None and self.further != self.labelled * config.unlabelled.ratio:
            raise InputError(
                f"data.unlabelled.ratio: expected a whole number of frames without labels beside the {self.labelled} "
                f"labelled ones of a step, got {self.labelled * config.unlabelled.ratio:g}: change it or the batch"
            )

    def counts(self) -> dict[str, int]:
        """Frames of each split."""
        further = {} if self.unlabelled is None else {"unlabelled": len(self.unlabelled)}
        return {"train": len(self.train), "val": len(self.val), **further}  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled by seed and epoch, whole batches only; frames without labels come after those with."""
        assert self.trainer is not None
        sampler: DistributedSampler[Sample] = DistributedSampler(
            self.train,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=True,
            seed=self.seed,
        )
        if self.unlabelled is None:
            return self._loader(self.train, batch_size=self.labelled, sampler=sampler, drop_last=True)
        batches = MixedBatches(sampler, self.labelled, unlabelled=len(self.unlabelled), further=self.further)
        return self._loader(MixedFrames(self.train, self.unlabelled), batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Every frame, in order."""
        return self._loader(self.val, batch_size=self.labelled)

    @property
    def labelled(self) -> int:
        """Labelled images a step and device."""
        return max(self.config.batch_size // self.devices, 1)

    @property
    def further(self) -> int:
        """Images without labels a step and device."""
        return 0 if self.config.unlabelled is None else max(round(self.labelled * self.config.unlabelled.ratio), 1)

    def _loader(self, dataset: Dataset[Sample], **options: Any) -> DataLoader[Sample]:
        options = {"num_workers": self.config.workers, "persistent_workers": False, **options}
        return DataLoader(dataset, collate_fn=Batch.collate, **options)
