import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monoskd.errors import InputError
from monoskd.kitti.io import read_calibration, read_image, read_split, write_split, write_velodyne
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.leakage import check_copies, check_unlabelled, copies, read_drives
from monoskd.kitti.prepare import prepare
from monoskd.kitti.raw import prepare_raw, read_raw_calibration

DAY = "2011_09_26"
TRAIN, VAL, OTHER = (f"{DAY}_drive_{number:04d}_sync" for number in (1, 2, 3))
SIZE = (64, 40)


def write_day(day: Path) -> None:
    """Calibration files as KITTI's raw data has them."""
    day.mkdir(parents=True)
    cameras = [
        f"P_rect_0{camera}: 5.0e+01 0 3.2e+01 {shift} 0 50 20 0 0 0 1 0"
        for camera, shift in enumerate((0, -20, 2, -18))
    ]
    lines = ["calib_time: 09-Jan-2012 13:57:47", "S_02: 1.392e+03 5.12e+02", "R_02: 1 0 0 0 1 0 0 0 1", *cameras]
    (day / "calib_cam_to_cam.txt").write_text("\n".join([*lines, "R_rect_00: 1 0 0 0 1 0 0 0 1"]) + "\n")
    (day / "calib_velo_to_cam.txt").write_text("calib_time: x\nR: 0 -1 0 0 0 -1 1 0 0\nT: 0.1 0.2 0.3\ndelta_f: 0 0\n")


def write_drive(drive: Path, *, frames: int) -> None:
    """Pictures and sweeps of a wall 10 m ahead; no two sweeps alike."""
    seed = sum(map(ord, drive.name))
    for index in range(frames):
        for sensor in ("image_02", "velodyne_points"):
            (drive / sensor / "data").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (seed % 256, index, 0)).save(drive / "image_02" / "data" / f"{index:010d}.png")
        yz = np.random.default_rng([seed, index]).uniform(-3, 3, (300, 2))
        points = np.c_[np.full(300, 10.0), yz, np.zeros(300)]
        write_velodyne(drive / "velodyne_points" / "data" / f"{index:010d}.bin", points)


@pytest.fixture
def raw(tmp_path) -> Path:
    """Three drives: of a training frame, of a validation frame, of neither."""
    root = tmp_path / "raw"
    write_day(root / DAY)
    for name, frames in ((TRAIN, 3), (VAL, 2), (OTHER, 2)):
        write_drive(root / DAY / name, frames=frames)
    return root


@pytest.fixture
def mapping(tmp_path) -> Path:
    """Object frame 0 is the training drive's, 1 the validation drive's."""
    folder = tmp_path / "mapping"
    folder.mkdir()
    (folder / "train_mapping.txt").write_text(f"{DAY} {VAL} 0000000001\n{DAY} {TRAIN} 0000000000\n")
    (folder / "train_rand.txt").write_text("2,1\n")
    return folder


@pytest.fixture
def layout(tmp_path, raw) -> KittiLayout:
    """The labelled data set: frame 0 for training, frame 1, with its sweep, for validation."""
    layout = KittiLayout(tmp_path / "kitti")
    write_split(layout.split("train"), ["000000"])
    write_split(layout.split("val"), ["000001"])
    layout.folder("velodyne").mkdir(parents=True)
    shutil.copy(raw / DAY / VAL / "velodyne_points" / "data" / "0000000001.bin", layout.velodyne("000001"))
    return layout


def test_drives_become_frames_without_labels(raw, mapping, layout):
    report = prepare_raw(raw, layout.root, mapping=mapping)
    assert (report.frames, report.added) == (5, 5)
    assert report.left_out == {VAL: "holds validation frame 000001"}
    frames = read_split(layout.split("unlabelled"))
    assert frames == ["100000", "100001", "100002", "100003", "100004"]
    assert layout.image("100001").is_symlink()
    np.testing.assert_array_equal(read_image(layout.image("100001"))[0, 0, 1], 1)
    assert read_calibration(layout.calibration("100004")).camera.P[0, 3] == 2
    record = json.loads((layout.root / "raw_frames.json").read_text())
    assert record["schema"] == "monoskd/raw/1"
    assert record["left_out"] == report.left_out
    assert record["frames"]["100003"] == f"{DAY}/{OTHER}/0000000000"
    assert check_unlabelled(layout.root, mapping=mapping) == frames


