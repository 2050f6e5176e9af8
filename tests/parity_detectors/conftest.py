"""Recordings of other published detectors, the weights they were made with and the frames they look at."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.data.samples import Samples
from monoskd.data.transforms import Draw
from monoskd.kitti.io import write_split
from monoskd.kitti.source import KittiFrames
from monoskd.structures import Batch, Detector, PublishedData, Sample

Arrays = dict[str, np.ndarray]
Pairs = dict[str, tuple[Sample, Arrays]]


@pytest.fixture(scope="session")
def golden_detectors(shared: Path) -> Path:
    """The folder of recordings: MONOSKD_GOLDEN_DETECTORS, or the one in the reference material."""
    folder = Path(os.environ.get("MONOSKD_GOLDEN_DETECTORS", shared / "reference" / "detectors"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}: set MONOSKD_GOLDEN_DETECTORS")
    return folder


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of the weights and inputs behind the recordings."""
    return int(os.environ.get("MONOSKD_GOLDEN_SEED") or 0)


@pytest.fixture(scope="session")
def published_state(golden_detectors: Path, seed: int, named_weights: ModuleType) -> Callable[[str], dict[str, Tensor]]:
    """`published_state("monodle")`: a state dict in the published names."""

    def state(network: str) -> dict[str, Tensor]:
        spec = json.loads((golden_detectors / f"{network}_state.json").read_text())
        return dict(named_weights.named_state(spec, seed))

    return state


@pytest.fixture(scope="session")
def read_recording(golden_detectors: Path) -> Callable[[str, str], Arrays]:
    """`read_recording("monodle", "inference")`: the arrays of one recording; `frames` are named as samples are."""

    def read(network: str, name: str) -> Arrays:
        path = golden_detectors / network / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"no recording {path}")
        with np.load(path) as file:
            arrays = dict(file)
        if "frames" in arrays:
            names = arrays["frames"].tolist()
            arrays["frames"] = np.array([name if "_" in name else f"{name}_plain" for name in names])
        return arrays

    return read


@pytest.fixture(scope="session")
def read_samples(
    golden_detectors: Path, kitti: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Detector], Pairs]:
    """`read_samples("monodle", detector)`: our sample and the recorded arrays of each `<frame>_<kind>` there."""

    def read(network: str, detector: Detector) -> Pairs:
        paths = sorted((golden_detectors / network / "targets").glob("targets_*.npz"))
        if not paths:
            pytest.skip(f"no recorded targets in {golden_detectors / network / 'targets'}")
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

    return read


@pytest.fixture(scope="session")
def exact_sample(golden_detectors: Path) -> Callable[[str, str, tuple[Sample, Arrays]], Sample]:
    """Our sample; its picture has the checksum of the one that the original saw."""
    mean, std = (torch.tensor(three)[:, None, None] for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def exact(network: str, name: str, pair: tuple[Sample, Arrays]) -> Sample:
        seen = ((pair[0].image / 255 - mean) / std).contiguous().numpy()
        lines = (golden_detectors / network / "inputs.sha256").read_text().splitlines()
        sums = {frame: digest for digest, frame in map(str.split, lines)}
        assert hashlib.sha256(seen.tobytes()).hexdigest() == sums[name], name
        return pair[0]

    return exact


@pytest.fixture(scope="session")
def exact_batches(
    exact_sample: Callable[[str, str, tuple[Sample, Arrays]], Sample],
) -> Callable[[str, Pairs], Callable[[Iterable[str]], Batch]]:
    """`exact_batches("monodle", samples)(frames)`: our samples as a batch."""

    def of_network(network: str, samples: Pairs) -> Callable[[Iterable[str]], Batch]:
        def batch(frames: Iterable[str]) -> Batch:
            names = [str(name) for name in frames]
            if missing := [name for name in names if name not in samples]:
                pytest.fail(f"no recorded targets of {', '.join(missing)}, which other recordings there are of")
            return Batch.collate([exact_sample(network, name, samples[name]) for name in names])

        return batch

    return of_network
