from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from monoskd.errors import InputError
from monoskd.inference.pictures import Broken, Picture, open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.tif", "b.gif", "c.jfif", "d.png", "._d.png", "notes.md"):
        if name.endswith("md") or name.startswith("."):
            (tmp_path / name).write_bytes(b"no picture")
            continue
        kinds = {"jfif": "JPEG", "tif": "TIFF"}
        Image.new("RGB", (40, 20), (9, 99, 9)).save(tmp_path / name, kinds.get(name[2:]))
    return tmp_path


def stems(source: str | Path) -> list[str]:
    return [item.stem for item in open_source(source).items if isinstance(item, Picture)]


def test_a_folder_a_glob_and_a_list_hold_pictures(folder: Path) -> None:
    assert stems(folder) == ["a", "b", "c", "d"]
    assert stems(f"{folder}/[bd].*") == ["b", "d"]
    (folder / "list.txt").write_text("\n# two of them\nd.png\na.tif\n")
    assert stems(folder / "list.txt") == ["d", "a"]
    assert open_source(folder).total == 4


def test_pictures_of_phones_in_a_folder_are_read_or_named(folder: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    picture.save(folder / "e.MPO", "MPO", save_all=True, append_images=[picture])
    (folder / "f.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert stems(folder) == ["a", "b", "c", "d", "e"]
    broken = [item.reason for item in open_source(folder).items if isinstance(item, Broken)]
    assert broken == [f"{folder / 'f.heic'}: expected an image, got another kind of file: convert it to JPEG or PNG"]


def test_videos_in_a_folder_are_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "drive.MP4").write_bytes(b"")
    opened = open_source(folder)
    assert opened.left_out == (folder / "drive.MP4",)
    assert [item.stem for item in opened.items if isinstance(item, Picture)] == ["a", "b", "c", "d"]
    videos = tmp_path / "videos"
    videos.mkdir()
    (folder / "drive.MP4").rename(videos / "drive.MP4")
    with pytest.raises(InputError, match=r"videos: expected images .*, got drive\.MP4: predict videos one by one"):
        open_source(videos)


def test_a_damaged_picture_is_an_item_like_others(folder: Path) -> None:
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:50])
    items = list(open_source(folder).items)
    assert [isinstance(item, Broken) for item in items] == [False, False, False, True]
    assert isinstance(items[-1], Broken)
    assert "d.png: expected a whole image" in items[-1].reason


def test_two_files_of_one_name_are_left_out_and_named(folder: Path) -> None:
    Image.new("RGB", (40, 20)).save(folder / "d.jpg")
    assert stems(folder) == ["a", "b", "c"]
    broken = [item.reason for item in open_source(folder).items if isinstance(item, Broken)]
    assert broken == [
        f"{folder}: expected names that differ, got {folder}/d.jpg and {folder}/d.png: rename one, or predict them "
        "with an `--out` each"
    ]
    (folder / "again").mkdir()
    Image.new("RGB", (40, 20)).save(folder / "again" / "c.png")
    broken = [item.reason for item in open_source(f"{folder}/**/c.*").items if isinstance(item, Broken)]
    assert f"got {folder}/again/c.png and {folder}/c.jfif:" in broken[0]


def test_a_picture_that_a_list_names_twice_is_predicted_once(folder: Path) -> None:
    (folder / "list.txt").write_text("d.png\na.tif\n./d.png\n")
    assert stems(folder / "list.txt") == ["d", "a"]
    assert open_source(folder / "list.txt").total == 2


def test_the_focal_length_of_exif_is_read(folder: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    Image.new("RGB", (40, 20)).save(folder / "photo.jpg", exif=exif)
    with_exif, without = (next(iter(open_source(folder / name).items)) for name in ("photo.jpg", "d.png"))
    assert isinstance(with_exif, Picture)
    assert isinstance(without, Picture)
    assert (with_exif.focal_35mm, without.focal_35mm) == (28.0, None)


def test_a_video_that_is_cut_off_says_so_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (160, 96))
    for seed in range(12):
        writer.write(np.random.default_rng(seed).integers(0, 255, (96, 160, 3), np.uint8))
    writer.release()
    assert [type(item) for item in open_source(path).items] == [Picture] * 12
    assert open_source(path).frames_a_second == pytest.approx(5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *whole, last = open_source(path).items
    assert 2 <= len(whole) < 10
    assert isinstance(last, Broken)
    assert f"expected 12 frames, as its header says, got {len(whole)}" in last.reason


def with_its_index_first(video: bytes) -> bytes:
    """An MP4 whose table of frames stands before them, as for the web."""
    at = video.index(b"mdat") - 4
    moov = video.index(b"moov") - 4
    head, media, index = video[:at], video[at:moov], bytearray(video[moov:])
    table = index.index(b"stco") + 8
    for entry in range(int.from_bytes(index[table : table + 4], "big")):
        place = slice(table + 4 + 4 * entry, table + 8 + 4 * entry)
        index[place] = (int.from_bytes(index[place], "big") + len(index)).to_bytes(4, "big")
    return head + index + media


@pytest.mark.parametrize(
    ("suffix", "codec"), [("avi", "MJPG"), ("avi", "mp4v"), ("mkv", "MJPG"), ("mkv", "mp4v"), ("mp4", "mp4v")]
)
def test_a_video_that_lacks_one_frame_or_a_part_of_it_says_so(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"drive.{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (160, 96))
    picture = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    for frame in range(60):
        writer.write(np.roll(picture, frame, 1))
    writer.release()
    whole = path.read_bytes()
    if suffix == "mp4":
        whole = with_its_index_first(whole)
        path.write_bytes(whole)
    assert [type(item) for item in open_source(path).items] == [Picture] * 60
    for share in (0.97, 0.985):
        path.write_bytes(whole[: int(share * len(whole))])
        *_, last = open_source(path).items
        assert isinstance(last, Broken), share
        assert "cut off" in last.reason


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing*.png", "expected files of this pattern, got none"),
        ("99", "expected the number of a camera that can be read"),
        ("empty.txt", "expected an image or a list of images, a path a line, got no line"),
        ("names.txt", "got 'nowhere.png', which is none"),
    ],
)
def test_what_is_no_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "names.txt").write_text("nowhere.png\n")
    with pytest.raises(InputError, match=message) as caught:
        open_source(source)
    assert source in str(caught.value)
