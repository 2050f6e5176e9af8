from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monoskd.errors import InputError
from monoskd.importers.kitti_tracking import read_kitti_tracking
from monoskd.importers.write import import_recording
from monoskd.kitti.doctor import examine
from monoskd.kitti.io import read_calibration, read_objects, read_split
from monoskd.kitti.layout import KittiLayout

CAR = "Car {truncated} 0 -1.5708 150 90 170 110 1.5 1.6 4 0 1.5 20 -1.5708"


@pytest.fixture
def tracking(tmp_path: Path) -> Path:
    """Sequence 0000 with labels: a car in frame 0, a person in frame 1; sequence 0001 without."""
    root = tmp_path / "tracking" / "training"
    for folder in ("label_02", "calib"):
        (root / folder).mkdir(parents=True)
    for sequence in ("0000", "0001"):
        (root / "image_02" / sequence).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (320, 180)).save(root / "image_02" / sequence / f"{index:06d}.png")
        lines = [f"P{camera}: 200 0 160 0 0 200 90 0 0 0 1 0" for camera in range(4)]
        lines += ["R_rect 1 0 0 0 1 0 0 0 1", "Tr_velo_cam 0 -1 0 0 0 0 -1 0 1 0 0 0"]
        (root / "calib" / f"{sequence}.txt").write_text("\n".join(lines))
    (root / "label_02" / "0000.txt").write_text(f"0 7 {CAR.format(truncated=0)}\n1 8 {CAR.replace('Car', 'Person')}\n")
    text = (root / "label_02" / "0000.txt").read_text().format(truncated=0)
    (root / "label_02" / "0000.txt").write_text(text)
    return root.parent


@pytest.mark.kitti
def test_labels_are_those_that_others_took_from_the_same_sequence(shared, tmp_path):
    """Frame 0 of sequence 0001 is frame 909000 of the drives."""
    import_recording(read_kitti_tracking(shared / "kitti_tracking"), tmp_path, source="x", workers=1)
    layout, drives = KittiLayout(tmp_path), KittiLayout(shared / "kitti_drives")
    found, known = read_objects(layout.label("000000")), read_objects(drives.label("909000"))
    assert found.names.tolist() == known.names.tolist()
    assert found.occlusion.tolist() == known.occlusion.tolist()
    for key in ("truncation", "alpha", "boxes_2d", "dimensions", "bottom", "yaw"):
        np.testing.assert_allclose(getattr(found, key), getattr(known, key), atol=1e-4, err_msg=key)
    a, b = read_calibration(layout.calibration("000000")), read_calibration(drives.calibration("909000"))
    np.testing.assert_allclose(a.P2, b.P2)
    np.testing.assert_allclose(a.R0_rect @ a.Tr_velo_to_cam, b.R0_rect @ b.Tr_velo_to_cam, atol=1e-9)
    assert examine(tmp_path).ok


def test_sequences_are_scenes_and_those_without_labels_are_not_labelled(tracking, tmp_path):
    report = import_recording(read_kitti_tracking(tracking), tmp_path / "out", source="x", val=["0000"], workers=1)
    assert report.frames == {"val": 2, "unlabelled": 2}
    assert report.objects == {"Car": 1, "Person_sitting": 1}
    layout = KittiLayout(tmp_path / "out")
    assert read_split(layout.split("unlabelled")) == ["000002", "000003"]
    assert not layout.label("000002").exists()


@pytest.mark.parametrize(("x", "share"), [("0", 0.0), ("8", None), ("30", 1.0)])
def test_a_state_of_truncation_becomes_the_share_outside(tracking, tmp_path, x, share):
    """The camera sees 0.8 of its depth to either side: the car at (8, 20) stands on the border."""
    label = tracking / "training" / "label_02" / "0000.txt"
    label.write_text(f"0 7 {CAR.format(truncated=1)}".replace(" 0 1.5 20", f" {x} 1.5 10"))
    import_recording(read_kitti_tracking(tracking / "training"), tmp_path / "out", source="x", workers=1)
    found = float(read_objects(KittiLayout(tmp_path / "out").label("000000")).truncation[0])
    assert 0 < found < 1 if share is None else found == pytest.approx(share)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 7 Car 0 0", r"0000\.txt, line 1: expected 17 fields that begin with a frame's number, got '0 7 Car 0 0'"),
        (f"x 7 {CAR}".format(truncated=0), "line 1: expected 17 fields that begin"),
        (f"0 7 {CAR}".format(truncated="?"), r"0000\.txt, frame 000000, line 1, field 2 \(truncated\)"),
    ],
)
def test_damaged_lines_are_named(tracking, tmp_path, line, message):
    (tracking / "training" / "label_02" / "0000.txt").write_text(line)
    with pytest.raises(InputError, match=message):
        import_recording(read_kitti_tracking(tracking), tmp_path / "out", source="x", workers=1)


def test_a_picture_in_two_formats_is_refused(tracking):
    Image.new("RGB", (320, 180)).save(tracking / "training" / "image_02" / "0000" / "000001.jpg")
    with pytest.raises(InputError, match=r"expected one file for each frame, got 000001\.jpg and 000001\.png: remove"):
        read_kitti_tracking(tracking)


def test_what_is_no_tracking_data_is_named(tmp_path):
    with pytest.raises(InputError, match=r"expected sequences such as image_02/0001, got none"):
        read_kitti_tracking(tmp_path)
