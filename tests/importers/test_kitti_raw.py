import csv
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monoskd.errors import InputError
from monoskd.importers.kitti_raw import read_kitti_raw, read_tracklets
from monoskd.importers.write import import_recording
from monoskd.kitti.doctor import examine
from monoskd.kitti.io import parse_objects, read_calibration, read_objects, read_split, write_split, write_velodyne
from monoskd.kitti.layout import KittiLayout

DAY = "2011_09_26"
FIRST, SECOND = (f"{DAY}_drive_{number:04d}_sync" for number in (1, 2))
IN_BENCHMARK = {5: "006237", 20: "002268", 45: "001040", 61: "000232", 91: "002813"}  # of drive 0001

CALIBRATION = """S_02: 320 180
P_rect_00: 200 0 160 0 0 200 90 0 0 0 1 0
P_rect_01: 200 0 160 -100 0 200 90 0 0 0 1 0
P_rect_02: 200 0 160 10 0 200 90 0 0 0 1 0
P_rect_03: 200 0 160 -90 0 200 90 0 0 0 1 0
R_rect_00: 1 0 0 0 1 0 0 0 1
"""


def pose(tx: float, *, rz: float = 0.0, occlusion: int = 0, truncation: int = 0) -> str:
    return (
        f"<item><tx>{tx}</tx><ty>0</ty><tz>-1.5</tz><rx>0</rx><ry>0</ry><rz>{rz}</rz><state>2</state>"
        f"<occlusion>{occlusion}</occlusion><truncation>{truncation}</truncation></item>"
    )


def tracklet(kind: str, poses: list[str], *, first: int = 0, height: str = "1.5") -> str:
    return (
        f"<item><objectType>{kind}</objectType><h>{height}</h><w>1.6</w><l>4</l><first_frame>{first}</first_frame>"
        f"<poses><count>{len(poses)}</count>{''.join(poses)}</poses></item>"
    )


def document(*tracklets: str) -> str:
    return f"<boost_serialization><tracklets><count>9</count>{''.join(tracklets)}</tracklets></boost_serialization>"


