import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monoskd.errors import InputError
from monoskd.importers.nuscenes import read_nuscenes
from monoskd.importers.nuscenes_splits import split_of
from monoskd.importers.recording import read_class_map
from monoskd.importers.write import import_recording
from monoskd.kitti.doctor import examine
from monoskd.kitti.io import read_calibration, read_objects, read_split, read_velodyne
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import prepare

TOLERANCE = {"bottom": 1e-3, "dimensions": 1e-3, "yaw": 1e-3, "alpha": 1e-3, "boxes_2d": 0.05, "truncation": 1e-3}
EXPECTED = {"bottom": "bottom_center", "dimensions": "hwl", "yaw": "rotation_y", "boxes_2d": "bbox"}


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    """`frames.csv` by the picture's own name."""
    with (out / "frames.csv").open(newline="") as file:
        return {row["origin"]: row for row in csv.DictReader(file)}


# --- against the official devkit ---


@pytest.fixture(scope="module")
def expected(shared: Path) -> list[dict[str, Any]]:
    return json.loads((shared / "nuscenes_format_expected" / "expected.json").read_text())["frames"]


@pytest.fixture(scope="module")
def imported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported")
    import_recording(read_nuscenes(shared / "nuscenes_format"), out, source="here", workers=1)
    return out


def worst(out: Path, expected: list[dict[str, Any]]) -> dict[str, float]:
    """The largest difference of each quantity, over all frames and objects that are not borderline."""
    largest = dict.fromkeys([*TOLERANCE, "Tr_velo_to_cam", "P2"], 0.0)
    rows = rows_of(out)
    for frame in expected:
        name = rows[frame["image"]]["frame"]
        calibration = read_calibration(KittiLayout(out).calibration(name))
        found = read_objects(KittiLayout(out).label(name))
        pairs = [("P2", calibration.P2[:, :3], frame["K"])]
        pairs.append(("Tr_velo_to_cam", calibration.Tr_velo_to_cam, frame["Tr_velo_to_cam_kitti_axes"]))
        labels = [one for one in frame["objects"] if one["kitti_class"] and not one["borderline"]]
        for one in labels:
            row = int(np.abs(found.bottom - one["bottom_center"]).max(1).argmin())
            pairs += [(key, getattr(found, key)[row], one[EXPECTED.get(key, key)]) for key in TOLERANCE]
        for key, value, right in pairs:
            largest[key] = max(largest[key], float(np.abs(np.asarray(value) - right).max()))
    return largest


@pytest.mark.kitti
def test_labels_and_calibration_are_those_of_the_official_devkit(imported: Path, expected: list[dict[str, Any]]):
    differences = worst(imported, expected)
    assert differences.pop("P2") < 1e-6
    assert differences.pop("Tr_velo_to_cam") < 1e-6
    assert all(differences[key] < tolerance for key, tolerance in TOLERANCE.items()), differences


@pytest.mark.kitti
def test_the_same_objects_in_the_same_order_with_class_and_occlusion(imported: Path, expected: list[dict[str, Any]]):
    rows = rows_of(imported)
    for frame in expected:
        row = rows[frame["image"]]
        found = read_objects(KittiLayout(imported).label(row["frame"]))
        labels = [one for one in frame["objects"] if one["kitti_class"]]
        assert found.names.tolist() == [one["kitti_class"] for one in labels]
        assert found.occlusion.tolist() == [one["occlusion"] for one in labels]
        assert row["token"] == frame["sample_data_token"]
        assert float(row["tilt_deg"]) == pytest.approx(frame["objects"][0]["tilt_deg"], abs=1e-3)


def lidar_pose_for_cameras(tables: dict[str, list[dict[str, Any]]]) -> None:
    """What a reader sees that takes the LiDAR's ego pose for every sensor."""
    pose = {row["sample_token"]: row["ego_pose_token"] for row in tables["sample_data"] if _is_lidar_key(row)}
    for row in tables["sample_data"]:
        row["ego_pose_token"] = pose[row["sample_token"]]


