"""Frames in KITTI's object layout, as a `FrameSource`."""

from dataclasses import replace
from pathlib import Path

from monoskd.errors import InputError
from monoskd.files import is_there
from monoskd.kitti.io import read_calibration, read_depth, read_image, read_objects, read_split
from monoskd.kitti.layout import KittiLayout, meant
from monoskd.kitti.leakage import check_copies, check_unlabelled
from monoskd.objects import Objects
from monoskd.structures import Frame, FrameSource


class KittiFrames(FrameSource):
    """The frames of one split.

    root: the folder with `ImageSets` and `training` (split "test": `testing`). depth, labels: whether those files are
    read; prediction needs neither. Raises InputError at once where a file is missing.
    """

    def __init__(self, root: str | Path, split: str = "train", *, depth: bool = True, labels: bool = True) -> None:
        self.split = split
        self.layout = KittiLayout(Path(root), "testing" if split == "test" else "training")
        if not self.layout.root.is_dir():
            raise InputError(f"{self.layout.root}: no such data set: check the path")
        if not is_there(path := self.layout.split(split)):
            known = ", ".join(self.layout.splits()) or "none"
            raise InputError(
                f"{path}: expected the frames of split '{split}', one name a line, got no file: write it, or name "
                f"another split (there are {known})"
            )
        self.names = read_split(path)
        if not self.names:
            raise InputError(f"{self.layout.split(split)}: expected at least one frame, got an empty split: add frames")
        self.depth = depth
        self.labels = labels
        self._check_files()

    def read(self, name: str) -> Frame:
        """The frame of this name as its files have it."""
        frame = Frame(
            image=read_image(self.layout.image(name)),
            camera=read_calibration(self.layout.calibration(name)).camera,
            depth_m=read_depth(self.layout.depth(name)) if self.depth else None,
            objects=self.objects(name),
        )
        if frame.depth_m is not None and frame.depth_m.shape != frame.image.shape[:2]:
            height, width = frame.depth_m.shape
            raise InputError(
                f"{self.layout.depth(name)}: expected the image's size {frame.size[0]} x {frame.size[1]}, "
                f"got {width} x {height}: run `monoskd prepare --force`"
            )
        return frame

    def objects(self, name: str) -> Objects | None:
        """The labels of a frame."""
        return read_objects(self.layout.label(name), scored=False) if self.labels else None

    def held_back(self, name: str) -> Objects | None:
        """The labels in `label_held_back`, which `synth` writes."""
        path = self.layout.held_back(name)
        return read_objects(path, scored=False) if path.is_file() else None

    def check_apart(self, validation: FrameSource) -> None:
        """No frame is a copy of a validation frame; pictures and sweeps are compared by content."""
        if isinstance(validation, KittiFrames):
            check_copies(self.layout, train=self.split, val=validation.split)

    def check_unlabelled(self, *, mapping: Path | None) -> None:
        """No frame has a label, is a validation frame by content, or comes from a validation drive."""
        check_unlabelled(self.layout.root, split=self.split, mapping=mapping)

    def _check_files(self) -> None:
        kinds = {"image_2": True, "calib": True, "label_2": self.labels, "depth_2": self.depth}
        for kind in (kind for kind, needed in kinds.items() if needed):
            there = self.layout.frames(kind)
            missing = sorted({*self.names} - {*there})
            if missing:
                advice = "add them, or take them off the split"
                if kind == "depth_2":
                    advice = "run `monoskd prepare`"
                    if not {*missing} & {*self.layout.frames("velodyne")}:
                        sweeps = f"add sweeps in {self.layout.folder('velodyne')}"
                        advice = f"{sweeps}, then {advice}; without a LiDAR, train with `--data.depth false`"
                raise InputError(
                    f"{self.layout.folder(kind)}: expected a file for each of the split's {len(self.names)} frames, "
                    f"got none for {len(missing)} (the first is {missing[0]}{meant(missing[0], there)}): {advice}"
                )


class WithDetections(FrameSource):
    """The frames of another source, with the objects of result files `folder/<name>.txt` for labels."""

    def __init__(self, source: FrameSource, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.names = source.names

    def read(self, name: str) -> Frame:
        """The frame with the detections as its objects."""
        return replace(self.source.read(name), objects=read_objects(self.folder / f"{name}.txt", scored=True))