def write_drive(drive: Path, *tracklets: str, frames: int = 2) -> None:
    for camera in ("image_02", "image_03"):
        (drive / camera / "data").mkdir(parents=True)
        for index in range(frames):
            colour = (sum(map(ord, drive.name)) % 256, index, int(camera[-1]))
            Image.new("RGB", (320, 180), colour).save(drive / camera / "data" / f"{index:010d}.png")
    for index in range(frames):
        points = np.array([[20.0, y, z, 0.3] for y in range(-5, 6) for z in range(-2, 2)])
        write_velodyne(drive / "velodyne_points" / "data" / f"{index:010d}.bin", points + index)
    (drive / "tracklet_labels.xml").write_text(document(*tracklets))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two drives of two frames; in the first a car that is there from frame 1 on, and a van that is not in view."""
    day = tmp_path / "raw" / DAY
    day.mkdir(parents=True)
    (day / "calib_cam_to_cam.txt").write_text(CALIBRATION)
    (day / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 -0.3\n")
    write_drive(day / FIRST, tracklet("Car", [pose(20.3, occlusion=1)], first=1), tracklet("Van", [pose(-9)]))
    write_drive(day / SECOND, tracklet("Person (sitting)", [pose(10, occlusion=-1), pose(11, truncation=99)]))
    return tmp_path / "raw"


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- against the official labels ---


@pytest.mark.kitti
def test_tracklets_become_the_official_labels(shared, tmp_path):
    import_recording(read_kitti_raw(shared / "kitti_raw"), tmp_path, source="x", workers=1)
    compared = 0
    with tarfile.open(shared / "kitti_annotations.tar.xz") as archive:
        texts = {
            member.name: archive.extractfile(member).read().decode()
            for member in archive
            if Path(member.name).stem in IN_BENCHMARK.values()
        }
    for row in rows_of(tmp_path):
        official = IN_BENCHMARK.get(int(row["origin"].rpartition("/")[2]))
        if official is None:
            continue
        truth = parse_objects(texts[f"label_2/{official}.txt"], source=official)
        truth = truth[truth.names != "DontCare"]
        found = read_objects(KittiLayout(tmp_path).label(row["frame"]))
        assert len(found) == len(truth)
        nearest = [int(np.abs(found.bottom - place).max(1).argmin()) for place in truth.bottom]
        found = found[nearest]
        assert found.names.tolist() == truth.names.tolist()
        assert found.occlusion.tolist() == truth.occlusion.tolist()
        for key, tolerance in {"bottom": 0.0051, "dimensions": 0.0051, "yaw": 0.0051, "boxes_2d": 8}.items():
            np.testing.assert_allclose(getattr(found, key), getattr(truth, key), atol=tolerance, err_msg=key)
        np.testing.assert_allclose(found.truncation, truth.truncation, atol=0.01)
        np.testing.assert_allclose(found.alpha, truth.alpha, atol=0.02)
        (tmp_path / "official.txt").write_text(texts[f"calib/{official}.txt"])
        calibration, known = (
            read_calibration(KittiLayout(tmp_path).calibration(row["frame"])),
            tmp_path / "official.txt",
        )
        np.testing.assert_allclose(calibration.P2, read_calibration(known).P2, atol=1e-9)
        np.testing.assert_allclose(calibration.Tr_velo_to_cam, read_calibration(known).Tr_velo_to_cam, atol=1e-9)
        compared += len(truth)
    assert compared == 25
    assert examine(tmp_path).ok


# --- on made-up drives ---


def test_a_tracklet_counts_its_poses_from_its_first_frame(raw, tmp_path):
    report = import_recording(read_kitti_raw(raw), tmp_path / "out", source=raw, workers=1)
    layout = KittiLayout(tmp_path / "out")
    assert report.frames == {"val": 2, "train": 2}
    assert [row["objects"] for row in rows_of(layout.root)] == ["0", "1", "1", "0"]
    car = read_objects(layout.label("000001"))
    np.testing.assert_allclose(car.bottom, [[0, 1.5, 20]])
    assert (car.names[0], car.occlusion[0], car.yaw[0]) == ("Car", 1, pytest.approx(-np.pi / 2, abs=1e-4))
    sitting = read_objects(layout.label("000002"))
    assert (sitting.names[0], sitting.occlusion[0]) == ("Person_sitting", 3)
    assert (
        layout.velodyne("000001").resolve()
        == (raw / DAY / FIRST / "velodyne_points" / "data" / "0000000001.bin").resolve()
    )


def test_the_right_camera_has_its_own_projection(raw, tmp_path):
    import_recording(read_kitti_raw(raw), tmp_path / "out", source=raw, cameras=["image_03"], workers=1)
    assert read_calibration(KittiLayout(tmp_path / "out").calibration("000000")).P2[0, 3] == -90
    assert {row["camera"] for row in rows_of(tmp_path / "out")} == {"image_03"}


@pytest.fixture
def benchmark_files(tmp_path) -> tuple[Path, Path]:
    """The devkit's mapping, by which object frame 0 is the first drive's and 1 the second's, and val = 1."""
    mapping, layout = tmp_path / "mapping", KittiLayout(tmp_path / "kitti")
    mapping.mkdir()
    (mapping / "train_mapping.txt").write_text(f"{DAY} {FIRST} 0000000000\n{DAY} {SECOND} 0000000001\n")
    (mapping / "train_rand.txt").write_text("1,2\n")
    write_split(layout.split("val"), ["000001"])
    return mapping, layout.root


def test_a_drive_with_validation_frames_is_held_out(raw, benchmark_files, tmp_path):
    mapping, kitti = benchmark_files
    recording = read_kitti_raw(raw, mapping=mapping, kitti=kitti)
    assert recording.splits == {FIRST: "train", SECOND: "val"}
    import_recording(recording, tmp_path / "out", source=raw, workers=1)
    assert read_split(KittiLayout(tmp_path / "out").split("train")) == ["000000", "000001"]
    assert not recording.warnings
    assert "give --mapping and --kitti" in read_kitti_raw(raw).warnings[0]


def test_a_validation_drive_under_another_name_is_refused(raw, benchmark_files):
    mapping, kitti = benchmark_files
    layout = KittiLayout(kitti)
    layout.folder("velodyne").mkdir(parents=True)
    shutil.copy(raw / DAY / SECOND / "velodyne_points" / "data" / "0000000001.bin", layout.velodyne("000001"))
    (raw / DAY / SECOND).rename(raw / DAY / f"{DAY}_drive_0009_sync")
    shutil.rmtree(raw / DAY / FIRST)
    with pytest.raises(InputError, match=r"0000000001\.bin: expected no validation frame, got what frame 000001 has"):
        read_kitti_raw(raw, mapping=mapping, kitti=kitti)


