import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monoskd.cli import main
from monoskd.errors import InputError
from monoskd.importers.recording import ClassMap, Frame, Picture, Recording
from monoskd.importers.write import import_recording
from monoskd.kitti.io import Calibration, read_split, read_velodyne
from monoskd.kitti.layout import KittiLayout
from monoskd.objects import Objects

P2 = np.array([[50.0, 0, 16, 0], [0, 50, 10, 0], [0, 0, 1, 0]])


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainPicture(Picture):
    """A picture with a tilt and no objects; its sweep is a text file of one number."""

    tilt: float = 0.0

    def read(self, classes: ClassMap) -> Frame:
        objects = Objects.empty() if self.labelled else None
        return Frame(Calibration(P2=P2), objects, tilt_deg=self.tilt)

    def points(self) -> np.ndarray:
        return np.full((3, 4), float(self.sweep.read_text()))


def recording(folder: Path, *, scenes: int = 6, frames: int = 2, cameras: str = "ab", **options) -> Recording:
    """`scenes` scenes with `frames` frames of each camera; the cameras of a frame share a sweep."""
    pictures = []
    for scene in range(scenes):
        for index in range(frames):
            sweep = folder / f"{scene}-{index}.txt"
            sweep.parent.mkdir(parents=True, exist_ok=True)
            sweep.write_text(f"{scene}.{index}")
            for camera in cameras:
                path = folder / f"{scene}-{index}-{camera}.png"
                Image.new("RGB", (32, 20), (scene, index, ord(camera))).save(path)
                one = {"image": path, "origin": path.stem, "scene": f"scene {scene}", "camera": camera}
                pictures.append(PlainPicture(**one, sweep=sweep, convert=True, **options))
    return Recording(format="plain", pictures=pictures, classes={}, categories=())


