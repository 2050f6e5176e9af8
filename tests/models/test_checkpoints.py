"""What a checkpoint of others may hold beside tensors."""

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from monoskd.errors import InputError
from monoskd.models.checkpoints import check_seal, read_checkpoint, sealed

NUMBERS = [np.float64(20.5), np.float32(0.5), np.int64(-3), np.bool_(True), np.dtype(">f4").type(2)]


def of_numpy_1(source: Path, out: Path) -> Path:
    """The same checkpoint as a version of NumPy before 2 lets torch write it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return out


def test_numbers_of_any_numpy_are_plain_ones(tmp_path: Path) -> None:
    torch.save({"model_state": {"weight": torch.ones(2)}, "numbers": NUMBERS}, tmp_path / "new.pth")
    for path in (tmp_path / "new.pth", of_numpy_1(tmp_path / "new.pth", tmp_path / "old.pth")):
        numbers = read_checkpoint(path)["numbers"]
        assert numbers == [20.5, 0.5, -3, True, 2.0]
        assert [type(number) for number in numbers] == [float, float, int, bool, float]


@pytest.mark.parametrize(
    ("value", "asked"), [(np.str_("a"), "numpy.U1"), (np.complex64(1), "numpy.c8"), (np.zeros(2), "_reconstruct")]
)
def test_nothing_else_of_numpy_is_read(value: object, asked: str, tmp_path: Path) -> None:
    torch.save({"value": value}, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=f"a pickle that asks for .*{asked}; refused"):
        read_checkpoint(tmp_path / "wrong.pth")


def test_a_seal_is_checked_without_the_file_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.ckpt"
    path.write_bytes(sealed(bytes(2**25)))
    tracemalloc.start()
    check_seal(path)
    with path.open("r+b") as file:
        file.seek(2**24)
        file.write(b"x")
    with pytest.raises(InputError, match=r"large\.ckpt: .* its checksum differs"):
        check_seal(path)
    with path.open("r+b") as file:
        file.truncate(3 * 2**30)  # sparse: read to the end it would take seconds
    with pytest.raises(InputError, match="its checksum differs"):
        check_seal(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