def test_their_depth_maps_can_be_prepared(raw, mapping, layout):
    prepare_raw(raw, layout.root, mapping=mapping)
    layout.velodyne("000001").unlink()
    assert prepare(layout.root, workers=1).written == 5


def test_drives_that_may_hold_test_frames_are_left_out_on_request(raw, mapping, layout):
    report = prepare_raw(raw, layout.root, mapping=mapping, only_training_drives=True)
    assert report.frames == 3
    assert report.left_out[OTHER] == "holds no training frame: test frames may be from it"
    assert str(report) == "3 frames without labels, 3 of them new; 2 drives left out"


def test_frames_keep_their_number_when_more_are_added(raw, mapping, layout):
    prepare_raw(raw, layout.root, mapping=mapping, only_training_drives=True, every=2)
    first = json.loads((layout.root / "raw_frames.json").read_text())["frames"]
    assert list(first.values()) == [f"{DAY}/{TRAIN}/0000000000", f"{DAY}/{TRAIN}/0000000002"]
    report = prepare_raw(raw, layout.root, mapping=mapping)
    assert (report.frames, report.added) == (5, 3)
    assert json.loads((layout.root / "raw_frames.json").read_text())["frames"].items() >= first.items()
    again = prepare_raw(raw, layout.root, mapping=mapping)
    assert (again.frames, again.added) == (5, 0)


def test_frames_without_a_sweep_are_skipped(raw, mapping, layout):
    (raw / DAY / TRAIN / "velodyne_points" / "data" / "0000000001.bin").unlink()
    assert prepare_raw(raw, layout.root, mapping=mapping).frames == 4


