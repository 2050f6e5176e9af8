"""One way to read text and one way to write: both tell what is wrong, and no file is ever half written."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monoskd.errors import InputError
from monoskd.files import (
    as_number,
    atomic_path,
    is_whole_number,
    read_bytes,
    read_json,
    read_text,
    remove_partial_files,
    visible,
    write_atomically,
    write_json,
    write_text,
)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_text_reads_the_same_whatever_its_mark_and_line_ends(tmp_path: Path, mark: bytes, end: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(mark + end.join([b"Car", "Fußgänger".encode(), b""]))
    assert read_text(tmp_path / "t.txt") == "Car\nFußgänger\n"


def test_text_does_not_depend_on_the_locale(tmp_path: Path) -> None:
    code = (
        "import sys; from monoskd.files import read_text, write_text; write_text(sys.argv[1], '\\xe4');"
        "assert read_text(sys.argv[1]) == '\\xe4'; assert open(sys.argv[1], 'rb').read() == b'\\xc3\\xa4'"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-X", "utf8=0", "-c", code, tmp_path / "t.txt"], check=True, env=environment)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "latin-1"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    start = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "t.txt").write_bytes(start + "Fußgänger 1 2".encode(encoding))
    with pytest.raises(InputError, match=r"t\.txt: expected UTF-8 text, got .*: save it as UTF-8"):
        read_text(tmp_path / "t.txt")


@pytest.mark.parametrize("content", ["Car 0".encode("utf-16-le"), bytes(20)])
def test_zero_bytes_are_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt: expected UTF-8 text, got zero bytes"):
        read_text(tmp_path / "a.txt")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "t.txt").open("wb") as file:
        file.truncate(2 * 2**30)  # sparse
    with pytest.raises(InputError, match=r"t\.txt: expected a file of at most 64 MiB, got 2048 MiB"):
        read_text(tmp_path / "t.txt")
    with pytest.raises(InputError, match=r"t\.txt: expected a file of at most 1024 MiB, got 2048 MiB"):
        read_bytes(tmp_path / "t.txt")
    with pytest.raises(InputError, match="at most"):
        read_bytes("/dev/zero", at_most=1000)  # a device has no size


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x01"])
def test_what_is_not_json_is_named(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "d.json", text)
    with pytest.raises(InputError, match=r"d\.json: expected JSON, got something else"):
        read_json(tmp_path / "d.json")


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "ü"}).encode())
    assert read_json(tmp_path / "d.json") == {"a": "ü"}
    write_json(tmp_path / "e.json", {"a": "ü"})
    assert read_json(tmp_path / "e.json") == {"a": "ü"}


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".txt")
    write_text(path, "whole")
    assert path.read_text() == "whole"
    with pytest.raises(InputError, match="File name too long': choose a shorter name"):
        write_text(tmp_path / ("n" * 300), "whole")


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "t.txt", "old")

    def write_and_raise(error: BaseException) -> None:
        with atomic_path(tmp_path / "t.txt") as partial:
            partial.write_text("ne")
            raise error

    with pytest.raises(InputError, match="No space left on device': free some space; the file that was"):
        write_and_raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]
    assert (tmp_path / "t.txt").read_text() == "old"


def test_what_a_killed_process_left_can_be_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from monoskd.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as partial: partial.write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "t.txt"], check=False)
    write_atomically(tmp_path / "whole.txt", b"")
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial_files(tmp_path, older_than_s=3600)
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.txt"]


def test_hidden_files_are_not_seen(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "._a.txt", ".DS_Store"):
        (tmp_path / name).touch()
    assert [path.name for path in visible(tmp_path.iterdir())] == ["a.txt", "b.txt"]


def test_a_pipe_among_files_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "000000.txt"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"000000\.txt: expected a file, got a device or pipe"):
        read_text(pipe)
    (tmp_path / "zeros").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="zeros: expected a file, got a device or pipe"):
        read_bytes(tmp_path / "zeros")
    assert read_bytes("/dev/null") == b""


@pytest.mark.parametrize(
    ("word", "value"), [("1", 1.0), ("-1.5e3", -1500.0), ("+.5", 0.5), ("inf", math.inf), ("000012", 12.0)]
)
def test_a_number_is_written_in_ascii(word: str, value: float) -> None:
    assert as_number(word) == value


@pytest.mark.parametrize("word", ["1_0", "\u0661\u0660", "\uff11", "1,5", "0x10", "", "\u22121", "nan"])
def test_what_python_alone_would_take_for_a_number_is_none(word: str) -> None:
    assert math.isnan(as_number(word))
    assert not is_whole_number(word)


def test_a_whole_number_fits_into_64_bits() -> None:
    assert is_whole_number("0" * 18)
    assert not is_whole_number("0" * 19)
    assert not is_whole_number("-1")
