import os
import signal
from typing import Any, NoReturn

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from monoskd.data.lost import InWork, LostLoaderError, is_lost_loader, naming_lost_frames


class Numbers(Dataset[torch.Tensor]):
    """Four frames that are named frame0 to frame3."""

    def __init__(self) -> None:
        self.in_work = InWork()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        self.in_work.begin(index)
        return torch.tensor(index)

    def last_of(self, process: int) -> str | None:
        index = self.in_work.of(process)
        return None if index is None else f"frame{index}"


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "reset by peer"), EOFError(), FileNotFoundError(2, "gone")]
)
def test_a_process_that_ends_while_it_hands_over_a_batch_is_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    frames = Numbers()

    def broken(loader: Any, timeout: float = 0) -> NoReturn:
        while frames.last_of(loader._workers[0].pid) != "frame1":
            pass
        os.kill(loader._workers[0].pid, signal.SIGKILL)
        raise error  # at once: the process is still there

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", broken)
    with (
        pytest.raises(LostLoaderError, match="ended by signal Killed at frame frame1") as lost,
        naming_lost_frames(frames),
    ):
        list(DataLoader(frames, num_workers=1, prefetch_factor=2))
    assert is_lost_loader(lost.value)
    assert is_lost_loader(error)


def test_a_connection_that_breaks_elsewhere_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monoskd.data.lost._SECONDS_TO_END", 0.05)

    def broken(loader: Any, timeout: float = 0) -> NoReturn:
        raise ConnectionResetError

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", broken)
    with pytest.raises(ConnectionResetError), naming_lost_frames(frames := Numbers()):
        list(DataLoader(frames, num_workers=1))
    with pytest.raises(ConnectionResetError), naming_lost_frames(frames):
        raise ConnectionResetError
