"""The recordings of a run: one source of frames for each split, opened before a network is built."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monoskd.data.samples import typical_frames
from monoskd.engine.config import DataConfig, source_class
from monoskd.errors import InputError
from monoskd.kitti.agreement import depth_errors, disagreement
from monoskd.objects import is_only_2d, is_supervised
from monoskd.structures import Detector, Frame, FrameSource


@dataclass(frozen=True)
class Sources:
    """The splits of a run.

    train: with depth maps, if there are any, even for a network on pictures, as targets and terms may read them. val:
    opens the validation frames, with or without depth maps. unlabelled: frames without labels, if the run has any.
    """

    train: FrameSource
    val: Callable[..., FrameSource]
    unlabelled: FrameSource | None

    @classmethod
    def open(cls, data: DataConfig, *, devices: int = 1) -> "Sources":
        """Raises InputError where files are missing, and where the splits do not fit the run."""
        source = source_class(data.dataset)
        sources = cls(
            train=source(data.root, split=data.train, depth=data.depth, labels=True),
            val=lambda *, depth: source(data.root, split=data.val, depth=depth, labels=True),
            unlabelled=None
            if data.unlabelled is None
            else source(data.root, split=data.unlabelled.split, depth=data.depth, labels=False),
        )
        sources._check(data, devices=devices)
        return sources

    def _check(self, data: DataConfig, *, devices: int) -> None:
        if len(self.train.names) < data.batch_size:
            raise InputError(
                f"{data.root}: expected at least one batch of {data.batch_size} frames in split {data.train}, "
                f"got {len(self.train.names)} frames; lower `--data.batch_size`"
            )
        val = self.val(depth=False)
        if data.train != data.val and (shared := {*self.train.names} & {*val.names}):
            raise InputError(
                f"{data.root}: expected no frame of split {data.train} in split {data.val}, got {len(shared)} "
                f"(the first is {min(shared)}): take them out of one, or say so with `--data.val {data.train}`"
            )
        if data.train != data.val:
            self.train.check_apart(val)
        if data.unlabelled is not None and self.unlabelled is not None:
            self.unlabelled.check_unlabelled(mapping=data.unlabelled.mapping)
            labelled = max(data.batch_size // devices, 1)
            if (count := labelled * data.unlabelled.ratio) != max(round(count), 1):
                raise InputError(
                    f"data.unlabelled.ratio: expected a whole number of frames without labels beside the {labelled} "
                    f"labelled ones of a step, got {count:g}: change it or the batch"
                )

    def check_supervised(self, data: DataConfig, student: Detector) -> list[str]:
        """What to say about labels of the training split that are left out: 2D ones, and small ones if they are most.

        Raises InputError where no object would be a target. Labels are counted only where the source reads them
        without the pictures; else the first target is enough.
        """
        all_labels = type(self.train).objects is not FrameSource.objects
        labelled = only_2d = supervised = small = 0
        for objects in filter(None, map(self.train.objects, self.train.names)):
            labelled += int((objects.names != "DontCare").sum())
            only_2d += int(is_only_2d(objects).sum())
            targets = int(is_supervised(objects, student.classes, min_height_px=data.min_height_px).sum())
            supervised += targets
            small += int(is_supervised(objects, student.classes, min_height_px=0).sum()) - targets
            if supervised and not all_labels:
                return []
        if not supervised:
            raise InputError(
                f"{data.root}: expected objects to train on in split {data.train}, got none of the classes "
                f"{', '.join(student.classes)} visible, labelled in 3D and at least {data.min_height_px:g} px tall: "
                "check the labels, or lower `--data.min_height_px`"
            )
        left_out = f"of {labelled} objects of split {data.train} are left out: they are"
        notes = []
        if only_2d:
            notes.append(f"{data.root}: {only_2d} {left_out} labelled in 2D only (sizes or z of 0 or less)")
        if small > supervised:
            notes.append(
                f"{data.root}: {small} {left_out} lower than {data.min_height_px:g} px; {supervised} remain. For "
                "pictures smaller than KITTI's lower `--data.min_height_px` and `--validation.min_heights_px`"
            )
        return notes

    def typical_frames(self, data: DataConfig) -> Iterator[Frame]:
        """Frames spread over the training split, see `monoskd.data.samples.typical_frames`.

        Raises InputError after the last where their depth maps miss the labelled objects, as the doctor does.
        """
        errors_m: list[float] = []
        for frame in typical_frames(self.train):
            if frame.depth_m is not None and frame.objects is not None:
                errors_m.extend(depth_errors(frame.depth_m, frame.objects))
            yield frame
        if wrong := disagreement(errors_m, of="depth maps"):
            raise InputError(
                f"{data.root}: {wrong} in split {data.train}: check that they hold metres and belong to these labels; "
                "`monoskd doctor` says more"
            )