def test_progress_counts_drives(raw, mapping, layout):
    seen = []
    prepare_raw(raw, layout.root, mapping=mapping, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


# --- leakage ---


def test_a_renamed_validation_drive_is_refused(raw, mapping, layout):
    (raw / DAY / VAL).rename(raw / DAY / f"{DAY}_drive_9999_sync")
    with pytest.raises(
        InputError,
        match=r"drive_9999_sync/.*0000000001\.bin: expected no validation frame, got what frame 000001 has",
    ):
        prepare_raw(raw, layout.root, mapping=mapping)
    assert not layout.split("unlabelled").exists()


def test_a_validation_drive_among_earlier_frames_is_refused(raw, mapping, layout):
    prepare_raw(raw, layout.root, mapping=mapping)
    write_split(layout.split("val"), ["000000"])  # other frames are validation now
    message = rf"got 100000 of {TRAIN[:-5]}, which holds validation frame 000000: take it out"
    with pytest.raises(InputError, match=message):
        check_unlabelled(layout.root, mapping=mapping)
    with pytest.raises(InputError, match=message):
        prepare_raw(raw, layout.root, mapping=mapping)


def test_a_frame_smuggled_into_the_split_is_refused(raw, mapping, layout):
    prepare_raw(raw, layout.root, mapping=mapping)
    write_split(layout.split("unlabelled"), ["100000", "000001"])
    with pytest.raises(InputError, match=r"unlabelled\.txt: expected no validation frame, got 000001"):
        check_unlabelled(layout.root)
    write_split(layout.split("unlabelled"), ["100000"])
    layout.folder("label_2").mkdir()
    layout.label("100000").write_text("")
    with pytest.raises(InputError, match="expected frames without a label, got 100000, which has one"):
        check_unlabelled(layout.root)


@pytest.mark.parametrize("name", [f"{DAY}_drive_0002", f"{DAY}_drive_0002_extract"])
def test_a_validation_drive_is_left_out_by_its_number(raw, mapping, layout, name):
    layout.velodyne("000001").unlink()  # so that only names tell
    (raw / DAY / VAL).rename(raw / DAY / name)
    report = prepare_raw(raw, layout.root, mapping=mapping)
    assert report.left_out == {name: "holds validation frame 000001"}
    assert "1 validation frames have neither picture nor sweep" in str(report)


def test_a_link_to_a_validation_drive_is_left_out_whatever_it_is_called(raw, mapping, layout, tmp_path):
    layout.velodyne("000001").unlink()
    shutil.rmtree(raw / DAY / OTHER)
    (raw / DAY / VAL).rename(tmp_path / VAL)
    (raw / DAY / OTHER).symlink_to(tmp_path / VAL)
    assert prepare_raw(raw, layout.root, mapping=mapping).left_out == {OTHER: "holds validation frame 000001"}


def test_unrectified_and_incomplete_drives_are_left_out_with_the_reason(raw, mapping, layout):
    (raw / DAY / TRAIN).rename(raw / DAY / TRAIN.replace("sync", "extract"))
    shutil.rmtree(raw / DAY / OTHER / "image_02")
    with pytest.raises(InputError, match=r"expected a drive that can be used, got 3 that are left out.*_extract"):
        prepare_raw(raw, layout.root, mapping=mapping)
    write_drive(raw / DAY / TRAIN, frames=1)
    report = prepare_raw(raw, layout.root, mapping=mapping)
    assert report.frames == 1
    assert report.left_out[OTHER] == "has no frame with both a picture and a sweep"
    assert report.left_out[TRAIN.replace("sync", "extract")] == "is not rectified: its _sync download is"


def copy_of_validation(raw: Path, layout: KittiLayout) -> None:
    shutil.copy(layout.velodyne("000001"), layout.velodyne("900000"))


def link_into_a_validation_drive(raw: Path, layout: KittiLayout) -> None:
    layout.velodyne("900000").symlink_to((raw / DAY / VAL / "velodyne_points/data/0000000000.bin").resolve())


@pytest.mark.parametrize(
    ("smuggle", "message"),
    [
        (copy_of_validation, "got 900000, which shows that of 000001"),
        (link_into_a_validation_drive, f"got 900000 of {VAL[:-5]}, which holds validation frame 000001"),
    ],
)
def test_validation_under_another_frame_number_is_refused(raw, mapping, layout, smuggle, message):
    prepare_raw(raw, layout.root, mapping=mapping)
    smuggle(raw, layout)
    write_split(layout.split("unlabelled"), ["100000", "900000"])
    with pytest.raises(InputError, match=message):
        check_unlabelled(layout.root)


def test_raw_frames_that_nobody_can_tell_the_drives_of_are_refused(raw, mapping, layout):
    prepare_raw(raw, layout.root, mapping=mapping)
    (layout.root / "raw_frames.json").unlink()
    with pytest.raises(InputError, match=r"expected raw_frames\.json or `data\.unlabelled\.mapping`"):
        check_unlabelled(layout.root)
    assert len(check_unlabelled(layout.root, mapping=mapping)) == 5


# --- one's own frames beside KITTI's ---


@pytest.mark.parametrize("own", ["100000", "my street 7", "00001", "7481xx"])
def test_a_data_set_of_ones_own_frames_may_take_raw_drives(raw, mapping, layout, own):
    layout.folder("image_2").mkdir()
    Image.new("RGB", SIZE, (9, 9, 9)).save(layout.image(own))
    write_split(layout.split("val"), [own])
    report = prepare_raw(raw, layout.root, mapping=mapping)
    assert report.left_out == {}
    assert "1 validation frames are not in the mapping" in str(report)
    assert read_image(layout.image(own))[0, 0].tolist() == [9, 9, 9]
    frames = read_split(layout.split("unlabelled"))
    assert len(frames) == report.frames == 7
    assert own not in frames
    assert check_unlabelled(layout.root, mapping=mapping) == frames
    write_split(layout.split("unlabelled"), [*frames, own])
    with pytest.raises(InputError, match=rf"expected no validation frame, got {own}"):
        check_unlabelled(layout.root, mapping=mapping)


def test_hidden_files_of_macos_are_no_frames(raw, mapping, layout):
    for path in [*raw.rglob("*.png"), *raw.rglob("*.bin"), *raw.glob(f"{DAY}/*")]:
        path.with_name(f"._{path.name}").write_bytes(b"Mac")
    assert prepare_raw(raw, layout.root, mapping=mapping).frames == 5


def test_pictures_of_any_suffix_are_linked(raw, mapping, layout):
    data = raw / DAY / TRAIN / "image_02" / "data"
    (data / "0000000001.png").rename(data / "0000000001.PNG")
    Image.open(data / "0000000002.png").save(data / "0000000002.bmp")
    (data / "0000000002.png").unlink()
    assert prepare_raw(raw, layout.root, mapping=mapping).frames == 5
    assert [read_image(layout.image(frame))[0, 0, 1] for frame in ("100001", "100002")] == [1, 2]


@pytest.mark.parametrize("own", ["3", "[12]", "left 3"])
def test_raw_frames_of_any_name_keep_their_own_files(raw, mapping, layout, own):
    for sensor, old, new in (("image_02", "png", "png"), ("velodyne_points", "bin", "BIN")):
        data = raw / DAY / TRAIN / sensor / "data"
        for index, name in enumerate((f"{own}.5", own)):
            (data / f"{index:010d}.{old}").rename(data / f"{name}.{new}")
    assert prepare_raw(raw, layout.root, mapping=mapping).frames == 5
    record = json.loads((layout.root / "raw_frames.json").read_text())["frames"]
    of_source = {Path(source).name: frame for frame, source in record.items() if TRAIN in source}
    assert [read_image(layout.image(of_source[name]))[0, 0, 1] for name in (f"{own}.5", own)] == [0, 1]
    assert layout.velodyne(of_source[own]).resolve().stem == own


def test_a_labelled_copy_of_a_validation_frame_is_refused_by_its_content(layout):
    write_split(layout.split("train"), ["000000", "elsewhere"])
    check_copies(layout, train="train", val="val")
    shutil.copy(layout.velodyne("000001"), layout.velodyne("elsewhere"))
    with pytest.raises(InputError, match=r"train\.txt: expected no copy of a frame of val, got elsewhere, which sh"):
        check_copies(layout, train="train", val="val")


def test_a_label_that_is_too_large_is_not_read_to_compare_it(layout):
    layout.label("000001").parent.mkdir(parents=True, exist_ok=True)
    with layout.label("000001").open("wb") as file:
        file.truncate(2 * 2**30)  # sparse
    with pytest.raises(InputError, match=r"000001\.txt: expected a file of at most 64 MiB, got 2048 MiB"):
        copies(layout, ["000001"], validation=["000000"])


# --- called again ---


def test_another_folder_of_drives_keeps_what_the_first_left_out(raw, mapping, layout, tmp_path):
    prepare_raw(raw, layout.root, mapping=mapping)
    write_day(tmp_path / "more" / "2011_09_28")
    write_drive(tmp_path / "more" / "2011_09_28" / "2011_09_28_drive_0001_sync", frames=1)
    assert prepare_raw(tmp_path / "more", layout.root, mapping=mapping).frames == 6
    record = json.loads((layout.root / "raw_frames.json").read_text())
    assert record["left_out"] == {VAL: "holds validation frame 000001"}
    assert record["validation_drives"] == {VAL[:-5]: "000001"}


def test_the_split_loses_drives_that_go_and_keeps_what_others_did_to_it(raw, mapping, layout):
    prepare_raw(raw, layout.root, mapping=mapping)
    listed = read_split(layout.split("unlabelled"))
    write_split(layout.split("unlabelled"), [*listed[1:], "300000"])  # one taken out, one of somebody's own
    prepare_raw(raw, layout.root, mapping=mapping, only_training_drives=True)
    assert read_split(layout.split("unlabelled")) == ["100001", "100002", "300000"]
    assert check_unlabelled(layout.root) == ["100001", "100002", "300000"]


def test_drives_may_move_but_not_vanish(raw, mapping, layout, tmp_path):
    prepare_raw(raw, layout.root, mapping=mapping)
    raw.rename(tmp_path / "moved")
    prepare_raw(tmp_path / "moved", layout.root, mapping=mapping)
    assert layout.velodyne("100000").is_file()
    shutil.rmtree(tmp_path / "moved" / DAY / OTHER)
    with pytest.raises(InputError, match=r"100003\.bin: expected a link to a sweep, got a broken one, as for 2 fr"):
        prepare_raw(tmp_path / "moved", layout.root, mapping=mapping)


# --- what is missing or damaged ---


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (
            f"{DAY}/calib_velo_to_cam.txt",
            "R: 1 0 0 0 1 0 0 0 1",
            r"velo_to_cam\.txt: expected a line 'T: \.\.\.', got none",
        ),
        (f"{DAY}/calib_velo_to_cam.txt", "R: 1 0\nT: 0 0 0", r"velo_to_cam\.txt, line 1, R: expected 9 numbers, got 2"),
        (f"{DAY}/calib_cam_to_cam.txt", "", r"cam_to_cam\.txt: expected a line 'P_rect_00: \.\.\.'"),
        (
            "../mapping/train_mapping.txt",
            "a b\n",
            r"train_mapping\.txt, line 1: expected date, drive and frame, got 'a b'",
        ),
        (
            "../mapping/train_rand.txt",
            "1,1",
            r"train_rand\.txt: expected each of the 2 lines of .* once, got 2 entries",
        ),
        ("../kitti/raw_frames.json", "[]", r"raw_frames\.json: expected the record of an earlier run"),
        ("../kitti/raw_frames.json", '{"frames": {"100000": "x"}}', r"raw_frames\.json: expected the record of an"),
        ("../kitti/raw_frames.json", '{"frames": {}, "left_out": null}', r"raw_frames\.json: expected the record"),
        ("../kitti/training/image_2", "", r"image_2: expected a folder, got "),
    ],
)
def test_a_damaged_file_is_named(raw, mapping, layout, path, content, message):
    (raw / path).parent.mkdir(exist_ok=True)
    (raw / path).write_text(content)
    with pytest.raises(InputError, match=message):
        prepare_raw(raw, layout.root, mapping=mapping)


