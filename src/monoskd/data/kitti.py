"""Frames in KITTI's layout as samples for a network: files -> augmentation -> targets."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from monoskd.data.transforms import (
    Augmentation,
    Draw,
    Frame,
    PublishedData,
    flip,
    jitter,
    place,
    warp_depth,
    warp_image,
    warp_published,
    without_p23,
)
from monoskd.errors import InputError
from monoskd.geometry.camera import Camera
from monoskd.kitti.io import read_calibration, read_depth, read_image, read_objects, read_split
from monoskd.kitti.layout import KittiLayout
from monoskd.models.did_m3d.targets import make_targets
from monoskd.objects import MIN_HEIGHT_PX, Objects
from monoskd.structures import KITTI_MEAN_SIZES, Sample

INPUT_MULTIPLE = 32  # the coarsest map's stride


class KittiDataset(Dataset[Sample]):
    """The frames of one split, each a `Sample`.

    root: the folder with `ImageSets` and `training` (split "test": `testing`). input_size: (width, height) of the
    network's image. classes: what is supervised, in the order of the network's labels; mean_sizes: their (h, w, l) [m].
    augmentation: None for none. depth, labels: whether those files are read; prediction needs neither, and without
    labels there are no targets. detections: a folder of result files, a teacher's, to be read instead of labels; soft:
    their scores weigh them (otherwise they count as labels). min_height_px: of the 2D boxes of supervised objects
    [original px]; scale it down with pictures smaller than KITTI's. cache: keep the decoded files in memory (of each
    worker). published: quirks; none by default.

    What a sample looks like depends on seed, epoch and index alone, not on the number of workers.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        input_size: tuple[int, int] = (1280, 384),
        classes: tuple[str, ...] = tuple(KITTI_MEAN_SIZES),
        mean_sizes: Mapping[str, tuple[float, float, float]] = KITTI_MEAN_SIZES,
        augmentation: Augmentation | None = None,
        depth: bool = True,
        labels: bool = True,
        detections: Path | None = None,
        soft: bool = True,
        min_height_px: float = MIN_HEIGHT_PX,
        cache: bool = False,
        seed: int = 0,
        published: PublishedData | None = None,
    ) -> None:
        if any(side <= 0 or side % INPUT_MULTIPLE for side in input_size):
            raise InputError(
                f"input_size: expected positive multiples of {INPUT_MULTIPLE} (width, height), got {input_size}"
            )
        unknown = [name for name in classes if name not in mean_sizes]
        if unknown:
            raise InputError(f"mean_sizes: expected one for every class, got none for {', '.join(unknown)}: add it")
        self.layout = KittiLayout(Path(root), "testing" if split == "test" else "training")
        self.frames = read_split(self.layout.split(split))
        if not self.frames:
            raise InputError(f"{self.layout.split(split)}: expected at least one frame, got an empty split: add frames")
        self.input_size = input_size
        self.classes = classes
        self.mean_sizes = mean_sizes
        self.augmentation = augmentation
        self.depth = depth
        self.labels = labels and detections is None
        self.detections = detections
        self.soft = soft and detections is not None
        self.min_height_px = min_height_px
        self.seed = seed
        self.published = published or PublishedData()
        self._cache: dict[str, Frame] | None = {} if cache else None
        self._epoch = _shared_number()
        self._check_files()

    def _check_files(self) -> None:
        """Say at once what is missing, and not hours later where it is first read."""
        kinds = {"image_2": True, "calib": True, "label_2": self.labels, "depth_2": self.depth}
        for kind in (kind for kind, needed in kinds.items() if needed):
            missing = sorted({*self.frames} - {*self.layout.frames(kind)})
            if missing:
                advice = "run `monoskd prepare`" if kind == "depth_2" else "add them, or take them off the split"
                raise InputError(
                    f"{self.layout.folder(kind)}: expected a file for each of the split's {len(self.frames)} frames, "
                    f"got none for {len(missing)} (the first is {missing[0]}): {advice}"
                )

    def __len__(self) -> int:
        return len(self.frames)

    def set_epoch(self, epoch: int) -> None:
        """From now on, draw this epoch's augmentation."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Sample:
        """Frame `index` of the split under the current epoch's augmentation."""
        draw = Draw()
        if self.augmentation is not None:
            draw = self.augmentation.draw(np.random.default_rng([self.seed, int(self._epoch), index]))
        return self.sample(self.frames[index], draw)

    def sample(self, name: str, draw: Draw) -> Sample:
        """The frame of this name under this augmentation."""
        return make_sample(
            name,
            self.read(name),
            draw=draw,
            input_size=self.input_size,
            classes=self.classes,
            mean_sizes=self.mean_sizes,
            min_height_px=self.min_height_px,
            soft=self.soft,
            published=self.published,
        )

    def read(self, name: str) -> Frame:
        """The frame of this name as its files have it."""
        if self._cache is not None and name in self._cache:
            return self._cache[name]
        frame = Frame(
            image=read_image(self.layout.image(name)),
            camera=read_calibration(self.layout.calibration(name)).camera,
            depth_m=read_depth(self.layout.depth(name)) if self.depth else None,
            objects=self._objects(name),
        )
        if frame.depth_m is not None and frame.depth_m.shape != frame.image.shape[:2]:
            height, width = frame.depth_m.shape
            raise InputError(
                f"{self.layout.depth(name)}: expected the image's size {frame.size[0]} x {frame.size[1]}, "
                f"got {width} x {height}: run `monoskd prepare --force`"
            )
        if self._cache is not None:
            self._cache[name] = frame
        return frame

    def _objects(self, name: str) -> Objects | None:
        if self.detections is not None:
            return read_objects(self.detections / f"{name}.txt", scored=True)
        return read_objects(self.layout.label(name), scored=False) if self.labels else None