def _is_lidar_key(row: dict[str, Any]) -> bool:
    return row["is_key_frame"] and "LIDAR" in row["filename"]


def quaternions_as_xyzw(tables: dict[str, list[dict[str, Any]]]) -> None:
    """What a reader sees that takes the last of the four numbers for w."""
    for name in ("ego_pose", "calibrated_sensor", "sample_annotation"):
        for row in tables[name]:
            row["rotation"] = [row["rotation"][3], *row["rotation"][:3]]


def width_for_length(tables: dict[str, list[dict[str, Any]]]) -> None:
    for row in tables["sample_annotation"]:
        width, length, height = row["size"]
        row["size"] = [length, width, height]


@pytest.mark.kitti
@pytest.mark.parametrize(
    ("mistake", "caught_by"),
    [
        (lidar_pose_for_cameras, ("bottom", "Tr_velo_to_cam")),
        (quaternions_as_xyzw, ("bottom", "yaw")),
        (width_for_length, ("dimensions",)),
    ],
)
def test_a_naive_mistake_is_far_outside_the_tolerance(shared, expected, tmp_path, mistake, caught_by):
    source = tmp_path / "source"
    shutil.copytree(shared / "nuscenes_format" / "v1.0-mini", source / "v1.0-mini", copy_function=shutil.copyfile)
    for folder in ("samples", "sweeps"):
        (source / folder).symlink_to(shared / "nuscenes_format" / folder)
    source.joinpath("v1.0-mini").chmod(0o755)
    tables = {path.stem: json.loads(path.read_text()) for path in (source / "v1.0-mini").glob("*.json")}
    mistake(tables)
    for name, rows in tables.items():
        (source / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    import_recording(read_nuscenes(source), tmp_path / "out", source=source, labelled_only=True, workers=1)
    differences = worst_or_infinite(tmp_path / "out", expected)
    for key in caught_by:
        assert differences[key] > 20 * TOLERANCE.get(key, 1e-6)


def worst_or_infinite(out: Path, expected: list[dict[str, Any]]) -> dict[str, float]:
    try:
        return worst(out, expected)
    except ValueError:  # a frame without any object
        return dict.fromkeys([*TOLERANCE, "Tr_velo_to_cam"], np.inf)


@pytest.mark.kitti
def test_the_sweeps_fall_into_the_boxes_as_often_as_the_tables_say(shared: Path, imported: Path):
    """Of both scenes: the LiDAR's points inside each car's box in the camera's frame, against num_lidar_pts."""
    tables = shared / "nuscenes_format" / "v1.0-mini"
    sample_of = {row["token"]: row["sample_token"] for row in json.loads((tables / "sample_data.json").read_text())}
    counts = {
        (row["sample_token"], *(round(side, 3) for side in row["size"])): row["num_lidar_pts"]
        for row in json.loads((tables / "sample_annotation.json").read_text())
    }
    layout, pairs = KittiLayout(imported), []
    for row in rows_of(imported).values():
        if row["split"] == "unlabelled":
            continue
        objects = read_objects(layout.label(row["frame"]))
        calibration = read_calibration(layout.calibration(row["frame"]))
        points = calibration.velo_to_camera(read_velodyne(layout.velodyne(row["frame"]))[:, :3])
        for index in np.flatnonzero((objects.names == "Car") & (objects.bottom[:, 2] < 40)):
            h, w, length = objects.dimensions[index]
            known = counts[sample_of[row["token"]], round(w, 3), round(length, 3), round(h, 3)]
            if known > 50:
                offset = points - objects.bottom[index]
                cos, sin = np.cos(objects.yaw[index]), np.sin(objects.yaw[index])
                along, across = cos * offset[:, 0] - sin * offset[:, 2], sin * offset[:, 0] + cos * offset[:, 2]
                inside = (abs(along) < length / 2) & (abs(across) < w / 2) & (offset[:, 1] < 0) & (offset[:, 1] > -h)
                pairs.append((inside.sum(), known))
    found, known = np.array(pairs).T
    assert len(found) > 50
    assert np.median(abs(found - known) / known) < 0.03


@pytest.mark.kitti
def test_the_doctor_passes_and_depth_maps_can_be_made(imported: Path):
    assert examine(imported).ok
    front = KittiLayout(imported).velodyne("000000")
    only = imported.parent / "front"
    for kind in ("image_2", "calib", "label_2", "velodyne"):
        (only / "training" / kind).mkdir(parents=True)
        for path in (imported / "training" / kind).glob("000000.*"):
            (only / "training" / kind / path.name).symlink_to(path)
    report = prepare(only, workers=1)
    assert report.written == 1
    assert not front.is_symlink()
    assert KittiLayout(imported).velodyne("000001").readlink() == Path("000000.bin")


# --- on made-up tables ---


def test_sweeps_are_frames_without_labels_of_train_scenes(nuscenes, tmp_path):
    report = import_recording(read_nuscenes(nuscenes.root), tmp_path / "out", source=nuscenes.root, workers=1)
    assert report.frames == {"val": 2, "train": 2, "unlabelled": 1}
    assert report.left_out == {"pictures without labels in a scene of val": 1}
    assert report.noted == {"objects without a LiDAR return": 4}
    layout = KittiLayout(tmp_path / "out")
    assert read_split(layout.split("unlabelled")) == ["000032"]
    assert not layout.label("000032").exists()
    assert layout.velodyne("000032").is_file()
    assert layout.image("000000").is_symlink()
    assert layout.image("000000").resolve() == (nuscenes.root / "samples/cam/-50000.jpg").resolve()


def test_a_point_of_the_parked_car_is_where_the_camera_sees_it_at_its_own_time(nuscenes, tmp_path):
    import_recording(read_nuscenes(nuscenes.root), tmp_path / "out", source=nuscenes.root, workers=1)
    layout = KittiLayout(tmp_path / "out")
    car = read_objects(layout.label("000000"))[:1]
    # 20 m ahead of the ego frame at the LiDAR's time; the camera is 1 m ahead of it and fired 0.05 s = 0.25 m earlier.
    np.testing.assert_allclose(car.bottom, [[0, 1.5, 20 - 1 + 0.25]], atol=1e-3)
    np.testing.assert_allclose(car.dimensions, [[1.6, 1.8, 4.2]])
    assert car.yaw[0] == pytest.approx(-np.pi / 2, abs=1e-4)
    points = read_calibration(layout.calibration("000000")).velo_to_camera(
        read_velodyne(layout.velodyne("000000"))[:, :3]
    )
    np.testing.assert_allclose(points[:, 2], 18 + 0.5 - 1 + 0.25, atol=1e-4)
    np.testing.assert_allclose(read_velodyne(layout.velodyne("000000"))[:, 3], 128 / 255, rtol=1e-6)


def test_a_bicycle_is_a_cyclist_with_a_rider_only(nuscenes, tmp_path):
    first = import_recording(read_nuscenes(nuscenes.root), tmp_path / "a", source="x", workers=1)
    assert first.objects == {"Car": 4, "Cyclist": 4}
    for row in nuscenes.tables["sample_annotation"]:
        row["attribute_tokens"] = ["without"] if row["attribute_tokens"] else []
    nuscenes.write()
    second = import_recording(read_nuscenes(nuscenes.root), tmp_path / "b", source="x", workers=1)
    assert second.objects == {"Car": 4}
    assert second.left_out["objects of vehicle.bicycle/cycle.without_rider"] == 4


def test_a_class_map_goes_before_the_formats_own(nuscenes, tmp_path):
    recording = read_nuscenes(nuscenes.root)
    path = tmp_path / "map.yaml"
    path.write_text("vehicle.bicycle: Misc\nvehicle.c*: null\n")
    classes = read_class_map(path, recording)
    report = import_recording(recording, tmp_path / "out", source="x", classes=classes, workers=1)
    assert report.objects == {"Misc": 4}
    assert report.left_out["objects of vehicle.car"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vehicle.caar: Car", r"map.yaml, vehicle.caar: expected a category of this recording.*mean vehicle\.car\?"),
        ("vehicle.car: [Car]", r"map.yaml, vehicle.car: expected a class name of one word or null, got \['Car'\]"),
        ("vehicle.car: My Car", "expected a class name of one word or null, got 'My Car'"),
        ("- Car", r"map.yaml: expected lines such as 'vehicle.car: Car'"),
        ("a: [", "map.yaml: expected YAML"),
        ("vehicle.car: Car\nvehicle.car: Van", "map.yaml: expected YAML, .*the key 'vehicle.car' more than once"),
        ("", "map.yaml: expected lines such as"),
    ],
)
def test_a_class_map_that_means_nothing_is_refused(nuscenes, tmp_path, text, message):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_class_map(tmp_path / "map.yaml", read_nuscenes(nuscenes.root))


