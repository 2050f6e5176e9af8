"""Frames of any recording as samples for a network: frame -> augmentation -> input and targets."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from monoskd.data.cache import FrameCache
from monoskd.data.lost import InWork
from monoskd.data.shared import shared_zeros
from monoskd.data.transforms import (
    Augmentation,
    Draw,
    view_of,
)
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.structures import Frame, FrameSource, PublishedData, Sample, TargetMaker

_TYPICAL_FRAMES = 25  # a recording has one lens or few


class Samples(Dataset[Sample]):
    """The frames of a source, each a `Sample`.

    input_size: (width, height) of the network's input. targets: makes the targets of frames that have objects; None for
    none. augmentation: None for none. soft: the objects are a teacher's detections, which their scores weigh. cache:
    keep the decoded frames, see `FrameCache`. published: quirks; none by default.

    What a sample looks like depends on seed, epoch and index alone, not on the number of workers.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        input_size: tuple[int, int],
        targets: TargetMaker | None = None,
        augmentation: Augmentation | None = None,
        soft: bool = False,
        cache: bool = False,
        seed: int = 0,
        published: PublishedData | None = None,
    ) -> None:
        self.source = source
        self.input_size = input_size
        self.targets = targets
        self.augmentation = augmentation
        self.soft = soft
        self.seed = seed
        self.published = published or PublishedData()
        self._cache = FrameCache(source.names) if cache else None
        self._epoch = shared_zeros()
        self._in_work = InWork()

    def __len__(self) -> int:
        return len(self.source.names)

    def set_epoch(self, epoch: int) -> None:
        """From now on, draw this epoch's augmentation."""
        self._epoch.fill_(epoch)

    def last_of(self, process: int) -> str | None:
        """The name of the frame that a loader process has read last."""
        index = self._in_work.of(process)
        return None if index is None else self.source.names[index]

    def __getitem__(self, index: int) -> Sample:
        """Frame `index` under the current epoch's augmentation."""
        self._in_work.begin(index)
        draw = Draw()
        if self.augmentation is not None:
            draw = self.augmentation.draw(np.random.default_rng([self.seed, int(self._epoch), index]))
        return self.sample(self.source.names[index], draw)

    def sample(self, name: str, draw: Draw) -> Sample:
        """The frame of this name under this augmentation."""
        return make_sample(
            name,
            self.read(name),
            draw=draw,
            input_size=self.input_size,
            targets=self.targets,
            soft=self.soft,
            published=self.published,
        )

    def read(self, name: str) -> Frame:
        """The frame of this name as the source has it."""
        return self.source.read(name) if self._cache is None else self._cache.get(name, self.source.read)


def make_sample(
    name: str,
    frame: Frame,
    *,
    input_size: tuple[int, int],
    targets: TargetMaker | None = None,
    draw: Draw | None = None,
    soft: bool = False,
    published: PublishedData | None = None,
    letterbox: Letterbox | None = None,
) -> Sample:
    """What a network sees of a frame and, with `targets`, what it should say about the frame's objects.

    soft: the frame's objects are a teacher's detections, which their scores weigh. letterbox: where the picture lies in
    the network's input; None: whole, as large as fits `input_size`, under the augmentation.
    """
    published = published or PublishedData()
    view = view_of(frame, input_size=input_size, draw=draw, published=published, letterbox=letterbox)
    made = None
    if targets is not None and view.objects is not None:
        made = targets(view.objects, camera=view.camera, letterbox=view.letterbox, depth_m=view.depth_m, soft=soft)
    return Sample(
        frame=name,
        image=torch.from_numpy(np.ascontiguousarray(view.image.transpose(2, 0, 1))),
        camera=Camera(_float(view.camera.P)),
        letterbox=view.letterbox.map(_float),
        picture_size=frame.size,
        depth=None if view.depth is None else _float(view.depth)[None],
        targets=made,
        objects=view.objects,
    )


def typical_frames(source: FrameSource) -> Iterator[Frame]:
    """Up to 25 frames, spread over a recording."""
    yield from map(source.read, source.names[:: -(-len(source.names) // _TYPICAL_FRAMES)])


def typical_focal_px(frames: Iterable[Frame], *, input_size: tuple[int, int]) -> dict[str, float]:
    """The median focal length of frames: what `Detector.adapt_to` takes."""
    focal_px, zoom = [], []
    for frame in frames:
        focal_px.append(float(frame.camera.focal_px))
        zoom.append(float(Letterbox.fit(width=frame.size[0], height=frame.size[1], size=input_size).scale))
    return {"focal_px": float(np.median(focal_px)), "input_focal_px": float(np.median(np.multiply(focal_px, zoom)))}


def _float(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))
