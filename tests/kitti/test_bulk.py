from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monoskd.errors import InputError
from monoskd.kitti.bulk import read_objects_folder
from monoskd.kitti.io import read_objects
from monoskd.objects import Objects

LABEL = "Car 0.00 1 -1.57 10.5 20.25 30 40.125 1.5 1.6 3.9 1.0 1.5 20.0 -1.55"
RESULT = f"{LABEL} 0.75"


def assert_same(ours: Objects, careful: Objects) -> None:
    for field in fields(Objects):
        a, b = getattr(ours, field.name), getattr(careful, field.name)
        assert (a is None) == (b is None), field.name
        if b is not None:
            np.testing.assert_array_equal(a, b, field.name)


def folder_of(tmp_path: Path, *texts: str) -> tuple[Path, list[str]]:
    names = [f"{index:06d}" for index in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
    return tmp_path, names


lines = st.lists(st.sampled_from([LABEL, LABEL.replace("Car", "DontCare"), "", "   "]), max_size=4)


@given(texts=st.lists(lines, min_size=1, max_size=4), ending=st.sampled_from(["\n", "\r\n"]))
def test_reads_what_the_careful_parser_reads(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], ending: str
) -> None:
    folder, names = folder_of(tmp_path_factory.mktemp("labels"), *(ending.join(text) for text in texts))
    for name, ours in zip(names, read_objects_folder(folder, names), strict=True):
        assert len(ours) == len(read_objects(folder / f"{name}.txt"))
        if len(ours):
            assert_same(ours, read_objects(folder / f"{name}.txt"))


def test_files_of_labels_and_of_results_may_mix(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, LABEL, f"{RESULT}\n{RESULT}")
    label, result = read_objects_folder(folder, names)
    assert label.scores is None
    assert result.scores is not None
    assert result.scores.tolist() == [0.75, 0.75]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LABEL.replace("20.25", "nan"), r"000001.txt, line 2, field 6 \(top\): expected a finite number, got 'nan'"),
        (LABEL.replace("20.25", "inf"), r"000001.txt, line 2, field 6"),
        (LABEL.replace("20.25", "1,5"), r"000001.txt, line 2, field 6"),
        (LABEL.replace("20.25", "2_0"), r"000001.txt, line 2, field 6 \(top\): expected a finite number, got '2_0'"),
        (LABEL.replace("20.25", "\u0662\u0660"), r"000001.txt, line 2, field 6"),
        (LABEL.replace(" 1 ", " 0.5 "), r"000001.txt, line 2, field 3 \(occluded\): expected a whole number"),
        (LABEL[:-6], r"000001.txt, line 2: expected .* got 14"),
        (f"{LABEL} 1 2", r"000001.txt, line 2: expected .* got 17"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    folder, names = folder_of(tmp_path, LABEL, f"{LABEL}\n{line}\n{LABEL}")
    with pytest.raises(InputError, match=message):
        read_objects_folder(folder, names)


def test_shifted_fields_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, f"{LABEL} 7\n{LABEL[:-6]}", LABEL)
    with pytest.raises(InputError, match=r"000000\.txt, line 2"):
        read_objects_folder(folder, names)


def test_a_label_is_no_result(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, LABEL)
    with pytest.raises(InputError, match=r"expected 16 fields \(a result\), got 15"):
        read_objects_folder(folder, names, scored=True)


def test_a_16th_field_of_a_label_is_not_used(tmp_path: Path) -> None:
    for texts in ((RESULT, RESULT), (RESULT, LABEL), (LABEL, f"{LABEL}\n{RESULT}")):
        folder, names = folder_of(tmp_path, *texts)
        for name, ours in zip(names, read_objects_folder(folder, names, scored=False), strict=True):
            assert ours.scores is None
            assert_same(ours, read_objects(folder / f"{name}.txt", scored=False))


def test_names_in_any_case_and_scores_of_any_size_are_read_alike(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, f"{LABEL.replace('Car', 'cAR')} -1e10")
    (ours,) = read_objects_folder(folder, names, scored=True)
    assert ours.names.tolist() == ["Car"]
    assert_same(ours, read_objects(folder / f"{names[0]}.txt", scored=True))