def test_a_recording_without_annotations_becomes_frames_without_labels(nuscenes, tmp_path):
    nuscenes.edit(lambda tables: tables["sample_annotation"].clear())
    report = import_recording(read_nuscenes(nuscenes.root), tmp_path / "out", source="x", workers=1)
    assert report.frames == {"unlabelled": 2}
    assert not report.objects


def test_a_sweep_without_a_lidar_reading_near_it_is_left_out(nuscenes, tmp_path):
    rows = nuscenes.tables["sample_data"]
    rows[:] = [row for row in rows if row["is_key_frame"] or row["calibrated_sensor_token"] == "cam"]
    nuscenes.write()
    assert import_recording(read_nuscenes(nuscenes.root), tmp_path / "out", source="x").frames == {"val": 2, "train": 2}


@pytest.mark.parametrize(
    ("scene", "version", "split"),
    [
        ("scene-0001", "v1.0-trainval", "train"),
        ("scene-0003", "v1.0-trainval", "val"),
        ("scene-1043", "v1.0-test", "test"),
        ("scene-0553", "v1.0-trainval", "val"),
        ("scene-0553", "v1.0-mini", "train"),
        ("scene-0103", "v1.0-mini", "val"),
        ("scene-9001", "v1.0-mini", None),
        ("street", "v1.0-trainval", None),
    ],
)
def test_official_scenes_have_their_official_split(scene, version, split):
    assert split_of(scene, version=version) == split


