import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monoskd.errors import InputError
from monoskd.kitti import prepare as prepare_module
from monoskd.kitti.io import Calibration, read_depth, write_calibration, write_depth, write_velodyne
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import prepare

WIDTH, HEIGHT = 60, 40
WALL_M = 12.0
# LiDAR (x forward, y left, z up) to camera (x right, y down, z forward)
TO_CAMERA = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])


@pytest.fixture
def wall(tmp_path) -> KittiLayout:
    """Three frames that look at a wall 12 m away, each with the label of a pedestrian 0.7 m behind it."""
    layout = KittiLayout(tmp_path)
    P2 = np.array([[50.0, 0, 30, 0], [0, 50, 20, 0], [0, 0, 1, 0]])
    u, v = np.meshgrid(np.arange(0, WIDTH, 2) + 0.5, np.arange(0, HEIGHT, 4) + 0.5)
    x, y = (u - 30) / 50 * WALL_M, (v - 20) / 50 * WALL_M
    points = np.stack([np.full(x.size, WALL_M), -x.ravel(), -y.ravel(), np.zeros(x.size)], axis=1)
    for folder in ("image_2", "label_2"):
        layout.folder(folder).mkdir(parents=True)
    for frame in ("000000", "000001", "000002"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(layout.image(frame))
        write_calibration(layout.calibration(frame), Calibration(P2=P2, R0_rect=np.eye(3), Tr_velo_to_cam=TO_CAMERA))
        layout.label(frame).write_text(
            "Pedestrian 0 0 0 10 10 30 30 1.7 0.6 0.8 0 1 13 0\nDontCare -1 -1 -10 0 0 9 9"
            " -1 -1 -1 -1000 -1000 -1000 -10\n"
        )
        write_velodyne(layout.velodyne(frame), points)
    return layout


def test_every_sweep_becomes_a_depth_map(wall):
    seen = []
    report = prepare(wall.root, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert (report.written, report.skipped, report.objects) == (3, 0, 3)
    assert report.depth_error_m == pytest.approx(1 - 0.6 / 2, abs=0.01)  # the box is 0.6 m deep
    assert seen == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_allclose(read_depth(wall.depth("000001"))[3:35, 2:57], WALL_M, atol=1 / 256)
    assert "3 depth maps written" in str(report)
    assert "0.70 m beside the 3D boxes (median of 3 near and visible objects)" in str(report)


def test_a_second_run_writes_what_is_missing_or_broken(wall):
    prepare(wall.root, workers=1)
    kept = wall.depth("000000").stat().st_mtime_ns
    wall.depth("000001").write_bytes(wall.depth("000001").read_bytes()[:-9])
    write_depth(wall.depth("000002"), np.ones((3, 3)))  # of another image size
    report = prepare(wall.root, workers=1)
    assert (report.written, report.skipped) == (2, 1)
    assert wall.depth("000000").stat().st_mtime_ns == kept
    assert read_depth(wall.depth("000002")).shape == (HEIGHT, WIDTH)


def test_force_writes_all_anew(wall):
    prepare(wall.root, workers=1)
    write_depth(wall.depth("000000"), np.ones((HEIGHT, WIDTH)))
    assert prepare(wall.root, workers=1).written == 0
    assert prepare(wall.root, workers=1, force=True).written == 3
    assert read_depth(wall.depth("000000")).max() == WALL_M


def test_no_map_is_written_through_a_link(wall, tmp_path):
    (tmp_path / "shared").mkdir()
    theirs, missing = tmp_path / "shared" / "000000.png", tmp_path / "elsewhere" / "000001.png"
    write_depth(theirs, np.ones((HEIGHT, WIDTH)))
    wall.folder("depth_2").mkdir()
    wall.depth("000000").symlink_to(theirs)
    wall.depth("000001").symlink_to(missing)
    assert prepare(wall.root, workers=1, force=True).written == 3
    assert read_depth(theirs).max() == 1
    assert not missing.parent.exists()
    assert read_depth(wall.depth("000000")).max() == read_depth(wall.depth("000001")).max() == WALL_M


def test_labels_are_not_needed(wall):
    shutil.rmtree(wall.folder("label_2"))
    report = prepare(wall.root, workers=1)
    assert report.depth_error_m is None
    assert "no near and visible labelled objects to check them against" in str(report)


def test_workers_do_not_change_the_result(wall):
    prepare(wall.root, workers=1)
    alone = [wall.depth(frame).read_bytes() for frame in wall.frames("depth_2")]
    assert prepare(wall.root, workers=2, force=True).written == 3
    assert [wall.depth(frame).read_bytes() for frame in wall.frames("depth_2")] == alone


def test_points_that_are_no_numbers_are_no_returns(wall):
    with wall.velodyne("000000").open("ab") as file:
        file.write(np.full((3, 4), np.nan, "<f4").tobytes() + np.full((3, 4), np.inf, "<f4").tobytes())
    assert prepare(wall.root, workers=1).written == 3


def test_one_damaged_frame_costs_no_other(wall):
    wall.velodyne("000001").write_bytes(bytes(7))
    with pytest.raises(InputError, match=r"000001\.bin: expected points of 16 bytes.*the other 2 frames are prepared"):
        prepare(wall.root, workers=1)
    assert wall.frames("depth_2") == ["000000", "000002"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda wall: wall.calibration("000002").unlink(), r"calib/000002\.txt: expected a readable file"),
        (
            lambda wall: wall.calibration("000002").write_text("P2: 1 0 0 0 0 1 0 0 0 0 1 0"),
            r"expected a line 'R0_rect: ",
        ),
        (lambda wall: wall.image("000002").unlink(), r"image_2/000002\.png: expected a readable file"),
        (lambda wall: wall.label("000002").write_text("Car 0 0"), r"label_2/000002\.txt, line 1: expected 15 fields"),
        (
            lambda wall: write_velodyne(wall.velodyne("000002"), np.array([[-5.0, 0, 0, 0]])),
            r"000002\.bin: expected LiDAR returns inside the image, got none of 1: check Tr_velo_to_cam",
        ),
    ],
)
def test_what_a_frame_lacks_is_named(wall, damage, message):
    damage(wall)
    with pytest.raises(InputError, match=message):
        prepare(wall.root, workers=1)
    assert set(wall.frames("depth_2")) >= {"000000", "000001"}


