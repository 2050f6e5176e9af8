import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from PIL import Image

from monoskd.errors import InputError
from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.kitti.doctor import examine
from monoskd.kitti.doctor_checks import projection_ious
from monoskd.kitti.doctor_report import DoctorReport, Finding
from monoskd.kitti.io import (
    Calibration,
    read_calibration,
    read_depth,
    read_objects,
    read_split,
    write_calibration,
    write_depth,
    write_objects,
    write_split,
    write_velodyne,
)
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.neighbours import neighbours
from monoskd.objects import Objects

WIDTH, HEIGHT = 120, 60
CAMERA = Camera.from_focal(100.0, width=WIDTH, height=HEIGHT)
TO_CAMERA = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
FRAMES = ["000000", "000001", "000002", "000003"]


def street(*, yaw_rad: float) -> Objects:
    """Two cars whose every field follows from the 3D box."""
    boxes = Boxes3D(
        np.array([[-2.0, 1.5, 12], [3, 1.5, 20]]), np.array([[1.5, 1.6, 4], [1.6, 1.7, 3.8]]), np.full(2, yaw_rad)
    )
    uv = CAMERA.project(boxes.corners())
    return Objects(
        names=np.array(["Car", "Car"]),
        truncation=np.zeros(2),
        occlusion=np.zeros(2, np.int64),
        alpha=boxes.yaw - np.arctan2(boxes.bottom[:, 0], boxes.bottom[:, 2]),
        boxes_2d=np.concatenate([uv.min(axis=1), uv.max(axis=1)], axis=1),
        dimensions=boxes.dimensions,
        bottom=boxes.bottom,
        yaw=boxes.yaw,
    )


