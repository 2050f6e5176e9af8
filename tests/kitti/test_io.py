import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from monoskd.errors import InputError
from monoskd.files import check_report, write_atomically
from monoskd.images import read_image_size
from monoskd.kitti.io import (
    Calibration,
    format_objects,
    parse_objects,
    read_calibration,
    read_depth,
    read_image,
    read_objects,
    read_split,
    read_velodyne,
    write_calibration,
    write_depth,
    write_objects,
    write_split,
    write_velodyne,
)
from monoskd.kitti.layout import KittiLayout
from monoskd.objects import Objects

CAR = "Car 0.00 0 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
DONT_CARE = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"
P2 = "P2: 700 0 600 45 0 700 180 -0.3 0 0 1 0.005"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- objects ---


def test_a_label_line_becomes_its_fields():
    objects = parse_objects(f"{CAR}\n\n{DONT_CARE}\n", source="here")
    assert objects.names.tolist() == ["Car", "DontCare"]
    assert objects.scores is None
    assert objects.occlusion.tolist() == [0, -1]
    np.testing.assert_array_equal(objects.boxes_2d[0], [387.63, 181.54, 423.81, 203.12])
    np.testing.assert_array_equal(objects.dimensions[0], [1.67, 1.87, 3.69])
    np.testing.assert_array_equal(objects.bottom[0], [-16.53, 2.39, 58.49])
    assert (objects.alpha[0], objects.yaw[0], objects.truncation[0]) == (1.85, 1.57, 0)


def test_labels_are_written_as_kitti_writes_them():
    text = f"{CAR}\n{DONT_CARE}\n"
    assert format_objects(parse_objects(text, source="here")) == text


def test_a_result_has_a_score():
    objects = parse_objects(f"{CAR.replace(' 0.00 0 ', ' -1 -1 ')} 0.123456\n", source="here", scored=True)
    assert objects.scores is not None
    assert objects.scores.tolist() == [0.123456]
    assert format_objects(objects).startswith("Car -1 -1 1.850000 387.630000 ")
    assert format_objects(objects).endswith(" 1.570000 0.123456\n")


def test_an_empty_file_holds_no_objects(tmp_path):
    empty = written(tmp_path / "e.txt", "\n")
    assert len(read_objects(empty)) == 0
    assert read_objects(empty).scores is None
    assert read_objects(empty, scored=True).scores is not None


finite = st.floats(-1e4, 1e4)


@settings(deadline=None)
@given(
    columns=st.integers(0, 5).flatmap(lambda n: arrays(np.float64, (n, 15), elements=finite)),
    scored=st.booleans(),
    data=st.data(),
)
def test_objects_survive_a_round_trip(columns, scored, data):
    count = len(columns)
    names = data.draw(st.lists(st.sampled_from(["Car", "bus", "Person_sitting"]), min_size=count, max_size=count))
    objects = Objects(
        names=np.array(names, np.str_),
        truncation=columns[:, 0],
        occlusion=columns[:, 1].round().astype(np.int64),
        alpha=columns[:, 2] / 1e3,
        boxes_2d=columns[:, 3:7],
        dimensions=columns[:, 7:10] / 1e2,
        bottom=columns[:, 10:13] / 1e1,
        yaw=columns[:, 13] / 1e3,
        scores=columns[:, 14] if scored else None,
    )
    again = parse_objects(format_objects(objects, decimals=4), source="here", scored=scored)
    assert again.names.tolist() == names
    np.testing.assert_array_equal(again.occlusion, objects.occlusion)
    for name in ("truncation", "alpha", "boxes_2d", "dimensions", "bottom", "yaw", *(["scores"] if scored else [])):
        np.testing.assert_allclose(getattr(again, name), getattr(objects, name), atol=0.50001e-4)


