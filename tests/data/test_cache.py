"""Decoded frames are decoded once, whichever process of a loader needs them."""

import errno
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from monoskd.data.cache import FrameCache
from monoskd.data.samples import Samples
from monoskd.errors import InputError
from monoskd.frames import Frame
from monoskd.kitti.source import KittiFrames
from monoskd.structures import Batch


class Counted(KittiFrames):
    """Notes each frame that it reads in a file, which all processes share."""

    log: Path

    def read(self, name: str) -> Frame:
        with self.log.open("a") as file:
            file.write(f"{name}\n")
        return super().read(name)


@pytest.fixture
def source(scenes: Path, tmp_path: Path) -> Counted:
    source = Counted(scenes, "trainval")
    source.log = tmp_path / "log"
    return source


def read(source: Counted) -> Counter[str]:
    return Counter(source.log.read_text().split())


@pytest.mark.parametrize("workers", [0, 2])
def test_all_processes_of_all_epochs_read_a_frame_once(source: Counted, workers: int) -> None:
    plain, cached = (Samples(source, input_size=(128, 64), cache=cache) for cache in (False, True))
    wanted = [plain[index].image for index in range(len(plain))]
    source.log.unlink()
    loader = DataLoader(cached, batch_size=1, num_workers=workers, collate_fn=Batch.collate, shuffle=False)
    for _ in range(3):  # each with processes of its own
        for image, batch in zip(wanted, loader, strict=True):
            assert (batch.image[0] == image).all()
    assert read(source) == Counter(source.names)


def test_what_is_done_to_a_frame_does_not_reach_the_cache(source: Counted) -> None:
    cache, name = FrameCache(source.names), source.names[0]
    frame = source.read(name)
    for _ in range(3):
        found = cache.get(name, source.read)
        assert np.array_equal(found.image, frame.image)
        assert np.array_equal(found.depth_m, frame.depth_m)
        assert np.array_equal(found.camera.P, frame.camera.P)
        assert np.array_equal(found.objects.bottom, frame.objects.bottom)
        found.image[:] = 0


def test_a_copy_begins_empty(source: Counted) -> None:
    cache = FrameCache(source.names)
    name = source.names[-1]
    cache.get(name, source.read)
    copy = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(copy.get(name, source.read).image, cache.get(name, source.read).image)
    assert read(source) == Counter({name: 2})


def test_a_full_disk_is_one_line(source: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"data.cache: expected room .* got 'No space left on device' after .* TMPDIR"):
        FrameCache(source.names).get(source.names[0], source.read)