def picture(seed: int) -> np.ndarray:
    """Another one for every seed."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def painted(objects: Objects) -> np.ndarray:
    """A depth map with each object's depth in its 2D box."""
    depth_m = np.full((HEIGHT, WIDTH), 40.0)
    for (left, top, right, bottom), z in zip(objects.boxes_2d.round().astype(int), objects.bottom[:, 2], strict=True):
        depth_m[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = z
    return depth_m


@pytest.fixture
def healthy(tmp_path) -> KittiLayout:
    """A small data set without fault."""
    layout = KittiLayout(tmp_path)
    layout.folder("image_2").mkdir(parents=True)
    for index, frame in enumerate(FRAMES):
        Image.fromarray(picture(index)).save(layout.image(frame))
        calibration = Calibration(P2=CAMERA.P, R0_rect=np.eye(3), Tr_velo_to_cam=TO_CAMERA)
        write_calibration(layout.calibration(frame), calibration)
        objects = street(yaw_rad=0.3 * index)
        write_objects(layout.label(frame), objects, decimals=4)
        spread = np.random.default_rng(index).uniform(-1, 1, (200, 3))
        points = (objects.boxes_3d.centres[:, None] + spread * [0.8, 0.6, 1]).reshape(-1, 3)
        write_velodyne(layout.velodyne(frame), np.c_[points @ TO_CAMERA[:, :3], np.zeros(len(points))])
        write_depth(layout.depth(frame), painted(objects))
    write_split(layout.split("train"), FRAMES[:2])
    write_split(layout.split("val"), FRAMES[2:])
    return layout


def test_a_healthy_data_set_has_no_findings(healthy):
    report = examine(healthy.root)
    assert report.findings == []
    assert report.ok
    assert report.files == dict.fromkeys(("image_2", "calib", "label_2", "velodyne", "depth_2"), 4)
    assert report.splits == {"train": 2, "val": 2}
    assert report.classes == {"Car": 8}
    assert report.image_sizes == {"120x60": 4}
    assert report.projection_iou == pytest.approx(1, abs=0.01)
    assert report.lidar_error_m is not None
    assert report.lidar_error_m < 1


def assert_found(layout: KittiLayout, severity: str, check: str, text: str) -> None:
    """The examination has findings of this kind, all of this severity, and the first reads like `text`."""
    report = examine(layout.root)
    found = [finding for finding in report.findings if finding.check == check]
    assert found, report.to_text()
    assert {finding.severity for finding in found} == {severity}
    assert re.search(text, str(found[0])), str(found[0])
    assert report.ok == all(finding.severity != "error" for finding in report.findings)


@pytest.mark.parametrize(
    ("field", "value", "severity", "check", "text"),
    [
        (
            15,
            "nan",
            "error",
            "damaged label",
            r"txt, line 2: field 15 \(rotation_y\): expected a finite number, got 'nan'",
        ),
        (15, "", "error", "damaged label", r"txt, line 2: expected 15 fields \(a label\), got 14"),
        (9, "-1", "error", "impossible box", "txt, line 2: expected height, width and length above 0"),
        (9, "0", "error", "impossible box", "txt, line 2: expected height, width and length above 0"),
        (14, "-3", "warning", "2D only", "expected 3D boxes, got none for 1 of 7 objects"),
        (7, "900", "warning", "impossible box", "a 2D box inside the 120 x 60 image"),
        (7, "0", "error", "impossible box", "expected left < right and top < bottom"),
        (15, "90", "error", "damaged label", "expected at most 10 radians, got '90'"),
        (2, "7", "warning", "impossible box", "truncation within 0 and 1, got 7"),
        (3, "9", "warning", "impossible box", "occlusion 0, 1, 2 or 3, got 9"),
    ],
)
def test_a_fault_in_a_label_is_named_by_line(healthy, field, value, severity, check, text):
    path = healthy.label("000001")
    words = path.read_text().splitlines()[0].split()
    words[field - 1] = value
    path.write_text("\n" + " ".join(words) + "\n")  # an empty line moves the object to line 2
    assert_found(healthy, severity, check, text)


@pytest.mark.parametrize(
    ("kind", "severity", "check", "text"),
    [
        ("image_2", "error", "label_2 without image", "label_2: expected an image for each file, got none for 000001"),
        ("image_2", "error", "split without image_2", "train.txt: .* got none of 000001"),
        ("label_2", "error", "split without label_2", "train.txt: .* got none of 000001"),
        ("label_2", "warning", "no label_2", "label_2: expected one file for each of 4 images, got none for 000001"),
        ("calib", "error", "no calib", "calib: .* got none for 000001"),
        ("velodyne", "warning", "no velodyne", "velodyne: .* got none for 000001"),
        (
            "depth_2",
            "note",
            "no depth_2",
            "depth_2: .* got none for 000001: run `monoskd prepare`; training",
        ),
    ],
)
def test_a_missing_file_is_named(healthy, kind, severity, check, text):
    next(healthy.folder(kind).glob("000001.*")).unlink()
    assert_found(healthy, severity, check, text)


def test_a_missing_folder_is_one_finding(healthy):
    shutil.rmtree(healthy.folder("velodyne"))
    assert_found(healthy, "warning", "no velodyne", "got none for 000000, 000001, 000002 and 1 more")


@pytest.mark.parametrize(
    ("kind", "check", "text"),
    [
        ("image_2", "damaged image", r"000001\.png: expected a whole image, got one without its end"),
        ("depth_2", "damaged depth map", r"000001\.png: expected a whole image, got one without its end"),
        ("velodyne", "damaged sweep", r"000001\.bin: expected points of 16 bytes"),
    ],
)
def test_a_cut_off_file_is_named(healthy, kind, check, text):
    path = next(healthy.folder(kind).glob("000001.*"))
    path.write_bytes(path.read_bytes()[:-5])
    assert_found(healthy, "error", check, text)


@pytest.mark.parametrize(
    ("changes", "severity", "check", "text"),
    [
        ({"R0_rect": None}, "error", "camera", "expected R0_rect and Tr_velo_to_cam beside a LiDAR sweep"),
        ({"P2": CAMERA.P * [[-1.0], [1], [1]]}, "error", "damaged calibration", "line 1: P2: expected a rectified"),
        ({"P2": CAMERA.P * [[3.0], [3], [1]]}, "warning", "camera", "principal point inside the 120 x 60 image"),
        ({"P2": CAMERA.P * [[3.0], [3], [1]]}, "warning", "projection", "got a median IoU of 0.0"),
        ({"Tr_velo_to_cam": -TO_CAMERA}, "error", "LiDAR", "more than 1% of the points inside the image, got 0.0%"),
    ],
)
def test_a_wrong_camera_is_noticed(healthy, changes, severity, check, text):
    calibration = Calibration(P2=CAMERA.P, R0_rect=np.eye(3), Tr_velo_to_cam=TO_CAMERA)
    write_calibration(healthy.calibration("000001"), replace(calibration, **changes))
    assert_found(healthy, severity, check, text)


def test_links_that_lead_nowhere_are_damage(healthy):
    healthy.label("000001").unlink()
    healthy.label("000001").symlink_to("nowhere")
    assert_found(
        healthy, "error", "damaged label", "000001.txt: expected a readable file, got a broken symlink to nowhere"
    )
    healthy.image("000000").unlink()
    healthy.image("000000").symlink_to("000000.png")
    assert_found(healthy, "error", "damaged image", "Too many levels of symbolic links")


def test_a_damaged_calibration_is_named_by_line(healthy):
    healthy.calibration("000001").write_text("\nP2: 1 2 3")
    assert_found(healthy, "error", "damaged calibration", "000001.txt, line 2: P2: expected 12 numbers, got 3")
    healthy.calibration("000001").write_text("P0: " + "1 " * 12)
    assert_found(healthy, "error", "damaged calibration", "expected a line 'P2: <12 numbers>', got P0")


def test_a_sweep_without_points_is_named(healthy):
    write_velodyne(healthy.velodyne("000001"), np.full((4, 4), np.nan))
    assert_found(healthy, "error", "damaged sweep", "expected LiDAR returns, got none among 4 points")
    healthy.velodyne("000001").write_bytes(b"")
    assert_found(healthy, "error", "damaged sweep", "expected LiDAR returns, got none among 0 points")
    healthy.velodyne("000001").unlink()
    healthy.velodyne("000001").symlink_to("nowhere")
    assert_found(healthy, "error", "damaged sweep", "000001.bin: expected a readable file")


def test_points_that_are_no_numbers_are_no_returns(healthy):
    with healthy.velodyne("000001").open("ab") as file:
        file.write(np.full((3, 4), np.nan, "<f4").tobytes())
    os.utime(healthy.depth("000001"))
    assert examine(healthy.root).findings == []


def test_depth_maps_that_miss_the_labelled_objects_are_an_error(healthy):
    for frame in FRAMES:
        write_depth(healthy.depth(frame), read_depth(healthy.depth(frame)) * 1000 / 256)  # millimetres
    assert_found(healthy, "error", "depth map", r"expected depth maps on the labelled objects, .* metres \* 256")
    for frame in FRAMES:
        healthy.velodyne(frame).unlink()
    assert "depth map" in {finding.check for finding in examine(healthy.root).findings}


def test_frames_to_train_on_need_a_depth_map_or_a_sweep(healthy):
    for frame in FRAMES:
        healthy.depth(frame).unlink()
    assert_found(healthy, "note", "no depth_2", "got none for 000000, .*: run `monoskd prepare`")
    healthy.velodyne(FRAMES[0]).unlink()
    assert_found(healthy, "error", "split without depth", "train.txt: .* or a sweep .*, got none of 000000: add sweeps")
    for frame in FRAMES[1:]:
        healthy.velodyne(frame).unlink()
    assert_found(healthy, "warning", "no velodyne", "without any the frames are for prediction and evaluation alone")
    assert {finding.check for finding in examine(healthy.root).findings} == {"no velodyne"}


def test_a_depth_map_of_another_time_or_size_is_named(healthy):
    os.utime(healthy.depth("000001"), (1, 1))
    assert_found(healthy, "warning", "depth map", "newer than sweep and calibration, got older")
    write_depth(healthy.depth("000001"), np.ones((3, 4)))
    assert_found(healthy, "error", "depth map", r"image's size \(120, 60\), got \(4, 3\): run `monoskd prepare")


def test_faults_of_splits_are_named(healthy):
    write_split(healthy.split("val"), FRAMES[1:])
    assert_found(healthy, "error", "leak", "expected no frame of train in val, got 000001")
    healthy.split("val").write_text("000002\n../3\n")
    assert_found(healthy, "error", "damaged split", "val.txt, line 2: expected a frame's name .*, got '../3'")
    healthy.split("val").unlink()
    assert_found(healthy, "warning", "no split", r"ImageSets: expected lists of frames, .*, got no val\.txt: add")
    shutil.rmtree(healthy.split("val").parent)
    assert_found(healthy, "warning", "no split", r"got no train\.txt and no val\.txt: add")


@pytest.mark.parametrize("name", ["train", "val", "trainval"])
def test_a_split_without_frames_is_named(healthy, name):
    healthy.split(name).write_text("")
    assert_found(healthy, "error", "empty split", rf"/{name}\.txt: expected frames, got none: list some")


@pytest.mark.parametrize("content", ["", "DontCare -1 -1 -10 0 0 9 9 -1 -1 -1 -1000 -1000 -1000 -10\n"])
def test_labels_without_any_object_are_named(healthy, content):
    for frame in FRAMES[1:]:
        healthy.label(frame).write_text(content)
    assert {finding.check for finding in examine(healthy.root).findings} == {"class not in val"}
    healthy.label(FRAMES[0]).write_text(content)
    assert_found(healthy, "error", "no object", "label_2: expected labelled objects, got none in 4 files: add")


def test_unlabelled_frames_need_no_label(healthy):
    healthy.label("000001").unlink()
    write_split(healthy.split("train"), FRAMES[:1])
    write_split(healthy.split("unlabelled"), FRAMES[1:2])
    assert examine(healthy.root).findings == []
    write_split(healthy.split("unlabelled"), FRAMES[:3])
    assert_found(healthy, "error", "unlabelled split", "unlabelled.txt: .* got one for 000000, 000002")
    assert_found(healthy, "error", "leak", "expected no frame of unlabelled in val, got 000002")


def test_objects_without_alpha_are_counted_and_not_compared(healthy):
    for frame in FRAMES:
        objects = read_objects(healthy.label(frame))
        write_objects(healthy.label(frame), replace(objects, alpha=np.full(2, -10.0)), decimals=4)
    assert_found(healthy, "warning", "no alpha", r"label_2: expected alpha, got none \(-10\) for 8 of 8 objects")
    assert examine(healthy.root).ok


@pytest.mark.parametrize("name", ["000000.png", "0"])
def test_a_split_that_spells_a_frame_otherwise_is_told_its_name(healthy, name):
    healthy.split("train").write_text(f"{name}\n")
    assert_found(healthy, "error", "split without image_2", rf"got none of {name} \(is it 000000\?\)")


@pytest.mark.parametrize("target", [None, "nowhere", "velodyne"])
def test_a_file_or_a_broken_link_in_the_place_of_a_folder_is_named(healthy, target):
    shutil.rmtree(healthy.folder("velodyne"))
    if target is None:
        healthy.folder("velodyne").write_text("")
    else:
        healthy.folder("velodyne").symlink_to(target)
    with pytest.raises(InputError, match="velodyne: expected a folder, got '"):
        examine(healthy.root)


# --- what is counted is what is read ---


@pytest.mark.parametrize(
    ("kind", "name"),
    [("label_2", "000009.json"), ("velodyne", "000009.npy"), ("velodyne", "000009.pcd"), ("image_2", "000009.raw")],
)
def test_a_file_that_nothing_reads_is_noticed(healthy, kind, name):
    (healthy.folder(kind) / name).write_text("")
    assert_found(healthy, "warning", "strange file", rf"{kind}: expected files in \..*, got {re.escape(name)}: convert")
    assert healthy.frames(kind) == FRAMES


@pytest.mark.parametrize(("kind", "suffix"), [("label_2", ".json"), ("velodyne", ".npy"), ("depth_2", ".npy")])
def test_a_folder_of_files_that_nothing_reads_is_an_error(healthy, kind, suffix):
    for frame in FRAMES:
        healthy.file(kind, frame).rename(healthy.folder(kind) / f"{frame}{suffix}")
    assert_found(healthy, "error", "strange file", f"{kind}: .*, got 000000{suffix}, .* and 1 more")


def test_what_has_other_names_and_suffixes_is_healthy_too(healthy):
    for index, (frame, name) in enumerate(zip(FRAMES, ["00549", "a b", "2011_09_26_1", "9"], strict=True)):
        image = healthy.image(frame)
        if index == 1:
            Image.open(image).save(image.with_suffix(".bmp"))
            image.unlink()
        for kind, suffix in (("calib", ".TXT"), ("label_2", ".txt"), ("velodyne", ".BIN"), ("depth_2", ".PNG")):
            healthy.file(kind, frame).rename(healthy.folder(kind) / f"{name}{suffix}")
        image = healthy.image(frame)
        image.rename(image.with_name(f"{name}{image.suffix.upper()}"))
    write_split(healthy.split("train"), ["00549", "a b"])
    write_split(healthy.split("val"), ["2011_09_26_1", "9"])
    report = examine(healthy.root)
    assert report.findings == [], report.to_text()
    assert set(report.files.values()) == {4}


@pytest.mark.parametrize("name", ["000001.TXT", "000001 (1).txt"])
def test_a_second_file_of_a_frame_is_an_error(healthy, name):
    shutil.copy(healthy.label("000001"), healthy.folder("label_2") / name)
    assert_found(healthy, "error", "two files", f"label_2: expected one file .*, got {re.escape(name)} and 000001.txt")
    assert len(examine(healthy.root).findings) == 1


def test_hidden_files_of_macos_are_ignored(healthy):
    for path in [*healthy.root.rglob("*.*")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac")
    assert examine(healthy.root).findings == []


def test_a_byte_order_mark_changes_nothing(healthy):
    before = examine(healthy.root)
    for path in healthy.root.rglob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = examine(healthy.root)
    assert [finding.check for finding in after.findings] == ["depth map"] * 4  # older than the calibrations now
    assert (after.classes, after.splits) == (before.classes, before.splits)


@pytest.mark.parametrize(
    ("kind", "pixels", "check", "text"),
    [
        ("image_2", np.ones((HEIGHT, WIDTH), np.uint16), "damaged image", "expected 8 bits a channel"),
        ("image_2", np.ones((HEIGHT, WIDTH, 3), np.uint16), "damaged image", "expected 8 bits a channel"),
        ("depth_2", np.ones((HEIGHT, WIDTH), np.uint8), "damaged depth map", "expected a 16-bit grey PNG, got mode L"),
    ],
)
def test_a_picture_of_another_depth_is_damage(healthy, kind, pixels, check, text):
    cv2.imwrite(str(healthy.file(kind, "000001")), pixels)
    assert_found(healthy, "error", check, text)


def test_a_set_of_unreadable_files_alone_is_said(healthy):
    for path in healthy.root.rglob("0*.*"):
        path.rename(path.with_suffix(".json"))
    with pytest.raises(InputError, match=r"got none of these files but others such as image_2/000000\.json: convert"):
        examine(healthy.root)
    with pytest.raises(InputError, match=r"got image_2 directly in it: give the folder above"):
        examine(healthy.root / "training")


def test_sweeps_of_other_columns_are_damage(healthy):
    points = np.fromfile(healthy.velodyne("000001"), "<f4").reshape(-1, 4)
    np.c_[points, np.arange(len(points))].astype("<f4").tofile(healthy.velodyne("000001"))
    assert_found(healthy, "error", "damaged sweep", "expected points of 4 float32 .*, got reflectance from -")


# --- what can be learned and measured ---


def test_classes_are_counted_by_split_and_in_any_case(healthy):
    edit_labels(healthy, lambda objects: {"names": np.array(["car", "cyclist"])}, frames=FRAMES[:2])
    edit_labels(healthy, lambda objects: {"names": np.array(["CAR", "bus"])}, frames=FRAMES[2:])
    report = examine(healthy.root)
    assert report.classes == {"Car": 4, "Cyclist": 2, "bus": 2}
    assert report.classes_by_split == {"train": {"Car": 2, "Cyclist": 2}, "val": {"Car": 2, "bus": 2}}
    assert "in val" in report.to_text()
    assert report.to_json()["classes_by_split"]["train"] == {"Car": 2, "Cyclist": 2}
    assert_found(healthy, "warning", "class not in val", r"val\.txt: .*, got no object of Cyclist \(2 in train\)")


@pytest.mark.parametrize(
    "change",
    [
        {"names": np.array(["Bus", "Tram"])},
        {"dimensions": np.full((2, 3), -1.0)},
        {"dimensions": np.zeros((2, 3)), "bottom": np.zeros((2, 3))},
        {"occlusion": np.array([3, 3])},
        {"truncation": np.array([0.9, 0.9])},
    ],
)
def test_a_split_that_nothing_can_be_learned_from_is_an_error(healthy, change):
    edit_labels(healthy, lambda objects: change, frames=FRAMES[:1])
    assert "nothing to train on" not in {finding.check for finding in examine(healthy.root).findings}
    edit_labels(healthy, lambda objects: change, frames=FRAMES[:2])
    assert_found(healthy, "error", "nothing to train on", r"train\.txt: expected objects to train on .* none of 4 obj")


def test_labels_of_2d_boxes_only_are_counted(healthy):
    edit_labels(healthy, lambda objects: {"dimensions": np.full((2, 3), -1.0)}, frames=FRAMES[3:])
    assert_found(healthy, "warning", "2D only", "label_2: expected 3D boxes, got none for 2 of 8 objects")
    unknown = {"dimensions": np.full((2, 3), -1.0), "bottom": np.full((2, 3), -1000.0), "yaw": np.full(2, -10.0)}
    edit_labels(healthy, lambda objects: unknown, frames=FRAMES[3:])
    assert {finding.check for finding in examine(healthy.root).findings} == {"2D only"}, "-10 is no angle in degrees"


def test_an_object_twice_is_named(healthy):
    path = healthy.label("000001")
    first, second = path.read_text().splitlines()
    path.write_text("\n".join([first, second, "", first.replace(" ", "  "), *2 * ["DontCare" + second[3:]], ""]))
    assert_found(healthy, "warning", "object twice", "txt, line 4: expected each object once, got that of line 1 again")
    assert sum(finding.check == "object twice" for finding in examine(healthy.root).findings) == 1


# --- train and val ---


def test_a_copy_of_a_validation_frame_is_found_by_content(healthy):
    shutil.copy(healthy.image("000003"), healthy.image("000001"))
    assert_found(healthy, "error", "leak", r"train\.txt: expected no copy .* in train, got 000001, which shows 000003")


@pytest.mark.parametrize("split", ["train", "unlabelled"])
def test_a_copy_with_its_picture_encoded_anew_is_found_by_its_pixels(healthy, split):
    """By the labels in another order and spelling, or without labels by the depth map."""
    for index, frame in enumerate(FRAMES):
        write_depth(healthy.depth(frame), np.full((HEIGHT, WIDTH), 12.0 + index))
    with Image.open(healthy.image("000003")) as image:
        image.save(healthy.image("000001").with_suffix(".bmp"))
    healthy.image("000001").unlink()
    if split == "train":
        lines = healthy.label("000003").read_text().lower().replace(" ", "  ").splitlines()
        healthy.label("000001").write_bytes("\r\n".join(["\ufeff" + lines[1], lines[0], ""]).encode())
    else:
        healthy.label("000001").unlink()
        shutil.copy(healthy.depth("000003"), healthy.depth("000001"))
        write_split(healthy.split("train"), FRAMES[:1])
        write_split(healthy.split("unlabelled"), FRAMES[1:2])
    assert_found(healthy, "error", "leak", rf"{split}\.txt: expected no copy .* got 000001, which shows 000003")


def test_a_copied_sweep_beside_another_picture_is_found_too(healthy):
    shutil.copy(healthy.velodyne("000003"), healthy.velodyne("000001"))
    write_split(healthy.split("train"), FRAMES[:1])
    write_split(healthy.split("unlabelled"), FRAMES[1:2])
    assert_found(healthy, "error", "leak", r"unlabelled\.txt: .* in unlabelled, got 000001, which shows 000003")


def test_neighbours_of_one_recording_in_both_splits_are_a_warning(healthy):
    street = cv2.resize(picture(0)[:10, :20], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for index, frame in enumerate(FRAMES):
        Image.fromarray(np.roll(street, index, axis=1)).save(healthy.image(frame))  # a slow turn
    write_split(healthy.split("train"), FRAMES[::2])
    write_split(healthy.split("val"), FRAMES[1::2])
    assert_found(healthy, "warning", "one recording", r"train\.txt: expected other recordings .*, got 00000. beside 00")


def test_links_into_one_drive_are_a_warning(healthy, tmp_path):
    data = tmp_path / "raw" / "2011_09_26" / "2011_09_26_drive_0001_sync" / "image_02" / "data"
    data.mkdir(parents=True)
    for frame in FRAMES:
        healthy.image(frame).rename(data / f"{frame}.png")
        healthy.image(frame).symlink_to(data / f"{frame}.png")
    assert_found(healthy, "warning", "one recording", "got frames of 2011_09_26_drive_0001 in both")


@pytest.mark.kitti
def test_real_neighbours_are_told_from_real_strangers(shared):
    layout = KittiLayout(shared / "kitti_drives")
    train, val = (read_split(layout.split(name)) for name in ("train", "val"))
    assert neighbours(layout, train, val) == []
    mixed = sorted(frame for frame in train + val if len(frame) == 6 and frame.startswith("9"))
    assert len(neighbours(layout, mixed[::2], mixed[1::2])) > 20


def edit_labels(
    layout: KittiLayout, edit: Callable[[Objects], dict[str, np.ndarray]], *, frames: list[str] = FRAMES
) -> None:
    for frame in frames:
        objects = read_objects(layout.label(frame))
        write_objects(layout.label(frame), Objects(**{**vars(objects), **edit(objects)}))


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        (lambda o: {"bottom": o.boxes_3d.centres - [0, 2, 0]}, "projection"),
        (lambda o: {"dimensions": o.dimensions[:, ::-1]}, "projection"),
        (lambda o: {"alpha": o.yaw + np.pi / 2}, "alpha"),
        (lambda o: {"bottom": 3 * o.bottom, "dimensions": 3 * o.dimensions}, "LiDAR"),
    ],
    ids=["origin", "order", "alpha", "unit"],
)
def test_another_convention_is_told_by_the_whole_set(healthy, edit, check):
    edit_labels(healthy, edit)
    assert check in {finding.check for finding in examine(healthy.root).findings if finding.severity == "error"}


def test_nothing_at_all_is_said(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: expected a data set with training/image_2.*got no frame"):
        examine(tmp_path / "nowhere")


def test_progress_counts_frames(healthy):
    seen = []
    examine(healthy.root, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def a_report(count: int) -> DoctorReport:
    findings = [
        Finding("warning", "case", "expected <b>Car</b>, got 'car'", "rename", "a.txt", n) for n in range(count)
    ]
    return DoctorReport(
        root="set & co",
        files={"image_2": 1},
        splits={},
        classes={},
        image_sizes={},
        projection_iou=None,
        lidar_error_m=None,
        seconds=0.1,
        findings=[*findings, Finding("error", "leak", "expected none, got one", "remove it")],
    )


def test_text_shows_a_few_of_each_kind_worst_first():
    text = a_report(7).to_text()
    assert text.startswith("set & co: not fit to use: 1 error, 7 warnings, 0 notes\n")
    assert text.index("error: leak (1)") < text.index("warning: case (7)")
    assert "  a.txt, line 4: expected <b>Car</b>, got 'car': rename" in text
    assert "line 5" not in text
    assert "... and 2 more" in text


def test_json_holds_all(tmp_path):
    a_report(7).write_json(tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "monoskd/doctor/1"
    assert report["ok"] is False
    assert len(report["findings"]) == 8
    assert report["findings"][3] == {
        "severity": "warning",
        "check": "case",
        "what": "expected <b>Car</b>, got 'car'",
        "advice": "rename",
        "file": "a.txt",
        "line": 3,
    }


def test_html_is_whole_and_escaped(tmp_path):
    a_report(7).write_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<b>Car" not in page
    assert "set &amp; co" in page
    depth = 0

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            nonlocal depth
            depth += tag != "meta"

        def handle_endtag(self, tag: str) -> None:
            nonlocal depth
            depth -= 1

    Balance().feed(page)
    assert depth == 0
    assert page.count("<li>") == 8


@pytest.mark.kitti
def test_real_frames_are_healthy(kitti):
    report = examine(kitti)
    assert report.ok, report.to_text()
    assert {finding.check for finding in report.findings} <= {"no depth_2"}
    assert report.files["image_2"] == 25
    assert report.splits == {"train": 8, "trainval": 25, "val": 17}
    assert report.classes["Car"] == 89
    assert report.projection_iou is not None
    assert report.projection_iou > 0.95


@pytest.mark.kitti
def test_a_turned_lidar_is_noticed_on_real_frames(kitti, tmp_path):
    (tmp_path / "training").mkdir()
    for kind in ("image_2", "label_2", "velodyne"):
        (tmp_path / "training" / kind).symlink_to(kitti / "training" / kind)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # 90 degrees about the LiDAR's vertical axis
    for frame in KittiLayout(kitti).frames("calib"):
        calibration = read_calibration(KittiLayout(kitti).calibration(frame))
        assert calibration.Tr_velo_to_cam is not None
        calibration.Tr_velo_to_cam[:, :3] = calibration.Tr_velo_to_cam[:, :3] @ turn
        write_calibration(KittiLayout(tmp_path).calibration(frame), calibration)
    assert "LiDAR" in {finding.check for finding in examine(tmp_path).findings if finding.severity == "error"}


@pytest.mark.kitti
def test_real_boxes_project_onto_their_labels(kitti):
    layout = KittiLayout(kitti)
    objects = read_objects(layout.label("000008"))
    objects = objects[(objects.names == "Car") & (objects.truncation == 0)]
    camera = read_calibration(layout.calibration("000008")).camera
    assert (projection_ious(objects, camera, image_size=(1242, 375)) > 0.85).all()