def frames_of(out: Path) -> list[dict[str, str]]:
    with (out / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(out: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of every file, the record aside, which says how long it took."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "import.json"]
    return {str(path.relative_to(out)): (path.lstat().st_mtime_ns, path.read_bytes()) for path in files}


def test_splits_are_by_scene_and_every_fifth_is_held_out(tmp_path):
    report = import_recording(recording(tmp_path / "in"), tmp_path / "out", source="in", workers=1)
    rows = frames_of(tmp_path / "out")
    assert {row["scene"] for row in rows if row["split"] == "val"} == {"scene 0", "scene 5"}
    assert report.frames == {"val": 8, "train": 16}
    layout = KittiLayout(tmp_path / "out")
    assert read_split(layout.split("val")) == [row["frame"] for row in rows if row["split"] == "val"]
    assert "every fifth is: scene 0, scene 5" in str(report)


def test_scenes_may_be_chosen(tmp_path):
    report = import_recording(recording(tmp_path / "in"), tmp_path / "out", source="in", val=["scene 3"], workers=1)
    assert report.frames == {"train": 20, "val": 4}
    assert not report.warnings
    with pytest.raises(
        InputError, match=r"val: expected scenes of this recording, got 'scene 33': did you mean scene 3"
    ):
        import_recording(recording(tmp_path / "in"), tmp_path / "o", source="in", val=["scene 33"])


def test_every_takes_each_nth_picture_of_a_camera_in_a_scene(tmp_path):
    wanted = recording(tmp_path / "in", scenes=2, frames=5)
    import_recording(wanted, tmp_path / "out", source="in", every=2, cameras=["b"], workers=1)
    assert [row["origin"] for row in frames_of(tmp_path / "out")] == [
        "0-0-b",
        "0-2-b",
        "0-4-b",
        "1-0-b",
        "1-2-b",
        "1-4-b",
    ]
    with pytest.raises(InputError, match="every: expected to take each 1st"):
        import_recording(wanted, tmp_path / "o", source="in", every=0)


def test_pictures_are_linked_and_a_shared_sweep_is_converted_once(tmp_path):
    import_recording(recording(tmp_path / "in", scenes=1), tmp_path / "out", source="in", workers=1)
    layout = KittiLayout(tmp_path / "out")
    assert layout.image("000001").readlink() == (tmp_path / "in" / "0-0-b.png").resolve()
    assert layout.velodyne("000001").readlink() == Path("000000.bin")
    np.testing.assert_array_equal(read_velodyne(layout.velodyne("000003")), np.full((3, 4), np.float32(0.1)))


def test_a_second_call_writes_nothing_and_workers_make_no_difference(tmp_path):
    source = recording(tmp_path / "in")
    import_recording(source, tmp_path / "one", source="in", workers=1)
    import_recording(source, tmp_path / "two", source="in", workers=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert {name: data for name, (_, data) in one.items()} == {name: data for name, (_, data) in two.items()}
    import_recording(source, tmp_path / "one", source="in", workers=1)
    assert contents(tmp_path / "one") == one


def test_an_interrupted_import_goes_on(tmp_path):
    source = recording(tmp_path / "in")

    def interrupt(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_recording(source, tmp_path / "out", source="in", workers=1, progress=interrupt)
    before = contents(tmp_path / "out")
    assert not (tmp_path / "out" / "frames.csv").exists()
    seen = []
    import_recording(source, tmp_path / "out", source="in", workers=1, progress=lambda *state: seen.append(state))
    assert seen == [(done, 24) for done in range(1, 25)]
    after = contents(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert len(frames_of(tmp_path / "out")) == 24


def test_a_label_changes_only_with_what_it_says(tmp_path):
    source = recording(tmp_path / "in", scenes=1)
    import_recording(source, tmp_path / "out", source="in", workers=1)
    label = KittiLayout(tmp_path / "out").label("000002")
    label.write_text("damaged")
    import_recording(source, tmp_path / "out", source="in", workers=1)
    assert label.read_text() == ""


def test_another_import_into_the_same_folder_is_refused(tmp_path):
    source = recording(tmp_path / "in", scenes=2)
    import_recording(source, tmp_path / "out", source="in", workers=1)
    with pytest.raises(InputError, match=r"import\.json: expected the same import as before, got other every 2, bef"):
        import_recording(source, tmp_path / "out", source="in", every=2)
    with pytest.raises(InputError, match="expected the same import as before, got other pictures"):
        import_recording(recording(tmp_path / "in", scenes=3), tmp_path / "out", source="in")
    (tmp_path / "out" / "import.json").write_text("[]")
    with pytest.raises(InputError, match=r"import\.json: expected the record of an import"):
        import_recording(source, tmp_path / "out", source="in")


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="out: expected an empty or new folder, got one with other files"):
        import_recording(recording(tmp_path / "in", scenes=1), tmp_path / "out", source="in")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_missing_pictures_and_sweeps_are_counted_and_may_come_later(tmp_path):
    source = recording(tmp_path / "in", scenes=2)
    shutil.move(tmp_path / "in" / "0-0-a.png", tmp_path / "kept.png")
    (tmp_path / "in" / "1-1.txt").unlink()
    report = import_recording(source, tmp_path / "out", source="in", workers=1)
    assert report.left_out == {"pictures that are not there": 1, "sweeps that are not there": 2}
    layout = KittiLayout(tmp_path / "out")
    assert layout.frames("image_2") == [f"{index:06d}" for index in range(1, 8)]
    assert layout.frames("velodyne")[-1] == "000005"
    shutil.move(tmp_path / "kept.png", tmp_path / "in" / "0-0-a.png")
    assert import_recording(source, tmp_path / "out", source="in", workers=1).frames == {"val": 4, "train": 4}
    assert read_split(layout.split("val"))[0] == "000000"


def test_a_recording_without_pictures_is_refused(tmp_path):
    source = recording(tmp_path / "in", scenes=1)
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(
        InputError, match=r"in: expected a picture to import, got none \(pictures that are not there 4\)"
    ):
        import_recording(source, tmp_path / "out", source="in")


def test_a_camera_that_leans_is_warned_of_and_its_angle_is_listed(tmp_path):
    report = import_recording(
        recording(tmp_path / "in", scenes=1, tilt=5.5), tmp_path / "out", source="in", cameras=["a"], workers=1
    )
    assert (report.tilted, report.most_tilt_deg) == (2, 5.5)
    assert "warning: 2 frames are from a camera that leans more than 5 degrees (up to 5.5)" in str(report)
    assert frames_of(tmp_path / "out")[0]["tilt_deg"] == "5.500"
    straight = import_recording(recording(tmp_path / "in", scenes=1, tilt=4.9), tmp_path / "o", source="in", workers=1)
    assert "leans" not in str(straight)


def test_more_pictures_than_six_digits_can_number_are_refused(tmp_path):
    source = recording(tmp_path / "in", scenes=1, number=1_000_000)
    with pytest.raises(InputError, match="expected numbers of six digits to suffice, got 4 pictures: raise --every"):
        import_recording(source, tmp_path / "out", source="in")


def test_a_picture_of_another_kind_is_named(tmp_path):
    source = recording(tmp_path / "in", scenes=1, frames=1, cameras="a")
    (tmp_path / "in" / "0-0-a.png").rename(tmp_path / "in" / "0-0-a.tga")
    one = PlainPicture(image=tmp_path / "in" / "0-0-a.tga", origin="x", scene="s", camera="a")
    with pytest.raises(InputError, match=r"0-0-a\.tga: expected \.png, \.jpg, .*, got another kind"):
        import_recording(
            Recording(format="plain", pictures=[one], classes={}, categories=()),
            tmp_path / "out",
            source="in",
            workers=1,
        )
    assert source.pictures


# --- the command ---


def test_the_command_imports_and_says_what_it_left_out(nuscenes, tmp_path, capsys):
    (tmp_path / "map.yaml").write_text("vehicle.bicycle: null\n")
    words = ["import", "nuscenes", str(nuscenes.root), str(tmp_path / "out"), "--classes", str(tmp_path / "map.yaml")]
    assert main([*words, "--workers", "1", "--val", "scene-b"]) == 0
    out = capsys.readouterr().out
    assert "5 frames (train 2, val 2, unlabelled 1); objects: Car 4" in out
    assert "left out: pictures without labels in a scene of val 1, objects of vehicle.bicycle/cycle.with_rider 4" in out
    record = json.loads((tmp_path / "out" / "import.json").read_text())
    assert (record["schema"], record["arguments"]["format"]) == ("monoskd/import/1", "nuscenes")
    assert record["arguments"]["classes"] == {"vehicle.bicycle": None}
    assert main(["doctor", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["waymo", "a", "b"], "argument FORMAT: invalid choice: 'waymo'"),
        (["nuscenes", "a", "b"], "a: expected one folder of tables such as v1.0-trainval, got none"),
        (["nuscenes", "a", "b", "--mapping", "c"], "expected --mapping and --kitti with kitti-raw only, got nuscenes"),
        (["kitti-raw", "a", "b", "--every", "0"], "argument --every"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(words, message, capsys):
    assert main(["import", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