@pytest.mark.parametrize(
    ("text", "scored", "message"),
    [
        (f"{CAR}\nCar 0.00 0 1.8", None, r"o\.txt, line 2: expected 15 fields \(a label\), got 4: .*cut off"),
        ("\nCar 0.00", None, r"line 2: expected 15 or 16 fields, got 2"),
        (CAR, True, r"line 1: expected 16 fields \(a result\), got 15"),
        (f"{CAR} 0.9 7", False, r"line 1: expected 15 fields \(a label\), got 17: these are more fields than KITTI's"),
        (f"{CAR} 1 2 3 4 5", None, r"line 1: expected 15 or 16 fields, got 20: these are more fields than KITTI's"),
        (CAR, True, r"got 15: a result needs a score as its last field"),
        (f"{CAR}\n{CAR} 0.9", None, r"line 2: expected 15 fields \(a label\), got 16"),
        (CAR.replace("58.49", "nan"), None, r"line 1, field 14 \(z\): expected a finite number, got 'nan'"),
        (CAR.replace("1.67", "inf"), None, r"field 9 \(height\): expected a finite number, got 'inf'"),
        (CAR.replace("387.63", "3B7.63"), None, r"field 5 \(left\): expected a finite number, got '3B7.63'"),
        (CAR.replace("58.49", "5_8.49"), None, r"field 14 \(z\): expected a finite number, got '5_8\.49'"),
        (CAR.replace("58.49", "\u0665\u0668"), None, r"field 14 \(z\): expected a finite number"),
        (
            CAR.replace(" 1.57", " 90"),
            None,
            r"field 15 \(rotation_y\): expected at most 10 radians, got '90'",
        ),
        (CAR.replace("58.49", "58490"), None, r"field 14 \(z\): expected at most 1000 metres, got '58490'"),
        (CAR.replace("1.67", "1670") + " 0.5", False, r"field 9 \(height\): expected at most 1000 metres"),
        (CAR.replace(" ", ","), None, r"got 1: fields are separated by spaces, convert the file"),
        (CAR.replace("Car", "Car\u200b"), None, r"line 1: expected a class name, got 'Car.u200b'"),
        (CAR.replace(" 0 ", " 0.5 "), None, r"field 3 \(occluded\): expected a whole number, got '0.5'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, text, scored, message):
    with pytest.raises(InputError, match=message):
        read_objects(written(tmp_path / "o.txt", text), scored=scored)


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "o.txt").write_bytes(b"Car \xff\xfe")
    with pytest.raises(InputError, match=r"o\.txt: expected UTF-8 text, got other bytes at offset 4"):
        read_objects(tmp_path / "o.txt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: expected a readable file, got 'No such file"):
        read_objects(tmp_path / "none.txt")


def test_a_name_of_two_words_is_not_written():
    objects = parse_objects(CAR, source="here")
    renamed = Objects(**{**vars(objects), "names": np.array(["Sports car"])})
    with pytest.raises(ValueError, match="expected one word, got 'Sports car'"):
        format_objects(renamed)


# --- calibration ---


def test_calibration_is_read_by_key(tmp_path):
    calibration = read_calibration(written(tmp_path / "c.txt", f"# a remark\nTr_velo_to_cam: {'1 ' * 12}\n\n{P2}\n"))
    np.testing.assert_array_equal(calibration.P2, [[700, 0, 600, 45], [0, 700, 180, -0.3], [0, 0, 1, 0.005]])
    assert calibration.Tr_velo_to_cam is not None
    assert calibration.P0 is calibration.R0_rect is None
    np.testing.assert_array_equal(calibration.camera.P, calibration.P2)


def test_tracking_files_spell_keys_otherwise(tmp_path):
    text = f"{P2}\nR_rect 1 0 0 0 1 0 0 0 1\nTr_velo_cam {'1 ' * 12}\nTr_imu_velo {'2 ' * 12}\n"
    calibration = read_calibration(written(tmp_path / "c.txt", text))
    np.testing.assert_array_equal(calibration.R0_rect, np.eye(3))
    np.testing.assert_array_equal(calibration.Tr_imu_to_velo, np.full((3, 4), 2.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P0: " + "1 " * 12, r"c\.txt: expected a line 'P2: <12 numbers>', got P0: add it"),
        ("", r"expected a line 'P2: <12 numbers>', got no matrix"),
        (f"\n{P2[:-6]}", r"line 2, P2: expected 12 numbers, got 11: .*cut off"),
        (f"{P2} 0 0 0 1", r"line 1, P2: expected 12 numbers, got 16: write it as 3 x 4, row by row"),
        (P2.replace("600", "six"), r"line 1, P2: expected a finite number, got 'six'"),
        (P2.replace("600", "6_00"), r"line 1, P2: expected a finite number, got '6_00'"),
        (P2.replace("600", "nan"), r"line 1, P2: expected a finite number, got 'nan'"),
        (P2.replace("700", "0", 1), r"line 1, P2: expected a rectified camera .*, got 0 0 600 45 .*: correct the line"),
        (P2.replace("0 0 1", "0 0 0"), r"line 1, P2: expected a rectified camera"),
        (f"{P2}\n{P2}", r"line 2: expected P2 once, got it again"),
    ],
)
def test_a_damaged_calibration_is_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_calibration(written(tmp_path / "c.txt", text))


def test_a_required_matrix_must_be_there(tmp_path):
    path = written(tmp_path / "c.txt", P2)
    with pytest.raises(InputError, match=r"expected a line 'R0_rect: <9 numbers>', got P2"):
        read_calibration(path, require=("R0_rect",))
    with pytest.raises(ValueError, match="cannot place LiDAR points"):
        read_calibration(path).velo_to_camera(np.zeros((1, 3)))


@settings(deadline=None)
@given(arrays(np.float64, (3, 4), elements=st.floats(-1e6, 1e6)), arrays(np.float64, (3, 3), elements=finite))
def test_calibration_survives_a_round_trip(tmp_path_factory, projection, rotation):
    path, camera = tmp_path_factory.mktemp("calib") / "c.txt", np.eye(3, 4)
    camera[:2, 2:] = projection[:2, 2:]
    write_calibration(path, Calibration(P2=camera, P0=projection, R0_rect=rotation))
    again = read_calibration(path)
    np.testing.assert_allclose(again.P2, camera, rtol=1e-12)
    np.testing.assert_allclose(again.P0, projection, rtol=1e-12)
    np.testing.assert_allclose(again.R0_rect, rotation, rtol=1e-12)
    assert again.Tr_velo_to_cam is None


# --- splits ---


@pytest.mark.parametrize("names", [["000007", "000003"], ["00549", "my photo", "2011_09_26_0000000005", "Straße-1"]])
def test_a_split_survives_a_round_trip(tmp_path, names):
    write_split(tmp_path / "ImageSets" / "train.txt", names)
    assert read_split(tmp_path / "ImageSets" / "train.txt") == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("000001\n\n../17\n", r"s\.txt, line 3: expected a frame's name \(000012 for 000012\.png\), got '\.\./17'"),
        ("._000001", r"line 1: expected a frame's name .*, got '\._000001'"),
        ("000001\x01", r"line 1: expected a frame's name"),
        ("000001\n000002\n000001", r"line 3: expected each frame once, got 000001 again \(first on line 1\)"),
    ],
)
def test_a_damaged_split_is_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_split(written(tmp_path / "s.txt", text))