def test_the_official_splits_have_their_official_sizes():
    names = [f"scene-{number:04d}" for number in range(1, 1200)]
    splits = [split_of(name, version="v1.0-trainval") for name in names]
    assert [splits.count(split) for split in ("train", "val", "test")] == [700, 150, 150]
    splits = [split_of(name, version="v1.0-mini") for name in names]
    assert [splits.count(split) for split in ("train", "val", "test")] == [8, 2, 0]


def no_such_pose(tables):
    tables["sample_data"][0]["ego_pose_token"] = "gone"


def not_a_rotation(tables):
    tables["ego_pose"][0]["rotation"] = [1, 1, 0, 0]


def short_translation(tables):
    tables["calibrated_sensor"][0]["translation"] = [1, 2]


def flat_box(tables):
    tables["sample_annotation"][0]["size"] = [1, 0, 1]


def strange_visibility(tables):
    tables["sample_annotation"][0]["visibility_token"] = "9"


def no_timestamp(tables):
    del tables["sample"][1]["timestamp"]


def null_timestamp(tables):
    tables["sample_data"][1]["timestamp"] = None


def null_width(tables):
    for row in tables["sample_data"]:
        row["width"] = None


def no_such_sample(tables):
    tables["sample_annotation"][0]["sample_token"] = "gone"


