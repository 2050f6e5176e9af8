import re
import subprocess
import sys
from pathlib import Path

import pytest

from monoskd.engine.evaluate import evaluate_folders
from monoskd.errors import InputError

OTHERS_ABSENT = "no object of Pedestrian, Cyclist is labelled: 0 says nothing about the detector there"
CAR = "Car 0.00 0 0.00 100.00 100.00 200.00 200.00 1.50 1.60 4.00 0.00 1.60 20.00 0.00"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three labelled frames and results for them, all of them right."""
    labels, predictions = tmp_path / "label_2", tmp_path / "results"
    for folder, line in ((labels, CAR), (predictions, f"{CAR} 0.5")):
        folder.mkdir()
        for index in range(3):
            (folder / f"{index:06d}.txt").write_text(f"{line}\n")
    return labels, predictions


def cars_3d(labels: Path, predictions: Path, split: Path | None = None) -> float:
    evaluation = evaluate_folders(labels, predictions, split=split)
    result = next(r for r in evaluation.results if (r.class_name, r.metric) == ("Car", "3d"))
    return result.average_precision("R40")["easy"]


def test_every_labelled_frame_is_evaluated(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate_folders(*folders)
    assert evaluation.frames == 3
    assert evaluation.notes == (OTHERS_ABSENT,)
    assert cars_3d(*folders) == pytest.approx(100 * 2 / 40)


def test_objects_labelled_in_2d_alone_are_said(folders: tuple[Path, Path]) -> None:
    labels, predictions = folders
    (labels / "000001.txt").write_text(
        CAR.replace("1.50 1.60 4.00 0.00 1.60 20.00 0.00", "-1 -1 -1 -1000 -1000 -1000 -10")
    )
    said = "objects labelled in 2D alone (1 of Car) count as missed in bird's eye and 3D"
    assert evaluate_folders(labels, predictions).notes == (OTHERS_ABSENT, said)


def test_results_of_unknown_classes_and_angles_in_degrees_are_said(folders: tuple[Path, Path]) -> None:
    labels, predictions = folders
    (predictions / "000000.txt").write_text(
        f"{CAR} 0.5\n".replace("Car", "0") * 2 + f"{CAR} 0.5\n".replace("Car", "bus")
    )
    (predictions / "000001.txt").write_text(f"{CAR} 0.5\n".replace("20.00 0.00", "20.00 90.00"))
    assert evaluate_folders(labels, predictions).notes[1:] == (
        "detections of classes that are neither KITTI's nor labelled are left out: 2 of 0, 1 of bus",
        "1 detections have a rotation_y beyond 10: it is expected in radians, not degrees",
    )
    (labels / "000000.txt").write_text(f"{CAR}\n{CAR}\n".replace("Car", "Bus"))
    assert evaluate_folders(labels, predictions).notes[1].endswith("are left out: 2 of 0")


def test_a_missing_result_is_an_empty_one_and_is_said(folders: tuple[Path, Path]) -> None:
    labels, predictions = folders
    (predictions / "000001.txt").unlink()
    missing = evaluate_folders(labels, predictions)
    assert missing.notes[1:] == ("1 of 3 frames have no result file and count as frames without detections",)
    (predictions / "000001.txt").write_text("")
    empty = evaluate_folders(labels, predictions)
    assert empty.notes == (OTHERS_ABSENT,)
    assert missing.rows() == empty.rows()
    assert cars_3d(labels, predictions) == pytest.approx(100 * 1 / 40)


def test_a_split_chooses_the_frames(folders: tuple[Path, Path], tmp_path: Path) -> None:
    split = tmp_path / "val.txt"
    split.write_text("000002\n000000\n")
    evaluation = evaluate_folders(*folders, split=split)
    assert evaluation.frames == 2
    assert evaluation.notes[1:] == ("1 result files belong to frames outside the split and were left out",)
    assert cars_3d(*folders, split=split) == pytest.approx(100 * 1 / 40)


def test_a_result_for_an_unknown_frame_is_an_error(folders: tuple[Path, Path]) -> None:
    labels, predictions = folders
    (predictions / "000007.txt").write_text("")
    (predictions / "000008.txt").write_text("")
    with pytest.raises(InputError, match=r"expected a label in .* for every result, got none for 000007 and 1 more"):
        evaluate_folders(labels, predictions)


def test_a_frame_of_the_split_without_a_label_is_an_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("000000\n000009\n")
    with pytest.raises(InputError, match=r"val\.txt: expected a label in .* for every frame, got none for 000009:"):
        evaluate_folders(*folders, split=tmp_path / "val.txt")


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_folder_is_named(folders: tuple[Path, Path], which: int) -> None:
    paths = list(folders)
    paths[which] = paths[which] / "nowhere"
    with pytest.raises(InputError, match=r"nowhere: expected a folder of \.txt files"):
        evaluate_folders(*paths)


def test_a_damaged_result_is_named(folders: tuple[Path, Path]) -> None:
    labels, predictions = folders
    (predictions / "000001.txt").write_text(f"{CAR} 0.5\n{CAR} nan\n")
    with pytest.raises(
        InputError, match=r"000001\.txt, line 2, field 16 \(score\): expected a finite number, got 'nan'"
    ):
        evaluate_folders(labels, predictions)


def test_a_result_needs_a_score(folders: tuple[Path, Path]) -> None:
    labels, _ = folders
    with pytest.raises(InputError, match=r"expected 16 fields \(a result\), got 15"):
        evaluate_folders(labels, labels)


def test_labels_may_carry_a_score(folders: tuple[Path, Path]) -> None:
    labels, predictions = folders
    assert evaluate_folders(predictions, predictions).rows() == evaluate_folders(labels, predictions).rows()


def test_a_class_without_an_object_is_named(folders: tuple[Path, Path]) -> None:
    assert evaluate_folders(*folders, classes=["car"]).notes == ()
    (folders[0] / "000001.txt").write_text(CAR.replace("Car", "CYCLIST"))
    assert evaluate_folders(*folders).notes == (
        OTHERS_ABSENT.replace("Pedestrian, Cyclist", "Pedestrian"),
        "there is no detection of Cyclist",
    )
    for path in folders[0].iterdir():
        path.write_text(CAR.replace("Car 0.00 0", "Car 0.00 1"))
    assert evaluate_folders(*folders, classes=["car"]).notes == (
        "no labelled object is tall, visible and whole enough for Car (easy): 0 says nothing there",
    )


@pytest.mark.parametrize(
    ("line", "note"),
    [
        (f"{CAR} 0.5\n{CAR} 0.5\n", "3 detections repeat another of their frame, as if written again"),
        (f"{CAR} 0.5\n".replace("100.00 100.00 200.00 200.00", "0 0 0 0"), "3 of 3 detections have no 2D box"),
    ],
)
def test_detections_that_count_otherwise_than_meant_are_said(folders: tuple[Path, Path], line: str, note: str) -> None:
    for path in folders[1].iterdir():
        path.write_text(line)
    assert evaluate_folders(*folders, classes=["Car"]).notes[0].startswith(note)


@pytest.mark.parametrize(
    ("which", "note"),
    [
        (0, "labels without alpha (-10: 1 of Car): orientation has no value there"),
        (1, "1 detections have no alpha (-10)"),
    ],
)
def test_without_alpha_orientation_has_no_value(folders: tuple[Path, Path], which: int, note: str) -> None:
    path = folders[which] / "000001.txt"
    path.write_text(path.read_text().replace("0 0.00 100.00", "0 -10 100.00"))
    evaluation = evaluate_folders(*folders, classes=["Car"])
    assert evaluation.notes[0].startswith(note)
    assert {row["metric"] for row in evaluation.rows() if row["easy"] is None} == {"aos"}


def test_no_result_at_all_is_an_error_that_looks_one_folder_deeper(folders: tuple[Path, Path], tmp_path: Path) -> None:
    labels, predictions = folders
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log").mkdir()
    with pytest.raises(InputError, match=r"out: expected a \.txt file for each frame with a result, got none: check"):
        evaluate_folders(labels, tmp_path / "out")
    predictions.rename(tmp_path / "out" / "data")
    with pytest.raises(InputError, match=r"got none: .*out/data holds 3 \.txt files, give that folder"):
        evaluate_folders(labels, tmp_path / "out")
    with pytest.raises(InputError, match=r"for each frame with a label, got none: .*label_2 holds 3 \.txt files"):
        evaluate_folders(labels.parent, tmp_path / "out" / "data")


def test_hidden_files_marks_cases_and_other_names_change_nothing(folders: tuple[Path, Path]) -> None:
    before = evaluate_folders(*folders).rows()
    for folder in folders:
        for path in list(folder.iterdir()):
            text = path.read_text().replace("Car", "cAR").replace("\n", "\r\n")
            suffix = (".txt", ".TXT", ".tXt")[int(path.stem)]
            path.with_name(f"frame {path.stem}{suffix}").write_bytes(b"\xef\xbb\xbf" + text.encode())
            path.unlink()
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac")
    assert evaluate_folders(*folders).rows() == before


@pytest.mark.parametrize("name", ["000001.TXT", "000001 (1).txt"])
def test_a_second_file_of_a_frame_is_refused(folders: tuple[Path, Path], name: str) -> None:
    for folder in folders:
        (folder / name).write_bytes((folder / "000001.txt").read_bytes())
        with pytest.raises(InputError, match=re.escape(f"{folder}: expected one file for each frame, got {name} and")):
            evaluate_folders(*folders)
        (folder / name).unlink()


def test_a_result_whose_name_is_spelt_otherwise_is_told_its_frame(folders: tuple[Path, Path]) -> None:
    (folders[1] / "000001.txt").rename(folders[1] / "1.txt")
    with pytest.raises(InputError, match=r"for every result, got none for 1 \(is it 000001\?\): add"):
        evaluate_folders(*folders)


def test_only_the_order_of_scores_matters(folders: tuple[Path, Path]) -> None:
    before = evaluate_folders(*folders).rows()
    for index, path in enumerate(sorted(folders[1].iterdir())):
        path.write_text(f"{CAR} {-(10.0 ** (10 + index))}\n")
    assert evaluate_folders(*folders).rows() == before


def test_starts_without_torch() -> None:
    program = "import sys, monoskd.engine.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