# --- depth maps, images, sweeps ---


@settings(deadline=None)
@given(arrays(np.float32, (4, 7), elements=st.floats(0, 255, width=32)))
def test_depth_survives_a_round_trip(tmp_path_factory, depth_m):
    path = tmp_path_factory.mktemp("depth") / "d.png"
    write_depth(path, depth_m)
    again = read_depth(path)
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, depth_m, atol=1 / 512)


def test_a_depth_map_is_what_opencv_reads(tmp_path):
    write_depth(tmp_path / "d.png", np.array([[0, 1.5, 80], [255.99, 300, 1 / 256]]))
    stored = cv2.imread(str(tmp_path / "d.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, [[0, 384, 20480], [65533, 65535, 1]])


def test_depth_maps_that_are_none_are_named(tmp_path):
    path = tmp_path / "d.png"
    write_depth(path, np.random.default_rng(0).uniform(0, 80, (40, 50)))
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 20, len(whole) // 2, 40):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"d\.png: expected a whole image, got one without its end"):
            read_depth(path)
    path.write_bytes(whole[:900] + bytes(8) + whole[908:])
    with pytest.raises(InputError, match=r"d\.png: expected a whole image, got a damaged one"):
        read_depth(path)
    Image.new("L", (5, 4)).save(path)
    with pytest.raises(InputError, match=r"d\.png: expected a 16-bit grey PNG, got mode L"):
        read_depth(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_every_picture_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (5, 4), (10, 200, 30)).convert(mode).save(tmp_path / "i.png")
    pixels = read_image(tmp_path / "i.png")
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(pixels[2, 2], [10, 200, 30])


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.new("RGB", (6, 4)).save(tmp_path / "i.jpg", exif=exif)
    assert read_image(tmp_path / "i.jpg").shape == (6, 4, 3)
    assert read_image_size(tmp_path / "i.jpg") == (4, 6)


def test_pictures_that_are_none_are_named(tmp_path):
    path = written(tmp_path / "i.png", "not a picture")
    for read in (read_image, read_image_size):
        with pytest.raises(InputError, match=r"i\.png: expected an image, got"):
            read(path)
        with pytest.raises(InputError, match=r"none\.png: expected a readable"):
            read(tmp_path / "none.png")
    Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / "i.jpg")
    (tmp_path / "i.jpg").write_bytes((tmp_path / "i.jpg").read_bytes()[:-30])
    for read in (read_image, read_image_size):
        with pytest.raises(InputError, match=r"i\.jpg: expected a whole image, got one without its end"):
            read(tmp_path / "i.jpg")


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says this size, with these chunks before its end."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (header, *chunks, (b"IEND", b""))
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(12_000, 12_000), "expected at most 134217728 pixels, got a larger picture: scale it down"),
        (png(30_000, 30_000), "expected at most 134217728 pixels, got a larger picture: scale it down"),
        (
            png(4, 4, (b"zTXt", b"words\0\0" + zlib.compress(bytes(2_000_000)))),
            r"expected a whole image, got a damaged one \((?i:decompressed data too large)",
        ),
    ],
)
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, content, message):
    (tmp_path / "bomb.png").write_bytes(content)
    for read in (read_image, read_depth, read_image_size):
        with pytest.raises(InputError, match=rf"bomb\.png: {message}"):
            read(tmp_path / "bomb.png")