def no_category(tables):
    tables["category"].clear()


def test_visibility_may_be_a_number(nuscenes, tmp_path):
    before = [one.annotations.occlusion.tolist() for one in read_nuscenes(nuscenes.root).pictures if one.labelled]

    def as_numbers(tables):
        for row in tables["sample_annotation"]:
            row["visibility_token"] = int(row["visibility_token"] or 0)

    nuscenes.edit(as_numbers)
    after = [one.annotations.occlusion.tolist() for one in read_nuscenes(nuscenes.root).pictures if one.labelled]
    assert after == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            no_such_pose,
            r"ego_pose\.json: expected a row with token 'gone', which sample_data\.json points to, got none",
        ),
        (not_a_rotation, r"ego_pose\.json, cam-50000, rotation: expected a unit quaternion w, x, y, z"),
        (short_translation, r"calibrated_sensor\.json, cam, translation: expected 3 finite numbers, got \[1, 2\]"),
        (flat_box, r"sample_annotation\.json, s0-0-parked: expected a size above 0, got \[1, 0, 1\]"),
        (strange_visibility, r"s0-0-parked: expected visibility_token 1, 2, 3, 4 or none, got '9'"),
        (no_timestamp, r"sample\.json, row 1: expected a field 'timestamp', got none"),
        (null_timestamp, r"sample_data\.json, row 1, timestamp: expected a whole number, got None"),
        (null_width, r"sample_data\.json, .*, width: expected a whole number, got None"),
        (no_such_sample, r"sample\.json: expected a row with token 'gone', which sample_annotation\.json points to"),
        (no_category, r"category\.json: expected a row with token 'car', which instance\.json points to"),
    ],
)
def test_damaged_tables_are_named(nuscenes, damage, message):
    nuscenes.edit(damage)
    with pytest.raises(InputError, match=message):
        read_nuscenes(nuscenes.root)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scene", "[{", r"scene\.json: expected JSON, got something else"),
        ("scene", "{}", r"scene\.json: expected a list of rows, got dict"),
        ("scene", "[3]", r"scene\.json, row 0: expected a field 'token', got none"),
    ],
)
def test_a_table_that_is_none_is_named(nuscenes, name, content, message):
    (nuscenes.version / f"{name}.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_nuscenes(nuscenes.root)


def test_the_folder_of_tables_may_be_named_or_found(nuscenes):
    assert len(read_nuscenes(nuscenes.version).pictures) == len(read_nuscenes(nuscenes.root).pictures) == 6
    shutil.copytree(nuscenes.version, nuscenes.root / "v1.0-more")
    with pytest.raises(InputError, match=r"expected one folder of tables.*got v1.0-more, v1.0-own: give the path"):
        read_nuscenes(nuscenes.root)


def test_a_picture_that_was_scaled_and_a_sweep_that_is_cut_off_are_named_and_the_rest_is_done(nuscenes, tmp_path):
    path = nuscenes.root / "samples/cam/-50000.jpg"
    Image.new("RGB", (160, 90)).save(path)
    with pytest.raises(InputError, match=r"-50000\.jpg: expected 320 x 180 pixels.*other 4 frames are imported"):
        import_recording(read_nuscenes(nuscenes.root), tmp_path / "out", source="x", workers=1)
    sweep = nuscenes.root / "samples/lid/500000.pcd.bin"
    sweep.write_bytes(sweep.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"-50000\.jpg: expected.*, and 1 more damaged frames"):
        import_recording(read_nuscenes(nuscenes.root), tmp_path / "other", source="x", workers=1)
    Image.new("RGB", (320, 180)).save(path)
    with pytest.raises(InputError, match=r"500000\.pcd\.bin: expected points of 20 bytes.*other 4 frames are imported"):
        import_recording(read_nuscenes(nuscenes.root), tmp_path / "third", source="x", workers=1)