def make_sample(
    name: str,
    frame: Frame,
    *,
    input_size: tuple[int, int],
    draw: Draw | None = None,
    classes: tuple[str, ...] = tuple(KITTI_MEAN_SIZES),
    mean_sizes: Mapping[str, tuple[float, float, float]] = KITTI_MEAN_SIZES,
    min_height_px: float = MIN_HEIGHT_PX,
    soft: bool = False,
    published: PublishedData | None = None,
) -> Sample:
    """What a network gets to see of a frame, and what it should say where the frame has labels.

    soft: the frame's objects are a teacher's detections, which their scores weigh.
    """
    draw, published = draw or Draw(), published or PublishedData()
    if published.divide_by_z:
        frame = replace(frame, camera=without_p23(frame.camera))
    if draw.flip:
        frame = flip(frame)
    letterbox = place(size=frame.size, draw=draw, input_size=input_size, per_axis_decoding=published.per_axis_decoding)
    warp_rgb, warp_metres = (warp_published, warp_published) if published.plain_bilinear else (warp_image, warp_depth)
    image = warp_rgb(jitter(frame.image, draw), letterbox)
    depth_m = None if frame.depth_m is None else warp_metres(frame.depth_m, letterbox)
    targets = None
    if frame.objects is not None:
        targets = make_targets(
            frame.objects,
            camera=frame.camera,
            letterbox=letterbox,
            classes=classes,
            mean_sizes=mean_sizes,
            depth_m=depth_m,
            min_height_px=min_height_px,
            soft=soft,
            published=published,
        )
    if depth_m is not None and published.double_depth_scale:
        depth_m = depth_m / np.float32(256 / draw.scale)
    return Sample(
        frame=name,
        image=torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)).div_(255),
        camera=Camera(_float(frame.camera.P)),
        letterbox=letterbox.map(_float),
        size=frame.size,
        depth=None if depth_m is None else _float(depth_m)[None],
        targets=targets,
        objects=frame.objects,
    )


def _shared_number() -> Tensor:
    """A zero that loader processes which outlive an epoch see changing."""
    number = torch.zeros((), dtype=torch.int64)
    number.untyped_storage().share_memory_()
    return number


def _float(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))