def test_a_picture_of_100_megapixels_is_no_bomb(tmp_path):
    (tmp_path / "i.png").write_bytes(png(10_000, 10_000))  # Pillow warns, and warnings are errors here
    assert read_image_size(tmp_path / "i.png") == (10_000, 10_000)


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(0, 9), st.just(4)), elements=st.floats(-100, 100, width=32)))
def test_sweeps_survive_a_round_trip(tmp_path_factory, points):
    points[:, 3] = np.abs(points[:, 3])
    path = tmp_path_factory.mktemp("velodyne") / "v.bin"
    write_velodyne(path, points)
    np.testing.assert_array_equal(read_velodyne(path), points)


def test_a_cut_off_sweep_is_named(tmp_path):
    (tmp_path / "v.bin").write_bytes(bytes(33))
    with pytest.raises(InputError, match=r"v\.bin: expected points of 16 bytes \(4 float32\), got 33 bytes"):
        read_velodyne(tmp_path / "v.bin")
    with pytest.raises(ValueError, match="expected n x 4"):
        write_velodyne(tmp_path / "v.bin", np.zeros((5, 3)))


# --- writing ---


def test_what_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    path = written(tmp_path / "f.txt", "old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"f\.txt: expected to write here, got 'No space left on device'"):
        write_atomically(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["f.txt"]
    assert path.read_text() == "old"


def test_a_folder_that_is_a_file_is_named(tmp_path):
    written(tmp_path / "depth_2", "")
    with pytest.raises(InputError, match=r"depth_2/000000\.png: expected to write here, got 'File exists'"):
        write_depth(tmp_path / "depth_2" / "000000.png", np.ones((2, 2)))


@pytest.mark.parametrize(
    ("name", "fault"),
    [("folder", "Is a directory"), ("file/report.json", "Not a directory"), ("file/a/b", "Not a directory")],
)
def test_what_could_not_be_written_is_said_before(tmp_path, name, fault):
    (tmp_path / "folder").mkdir()
    written(tmp_path / "file", "old")
    for write in (lambda path: check_report(path, suffix=".json"), lambda path: write_atomically(path, b"new")):
        with pytest.raises(InputError, match=rf"{name}: expected to write here, got "):
            write(tmp_path / name)
    with pytest.raises(InputError, match=fault):
        check_report(tmp_path / name, suffix=".json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_missing_permission_is_said_before(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    for name in ("report.json", "new/report.json"):
        with pytest.raises(InputError, match="expected to write here, got 'Permission denied'"):
            check_report(tmp_path / "locked" / name, suffix=".json")


def test_asking_whether_a_file_can_be_written_changes_nothing(tmp_path):
    path = written(tmp_path / "old.json", "old")
    for place in (path, tmp_path / "new", tmp_path / "new" / "deep" / "report.json"):
        check_report(place, suffix=".json")
    assert [one.name for one in tmp_path.iterdir()] == ["old.json"]
    assert path.read_text() == "old"


def test_a_report_replaces_reports_alone(tmp_path):
    label = written(tmp_path / "000001.txt", "Car")
    with pytest.raises(InputError, match=r"000001\.txt: expected a new file or a \.json to replace, got another"):
        check_report(label, suffix=".json")


def test_writing_goes_through_a_link_and_replaces_no_device(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: expected to write here, got a device or pipe"):
        write_atomically(tmp_path / "pipe", b"new")


def test_reading_needs_no_torch():
    code = "import sys, monoskd.kitti.io, monoskd.kitti.layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layout_sees_what_the_readers_read_and_nothing_else(tmp_path):
    layout = KittiLayout(tmp_path)
    assert layout.frames("image_2") == []
    files = {
        "image_2": ["000002.jpg", "000001.png", "notes.txt", "a b.PNG", "7.bmp", "._000001.png", "8.jPg", "9.raw"],
        "velodyne": ["000001.bin", "000002.npy", "000003.pcd", "000004.BIN"],
        "label_2": ["000001.txt", "000002.json", ".DS_Store", "000003.TXT", "000004.tXt", "4 (1).txt"],
        "depth_2": ["000001.png", "000002.npy"],
    }
    for kind, names in files.items():
        layout.folder(kind).mkdir(parents=True)
        for name in names:
            written(layout.folder(kind) / name, "")
    assert layout.frames("image_2") == ["000001", "000002", "7", "8", "a b"]
    assert layout.frames("velodyne") == ["000001", "000004"]
    assert layout.frames("label_2") == ["000001", "000003", "000004", "4 (1)"]
    assert layout.frames("depth_2") == ["000001"]
    for kind in files:
        assert all(layout.file(kind, frame).exists() for frame in layout.frames(kind))
    assert [path.name for path in layout.unread_files("image_2")] == ["9.raw", "notes.txt"]
    assert [path.name for path in layout.unread_files("velodyne")] == ["000002.npy", "000003.pcd"]
    assert [path.name for path in layout.unread_files("label_2")] == ["000002.json"]
    assert layout.image("000009").suffix == ".png"


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("label_2", "000001.TXT", "000001.txt"),
        ("label_2", "000001 (1).txt", "000001.txt"),
        ("calib", "000001(12).TXT", "000001.txt"),
        ("image_2", "000001.jpg", "000001.png"),
    ],
)
def test_two_files_of_one_frame_are_refused(tmp_path, kind, first, second):
    layout = KittiLayout(tmp_path)
    layout.folder(kind).mkdir(parents=True)
    for name in (first, second, "000002 (1).txt"):
        written(layout.folder(kind) / name, "")
    with pytest.raises(InputError, match=re.escape(f"{kind}: expected one file for each frame, got {first} and")):
        layout.frames(kind)
    assert layout.unread_files(kind) == [layout.folder(kind) / "000002 (1).txt"][kind != "image_2" :]


# --- what other tools write ---


def test_every_text_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "f.txt"

    def marked(text: str) -> Path:
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        return path

    assert read_objects(marked(f"{CAR}\n{CAR}\n")).names.tolist() == ["Car", "Car"]
    assert read_objects(marked(f"{CAR} 0.5\n"), scored=True).scores.tolist() == [0.5]
    assert read_calibration(marked(f"{P2}\nR0_rect: 1 0 0 0 1 0 0 0 1\n")).R0_rect is not None
    assert read_split(marked("000001\n000002\n")) == ["000001", "000002"]


@pytest.mark.parametrize("name", ["car", "CAR", "Car", "cAr"])
def test_class_names_are_read_in_any_case(name):
    text = f"{CAR.replace('Car', name)}\n{DONT_CARE.replace('DontCare', 'dontcare')}\n"
    assert parse_objects(text, source="here").names.tolist() == ["Car", "DontCare"]


def test_a_label_line_may_have_a_16th_field(tmp_path):
    text = f"{CAR} 1\n{CAR}\n{CAR} 0.5\n"
    labels = parse_objects(text, source="here", scored=False)
    assert len(labels) == 3
    assert labels.scores is None
    with pytest.raises(InputError, match="line 2: expected 16 fields"):
        parse_objects(text, source="here", scored=True)


def test_a_score_may_be_any_finite_number():
    for score in ("-1e10", "-1e300", "3e12"):
        assert parse_objects(f"{CAR} {score}", source="here", scored=True).scores.tolist() == [float(score)]
    with pytest.raises(InputError, match=r"field 16 \(score\): expected a finite number, got 'inf'"):
        parse_objects(f"{CAR} inf", source="here", scored=True)


def test_a_key_without_numbers_is_as_good_as_none(tmp_path):
    calibration = read_calibration(written(tmp_path / "c.txt", f"{P2}\nTr_imu_to_velo:\nTr_velo_to_cam: \n"))
    assert calibration.Tr_imu_to_velo is None
    with pytest.raises(InputError, match="expected a line 'Tr_velo_to_cam: <12 numbers>', got P2"):
        read_calibration(tmp_path / "c.txt", require=("Tr_velo_to_cam",))
    with pytest.raises(InputError, match="expected a line 'P2: <12 numbers>'"):
        read_calibration(written(tmp_path / "c.txt", "P2:\n"))


def sweep(columns: int, dtype: str) -> bytes:
    """160 points around a car, as KITTI's are: x, y, z and reflectance, then a ring and a time."""
    random = np.random.default_rng(0)
    xyz = random.uniform((-60, -40, -2), (60, 40, 1), (160, 3))
    rest = [random.uniform(0, 1, 160), np.arange(160) % 64, np.linspace(0, 0.1, 160)]
    return np.column_stack([xyz, *rest])[:, :columns].astype(dtype).tobytes()


@pytest.mark.parametrize(("columns", "dtype"), [(5, "<f4"), (6, "<f4"), (3, "<f4"), (4, "<f8"), (3, "<f8"), (4, ">f4")])
def test_sweeps_of_other_columns_are_refused_by_their_values(tmp_path, columns, dtype):
    (tmp_path / "v.bin").write_bytes(sweep(4, "<f4"))
    assert len(read_velodyne(tmp_path / "v.bin")) == 160
    (tmp_path / "v.bin").write_bytes(sweep(columns, dtype))
    with pytest.raises(InputError, match=r"v\.bin: expected points of 4 float32 .* got reflectance from .* convert it"):
        read_velodyne(tmp_path / "v.bin")


def test_sweeps_whose_columns_are_a_multiple_of_four_are_refused_by_their_rows(tmp_path):
    xyz, time = np.frombuffer(sweep(4, "<f4"), "<f4").reshape(-1, 4), np.linspace(0, 0.1, 160)
    ring = np.arange(160) % 64
    for rest in ([ring, time, time, time], [time] * 4, [0 * time] * 4, [time] * 12):
        (tmp_path / "v.bin").write_bytes(np.column_stack([xyz, *rest]).astype("<f4").tobytes())
        with pytest.raises(InputError, match=rf"v\.bin: .*, got what looks like {4 + len(rest)} columns: convert it"):
            read_velodyne(tmp_path / "v.bin")


@pytest.mark.parametrize("rest", ["0 .. 255", "-50 .. 50", "velocities"])
@pytest.mark.parametrize("columns", [8, 12, 16])
def test_eight_columns_are_refused_whatever_the_further_ones_hold(tmp_path, rest, columns):
    random, path = np.random.default_rng(0), tmp_path / "v.bin"
    azimuth_rad, range_m = random.uniform(-np.pi, np.pi, 4000), random.gamma(2, 8, 4000) + 2
    lasers_rad = np.array([-0.4, 0.02, -0.3, 0.0])[np.arange(4000) % 4]  # fire in turns, low and high ones
    xyz = np.stack([np.cos(azimuth_rad), np.sin(azimuth_rad), np.tan(lasers_rad)]) * range_m
    points = np.column_stack([*xyz, random.uniform(0, 1, 4000)])
    for scale in (1, 255):
        path.write_bytes((points * [1, 1, 1, scale]).astype("<f4").tobytes())
        assert len(read_velodyne(path)) == 4000
    shape = (4000, columns - 4)
    further = {
        "0 .. 255": random.uniform(0, 255, shape),
        "-50 .. 50": random.uniform(-50, 50, shape),
        "velocities": random.normal(0, 5, shape),
    }[rest]
    further[:, 3::4] = random.uniform(0, 1, further[:, 3::4].shape)  # as a reflectance
    path.write_bytes(np.column_stack([points, further]).astype("<f4").tobytes())
    with pytest.raises(InputError, match=rf"v\.bin: .*, got what looks like (8|{columns}) columns: convert it"):
        read_velodyne(path)


def test_centimetres_are_no_metres(tmp_path):
    points = np.frombuffer(sweep(4, "<f4"), "<f4").reshape(-1, 4) * np.float32([100, 100, 100, 1])
    (tmp_path / "v.bin").write_bytes(points.tobytes())
    with pytest.raises(InputError, match=r"coordinates up to 5.*e.03 m"):
        read_velodyne(tmp_path / "v.bin")


def test_whole_numbers_are_no_floats(tmp_path):
    points = np.frombuffer(sweep(4, "<f4"), "<f4").reshape(-1, 4)
    (tmp_path / "v.bin").write_bytes(np.abs(points * 1000).astype("<i4").tobytes())
    with pytest.raises(InputError, match=r"v\.bin: .* got no point beyond 1\.5 m: .* convert it"):
        read_velodyne(tmp_path / "v.bin")


@pytest.mark.parametrize("name", ["npy", "pcd", "ply"])
def test_sweeps_of_other_formats_are_named(tmp_path, name):
    points = np.frombuffer(sweep(4, "<f4"), "<f4").reshape(-1, 4)
    if name == "npy":
        np.save(tmp_path / "v.npy", points)
    else:
        head = {"pcd": b"# .PCD v0.7 - Point Cloud Data\n", "ply": b"ply\nformat binary"}[name]
        (tmp_path / f"v.{name}").write_bytes(head + points.tobytes())
    (tmp_path / f"v.{name}").rename(tmp_path / "v.bin")
    with pytest.raises(InputError, match=rf"v\.bin: expected points of 4 float32 .*, got a \.{name} file: convert it"):
        read_velodyne(tmp_path / "v.bin")


def test_the_cases_of_view_of_delft_are_read(shared):
    cases = shared / "cases"
    calibration = read_calibration(cases / "vod_calib_empty_imu.txt", require=("R0_rect", "Tr_velo_to_cam"))
    assert calibration.Tr_imu_to_velo is None
    assert len(read_objects(cases / "vod_label_16_fields.txt", scored=False)) == 2
    layout = KittiLayout(cases / "five_digits")
    assert [layout.frames(kind) for kind in ("image_2", "calib", "label_2")] == [["00549"]] * 3


# --- real files ---


@pytest.mark.kitti
def test_real_files_survive_a_round_trip_byte_by_byte(kitti, tmp_path):
    layout = KittiLayout(kitti)
    frames = layout.frames("label_2")
    assert len(frames) == 25
    for frame in frames:
        write_objects(tmp_path / "label.txt", read_objects(layout.label(frame)))
        assert (tmp_path / "label.txt").read_bytes() == layout.label(frame).read_bytes()
        write_calibration(tmp_path / "calib.txt", read_calibration(layout.calibration(frame)))
        assert (tmp_path / "calib.txt").read_text().split() == layout.calibration(frame).read_text().split()
    write_velodyne(tmp_path / "v.bin", read_velodyne(layout.velodyne(frames[0])))
    assert (tmp_path / "v.bin").read_bytes() == layout.velodyne(frames[0]).read_bytes()


@pytest.mark.kitti
def test_real_pictures_are_read_as_opencv_reads_them(kitti):
    path = KittiLayout(kitti).image("000003")
    pixels = read_image(path)
    np.testing.assert_array_equal(pixels[..., ::-1], cv2.imread(str(path)))
    assert read_image_size(path) == pixels.shape[1::-1]


@pytest.mark.kitti
def test_lidar_falls_on_labelled_objects(kitti):
    """The calibration chain, against the labels: most labelled cars near the camera hold returns in their 3D box."""
    layout, hit, count = KittiLayout(kitti), 0, 0
    for frame in ("000004", "000007", "000008", "000010", "000142"):
        points = read_calibration(layout.calibration(frame)).velo_to_camera(
            read_velodyne(layout.velodyne(frame))[:, :3]
        )
        objects = read_objects(layout.label(frame))
        for one in np.flatnonzero((objects.names == "Car") & (objects.bottom[:, 2] < 40)):
            local = points - objects.boxes_3d.centres[one]
            cos, sin = np.cos(objects.yaw[one]), np.sin(objects.yaw[one])
            along = np.stack(
                [cos * local[:, 0] - sin * local[:, 2], local[:, 1], sin * local[:, 0] + cos * local[:, 2]]
            )
            height, width, length = objects.dimensions[one]
            hit += (np.abs(along.T) <= np.array([length, height, width]) / 2).all(axis=1).sum() >= 10
            count += 1
    assert count > 10
    assert hit >= 0.9 * count


def test_a_picture_of_16_bits_is_refused_and_not_read_white(tmp_path):
    Image.fromarray(np.full((4, 6), 9000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png: expected 8 bits a channel, got mode I;16"):
        read_image(tmp_path / "deep.png")