def test_an_empty_drive_or_folder_is_named(raw, mapping, layout, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: expected raw drives such as"):
        prepare_raw(tmp_path / "nowhere", layout.root, mapping=mapping)
    with pytest.raises(InputError, match=r"every: expected .*, got 0"):
        prepare_raw(raw, layout.root, mapping=mapping, every=0)
    (raw / DAY / OTHER).rename(raw / DAY / "drive_3_sync")
    with pytest.raises(InputError, match=r"drive_3_sync: expected a name such as 2011_09_26_drive_0001_sync"):
        prepare_raw(raw, layout.root, mapping=mapping)


def test_raw_calibration_is_that_of_the_object_benchmark(raw):
    calibration = read_raw_calibration(raw / DAY)
    np.testing.assert_array_equal(calibration.P2, [[50, 0, 32, 2], [0, 50, 20, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(calibration.Tr_velo_to_cam, [[0, -1, 0, 0.1], [0, 0, -1, 0.2], [1, 0, 0, 0.3]])
    np.testing.assert_array_equal(calibration.velo_to_camera(np.array([[10.0, 1, 2]])), [[-0.9, -1.8, 10.3]])
    assert calibration.Tr_imu_to_velo is None


@pytest.mark.kitti
def test_the_official_splits_share_no_drive(shared):
    """96 training and 45 validation drives, as others have counted them."""
    drives = read_drives(shared / "kitti_mapping")
    assert len(drives) == 7481
    with tarfile.open(shared / "kitti_annotations.tar.xz") as archive:
        splits = {
            Path(member.name).stem: archive.extractfile(member).read().decode().split()
            for member in archive
            if member.name.endswith(("ImageSets/train.txt", "ImageSets/val.txt"))
        }
    train, val = ({drives[int(frame)] for frame in splits[name]} for name in ("train", "val"))
    assert (len(train), len(val)) == (96, 45)
    assert not train & val


def test_a_frame_of_a_drive_that_was_left_out_is_refused_even_without_the_mapping(raw, mapping, layout):
    prepare_raw(raw, layout.root, mapping=mapping)
    path = layout.root / "raw_frames.json"
    record = json.loads(path.read_text())
    record["frames"]["100002"] = f"{DAY}/{VAL}/0000000000"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=f"got 100002 of {VAL[:-5]}, which holds validation frame 000001: take it out"):
        check_unlabelled(layout.root)


def test_without_a_validation_split_what_can_be_checked_is(raw, mapping, layout):
    prepare_raw(raw, layout.root, mapping=mapping)
    layout.split("val").unlink()
    assert len(check_unlabelled(layout.root)) == 5


def test_the_command_adds_raw_drives_and_then_makes_their_depth_maps(raw, mapping, layout, capsys):
    from monoskd.cli import main

    layout.velodyne("000001").unlink()
    words = ["prepare", layout.root, "--raw", raw, "--mapping", mapping, "--every", "2", "--workers", "1"]
    assert main([*map(str, words), "--only-training-drives"]) == 0
    out = capsys.readouterr().out
    assert "2 frames without labels, 2 of them new; 2 drives left out; 1 validation frames have neither" in out
    assert str(layout.root / "raw_frames.json") in out
    assert "2 depth maps written" in out