def test_drives_without_tracklets_or_rectification_are_left_out_with_the_reason(raw, tmp_path):
    (raw / DAY / SECOND / "tracklet_labels.xml").unlink()
    report = import_recording(read_kitti_raw(raw), tmp_path / "out", source=raw, workers=1)
    assert report.left_out == {
        "drives without tracklet_labels.xml (`monoskd prepare --raw` adds them as frames without labels)": 1
    }
    assert any("only one scene" in warning for warning in report.warnings)
    (raw / DAY / FIRST).rename(raw / DAY / FIRST.replace("sync", "extract"))
    with pytest.raises(InputError, match=r"expected a picture to import, got none \(drives"):
        import_recording(read_kitti_raw(raw), tmp_path / "none", source=raw)


def test_one_of_mapping_and_kitti_is_not_enough(raw):
    with pytest.raises(InputError, match="expected both the devkit's mapping and a KITTI data set, got one"):
        read_kitti_raw(raw, mapping=raw)


def test_folders_of_other_names_are_refused(raw):
    (raw / DAY / SECOND).rename(raw / DAY / "drive_two")
    with pytest.raises(InputError, match=r"drive_two: expected a name such as 2011_09_26_drive_0001_sync"):
        read_kitti_raw(raw)
    with pytest.raises(InputError, match="expected raw drives such as"):
        read_kitti_raw(raw / DAY / FIRST)


@pytest.fixture
def cvat(raw: Path) -> Path:
    """A drive of frames 3 to 7 with what CVAT's own writer (datumaro 1.5.2) makes of boxes on frames 3 and 7.

    The car is drawn 4 x 1.6 x 1.5 m along x, y, z around (20, 0, -0.75), turned by 0.1; frame 4 is in the task, empty.
    """
    drive = raw / DAY / FIRST
    shutil.rmtree(drive)
    write_drive(drive, frames=8)
    for path in Path(__file__).with_name("cvat").iterdir():
        shutil.copy(path, drive)
    return raw


def test_boxes_drawn_in_cvat_are_where_they_were_drawn(cvat, tmp_path):
    recording = read_kitti_raw(cvat)
    assert recording.warnings[1:] == [f"{FIRST}: 5 frames are left out, frame_list.txt does not name them"]
    import_recording(recording, tmp_path / "out", source=cvat, workers=1)
    rows = {Path(row["origin"]).name: row for row in rows_of(tmp_path / "out") if row["scene"] == FIRST}
    assert {stem: row["objects"] for stem, row in rows.items()} == {
        "0000000003": "1",
        "0000000004": "0",  # a gap of the track
        "0000000007": "2",
    }
    layout = KittiLayout(tmp_path / "out")
    car = read_objects(layout.label(rows["0000000003"]["frame"]))
    np.testing.assert_allclose(car.dimensions, [[1.5, 1.6, 4.0]])  # h, w, l
    np.testing.assert_allclose(car.bottom, [[0, 1.5, 19.7]], atol=1e-4)  # under the centre; the camera is 0.3 m ahead
    np.testing.assert_allclose(car.yaw, [-np.pi / 2 - 0.1], atol=1e-4)
    both = read_objects(layout.label(rows["0000000007"]["frame"]))
    assert (both.names.tolist(), both.occlusion.tolist()) == (["Pedestrian", "Car"], [0, 1])


def test_a_damaged_list_of_frames_is_named(cvat):
    (cvat / DAY / FIRST / "frame_list.txt").write_text("0 0000000003\nfour\n")
    with pytest.raises(InputError, match=r"frame_list.txt, line 2: expected a number and a frame's name, got 'four'"):
        read_kitti_raw(cvat)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<a>", "expected XML, got a damaged file"),
        ("<a/>", "expected an element 'tracklets', got none"),
        (document(tracklet("", [])), "tracklet 0: expected an objectType, got none"),
        (document(tracklet("Car", [], height="-1")), r"tracklet 0: expected a size above 0, got h, w, l = \(-1.0, 1.6"),
        (document(tracklet("Car", [], height="tall")), "tracklet 0, h: expected a finite number, got 'tall'"),
        (
            document(tracklet("Car", [pose(1), pose(np.nan)])),
            "tracklet 0, pose 1, tx: expected a finite number, got 'nan'",
        ),
        (document("<item><objectType>Car</objectType></item>"), "tracklet 0, h: expected a finite number, got None"),
    ],
)
def test_damaged_tracklets_are_named(tmp_path, text, message):
    (tmp_path / "t.xml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_tracklets(tmp_path / "t.xml")