def test_several_damaged_frames_are_counted(wall):
    for frame in ("000000", "000002"):
        wall.image(frame).unlink()
    with pytest.raises(
        InputError, match=r"000000\.png.*, and 1 more damaged frames \(the other 1 frames are prepared\)"
    ):
        prepare(wall.root, workers=1)


def test_nothing_to_prepare_is_said(wall, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: expected a data set's folder, got none"):
        prepare(tmp_path / "nowhere")
    shutil.rmtree(wall.folder("velodyne"))
    with pytest.raises(InputError, match=r"velodyne: expected LiDAR sweeps .*, got no such folder"):
        prepare(wall.root)
    wall.folder("velodyne").mkdir()
    with pytest.raises(InputError, match=r"velodyne: expected LiDAR sweeps .*, got no .bin file: add"):
        prepare(wall.root)


def test_a_root_that_cannot_be_written_is_said_before_the_work(wall, monkeypatch):
    wall.folder("depth_2").write_text("a file where the folder should be")
    monkeypatch.setattr(prepare_module, "_prepare_frame", lambda *_: pytest.fail("worked before it looked"))
    with pytest.raises(
        InputError, match="depth_2: expected to write here, got 'Not a directory': choose a writable folder"
    ):
        prepare(wall.root, workers=1)


def test_a_full_disk_stops_at_once_and_is_no_damaged_frame(wall, largest_file):
    with (
        largest_file(50),
        pytest.raises(
            InputError,
            match=r"depth_2/000000\.png: .*'File too large': free some space.* \(0 of 3 frames are done",
        ),
    ):
        prepare(wall.root, workers=1)
    assert not [*wall.folder("depth_2").iterdir()]
    assert prepare(wall.root, workers=1).written == 3


def test_an_interruption_keeps_what_was_done(wall):
    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(wall.root, workers=1, progress=interrupt)
    assert [path.name for path in sorted(wall.folder("depth_2").iterdir())] == ["000000.png", "000001.png"]
    assert prepare(wall.root, workers=1).skipped == 2


def test_depths_that_are_not_on_the_objects_are_an_error(wall):
    for frame in wall.frames("label_2"):
        wall.label(frame).write_text("Car 0 0 0 10 10 30 30 1.7 1.6 4 0 1 25 0\n")
    message = r"depth_2: expected LiDAR returns on the labelled objects, got a median of 12\.2 m beside .* `--force`"
    with pytest.raises(InputError, match=message):
        prepare(wall.root, workers=1)
    assert not list(wall.folder("depth_2").iterdir()), "a training would use what cannot be used"


@pytest.mark.parametrize("columns", [5, 8])
def test_sweeps_of_more_columns_do_not_become_depth_maps_in_silence(wall, columns):
    for frame in wall.frames("velodyne"):
        points = np.fromfile(wall.velodyne(frame), "<f4").reshape(-1, 4)
        random = np.random.default_rng(0)
        points = points + random.uniform(-1e-3, 1e-3, points.shape) * (1, 1, 1, 0)
        further = np.c_[random.uniform((4, -2, -1), (6, 2, 1), (len(points), 3)), np.ones(len(points))][
            :, : columns - 4
        ]
        np.c_[points, further].astype("<f4").tofile(wall.velodyne(frame))
        wall.label(frame).write_text("Pedestrian 0 0 0 10 10 30 30 1.7 0.6 0.8 0 1 12 0\n")
    with pytest.raises(InputError, match=r"expected points of 4 float32|beside their 3D boxes"):
        prepare(wall.root, workers=1)


def test_files_beside_the_sweeps_are_counted_or_ignored(wall):
    (wall.folder("velodyne") / "000003.npy").write_bytes(b"")
    (wall.folder("velodyne") / "._000001.bin").write_bytes(b"Mac")
    report = prepare(wall.root, workers=1)
    assert report.written == 3
    assert "1 files in velodyne are not .bin and were left alone" in str(report)
    for frame in wall.frames("velodyne"):
        wall.velodyne(frame).unlink()
    with pytest.raises(InputError, match=r"velodyne: expected LiDAR sweeps .*, got 000003\.npy and no \.bin file"):
        prepare(wall.root, workers=1)


def test_frames_of_any_name_and_suffix_are_prepared(wall):
    wall.image("000000").rename(wall.folder("image_2") / "00007.PNG")
    wall.velodyne("000000").rename(wall.folder("velodyne") / "00007.BIN")
    wall.calibration("000000").rename(wall.folder("calib") / "00007.txt")
    assert prepare(wall.root, workers=1).written == 3
    assert wall.frames("depth_2") == ["000001", "000002", "00007"]


@pytest.mark.kitti
def test_real_frames_are_prepared(kitti, tmp_path):
    (tmp_path / "training").mkdir()
    for kind in ("image_2", "calib", "label_2", "velodyne"):
        (tmp_path / "training" / kind).symlink_to(kitti / "training" / kind)
    report = prepare(tmp_path, workers=min(2, os.cpu_count() or 1))
    assert (report.written, report.skipped) == (25, 0)
    assert report.objects > 40
    assert report.depth_error_m is not None
    assert report.depth_error_m < 0.1
    layout = KittiLayout(tmp_path)
    for frame in layout.frames("image_2"):
        with Image.open(layout.image(frame)) as image, Image.open(layout.depth(frame)) as depth:
            assert image.size == depth.size
    assert not list(Path(tmp_path).rglob("*.partial"))
