"""MonoDLE as published, the recordings of the original, and the recorded frames as our data pipeline gives them."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from monoskd.data.samples import Samples
from monoskd.data.transforms import Draw
from monoskd.kitti.io import read_image, write_split
from monoskd.kitti.source import KittiFrames
from monoskd.models.monodle import MonoDLE
from monoskd.models.monodle.published import from_published
from monoskd.structures import Batch, PublishedData, Sample

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def recorded(golden_detectors: Path) -> Callable[[str], Arrays]:
    """`recorded("inference")`: the arrays of one recording."""

    def read(name: str) -> Arrays:
        path = golden_detectors / "monodle" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"no recording {path}")
        with np.load(path) as file:
            return dict(file)

    return read


@pytest.fixture(scope="session")
def new_detector(published_state: Callable[[str], dict[str, Tensor]]) -> Callable[[], MonoDLE]:
    """The published network with its weights, anew at each call."""
    state = published_state("monodle")
    return lambda: from_published(state)[0]


@pytest.fixture(scope="session")
def detector(new_detector: Callable[[], MonoDLE]) -> MonoDLE:
    """The same, in evaluation mode."""
    return new_detector()


@pytest.fixture(scope="session")
def samples(
    golden_detectors: Path, kitti: Path, detector: MonoDLE, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Sample, Arrays]]:
    """Our sample and the recorded arrays of each `<frame>_<kind>` that lies there."""
    paths = sorted((golden_detectors / "monodle" / "targets").glob("targets_*.npz"))
    if not paths:
        pytest.skip(f"no recorded targets in {golden_detectors / 'monodle' / 'targets'}")
    root = tmp_path_factory.mktemp("kitti")
    (root / "training").mkdir()
    for kind in ("image_2", "calib", "label_2"):
        (root / "training" / kind).symlink_to(kitti / "training" / kind)
    frames = sorted({path.stem.split("_")[1] for path in paths})
    write_split(root / "ImageSets" / "train.txt", frames)
    published = PublishedData.all()
    source = KittiFrames(root, split="train", depth=False, labels=True)
    targets = detector.target_maker(published=published)
    dataset = Samples(source, input_size=(1280, 384), targets=targets, published=published, cache=True)
    pairs = {}
    for path in paths:
        with np.load(path) as file:
            arrays = dict(file)
        shift = arrays["aug_shift"].tolist()
        draw = Draw(flip=bool(arrays["aug_flip"]), scale=float(arrays["aug_scale"]), shift=(shift[0], shift[1]))
        name = path.stem.removeprefix("targets_")
        pairs[name] = (dataset.sample(name.split("_")[0], draw), arrays)
    return pairs


@pytest.fixture(scope="session")
def batch_of(
    golden_detectors: Path, kitti: Path, detector: MonoDLE, samples: dict[str, tuple[Sample, Arrays]]
) -> Callable[[Any], Batch]:
    """`batch_of(frames)`: our samples as a batch, with exactly the pictures that the original saw.

    Ours differ from those by a grey level here and there; the checksums say that these do not.
    """
    sums = (golden_detectors / "monodle" / "inputs.sha256").read_text()

    def exact(name: str) -> Sample:
        sample, recorded = samples[name]
        pixels = read_image(kitti / "training" / "image_2" / f"{name.split('_')[0]}.png")
        picture = Image.fromarray(np.ascontiguousarray(pixels[:, ::-1] if recorded["aug_flip"] else pixels))
        numbers = tuple(recorded["trans_inv_f64"].flatten().tolist())
        warped = picture.transform((1280, 384), Image.Transform.AFFINE, numbers, resample=Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.array(warped).transpose(2, 0, 1).astype(np.float32)) / 255
        seen = ((image - detector.pixel_mean) / detector.pixel_std).contiguous().numpy()
        assert hashlib.sha256(seen.tobytes()).hexdigest() in sums, name
        return replace(sample, image=image)

    return lambda frames: Batch.collate([exact(str(name)) for name in frames])


@pytest.fixture(scope="session")
def named_heads(named_weights: ModuleType, seed: int) -> Callable[[], dict[str, Tensor]]:
    """The raw heads that the losses without a network were recorded on: leaves, 3 x C x 96 x 320."""
    made = {
        "heatmap": (3, 1, -2.19),
        "offset_2d": (2, 0.5, 0.5),
        "size_2d": (2, 3, 12),
        "depth": (2, 0.3, -2),
        "offset_3d": (2, 0.5, 0.5),
        "size_3d": (3, 0.3, 2),
        "heading": (24, 1, 0),
    }

    def heads() -> dict[str, Tensor]:
        drawn = {
            name: named_weights.named_input(f"head.{name}", (3, count, 96, 320), seed) * factor + offset
            for name, (count, factor, offset) in made.items()
        }
        return {name: torch.as_tensor(head).requires_grad_() for name, head in drawn.items()}

    return heads
