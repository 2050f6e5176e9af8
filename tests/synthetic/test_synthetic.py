"""Rendered data sets: files, splits, the same bytes for any number of workers, bad arguments."""

from pathlib import Path

import numpy as np
import pytest

from monoskd.errors import InputError
from monoskd.kitti.io import read_calibration, read_image, read_objects, read_split, read_velodyne
from monoskd.kitti.layout import KittiLayout
from monoskd.synthetic import render_frame, synthesize

SIZE = (96, 32)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rendered") / "data"
    synthesize(root, frames=4, val=0.25, seed=3, size=SIZE, workers=1)
    return root


def test_files_are_the_same_bytes_for_any_number_of_workers(rendered: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", frames=4, val=0.25, seed=3, size=SIZE, workers=2)
    assert contents(tmp_path / "again") == contents(rendered)


def test_interrupted_run_goes_on_where_it_stopped(rendered: Path, tmp_path: Path) -> None:
    root, done = tmp_path / "data", []

    def stop_at_two(count: int, total: int) -> None:
        done.append((count, total))
        if count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(root, frames=4, val=0.25, seed=3, size=SIZE, workers=1, progress=stop_at_two)
    synthesize(root, frames=4, val=0.25, seed=3, size=SIZE, workers=1, progress=lambda *at: done.append(at))
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert contents(root) == contents(rendered)


def test_files_read_back_as_they_were_rendered(rendered: Path) -> None:
    frame, training = render_frame(3, 1, SIZE), rendered / "training"
    np.testing.assert_array_equal(read_image(training / "image_2/000001.png"), frame.image)
    np.testing.assert_array_equal(read_velodyne(training / "velodyne/000001.bin"), frame.points)
    calibration = read_calibration(training / "calib/000001.txt", require=["R0_rect", "Tr_velo_to_cam"])
    np.testing.assert_allclose(calibration.P2, frame.calibration.P2, rtol=1e-12)
    objects = read_objects(training / "label_2/000001.txt")
    assert list(objects.names) == list(frame.objects.names)
    np.testing.assert_allclose(objects.bottom, frame.objects.bottom, atol=0.0051)
    np.testing.assert_allclose(objects.boxes_2d, frame.objects.boxes_2d, atol=0.0051)


def test_splits_share_the_frames_between_them(rendered: Path) -> None:
    train, val, both = (read_split(rendered / f"ImageSets/{name}.txt") for name in ("train", "val", "trainval"))
    assert (len(train), len(val)) == (3, 1)
    assert sorted(train + val) == both == ["000000", "000001", "000002", "000003"]


@pytest.mark.parametrize(("frames", "val", "expected"), [(1, 0.9, (1, 0)), (2, 0.1, (1, 1)), (3, 0.0, (3, 0))])
def test_small_splits_are_not_empty(tmp_path: Path, frames: int, val: float, expected: tuple[int, int]) -> None:
    synthesize(tmp_path / "data", frames=frames, val=val, size=(32, 32), workers=1)
    assert tuple(len(read_split(tmp_path / f"data/ImageSets/{name}.txt")) for name in ("train", "val")) == expected


def test_every_frame_and_seed_differs_and_size_does_not_matter_to_the_scene() -> None:
    first, second, other = render_frame(0, 0, SIZE), render_frame(0, 1, SIZE), render_frame(1, 0, SIZE)
    assert not np.array_equal(first.image, second.image)
    assert not np.array_equal(first.image, other.image)
    large = render_frame(0, 0, (192, 64))
    np.testing.assert_array_equal(large.points, first.points)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 0}, "frames: expected 1 to"),
        ({"val": 1.0}, "val: expected a share"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"size": (416, 8)}, "size: expected 32 to 4096 pixels each way, got 416x8"),
        ({"workers": 0}, "workers: expected 1 or more"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(tmp_path / "data", **{"frames": 2, "size": SIZE, **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()


def test_folder_with_other_data_is_left_alone(rendered: Path, tmp_path: Path) -> None:
    before = contents(rendered)
    with pytest.raises(InputError, match="expected the same frames, val, seed and size"):
        synthesize(rendered, frames=5, val=0.25, seed=3, size=SIZE)
    assert contents(rendered) == before
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="expected an empty or new folder"):
        synthesize(tmp_path, frames=1, size=SIZE)
    assert contents(tmp_path) == {"mine.txt": b"precious"}


def test_frames_without_labels_are_further_frames_whose_truth_is_held_back(tmp_path: Path) -> None:
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    synthesize(plain, frames=3, val=1 / 3, seed=5, size=(64, 32), workers=1)
    synthesize(mixed, frames=3, val=1 / 3, seed=5, size=(64, 32), workers=1, unlabelled=2)
    for path in (path for path in plain.rglob("*") if path.is_file() and path.name != "synthetic.json"):
        assert (mixed / path.relative_to(plain)).read_bytes() == path.read_bytes()
    layout = KittiLayout(mixed)
    assert read_split(layout.split("unlabelled")) == ["000003", "000004"]
    for frame in ("000003", "000004"):
        assert layout.held_back(frame).is_file()
        assert not layout.label(frame).exists()
        assert layout.velodyne(frame).is_file()
    with pytest.raises(InputError, match="got others: choose another folder"):
        synthesize(mixed, frames=3, val=1 / 3, seed=5, size=(64, 32), workers=1)
    told: list[tuple[int, int]] = []
    synthesize(
        mixed,
        frames=3,
        val=1 / 3,
        seed=5,
        size=(64, 32),
        workers=1,
        unlabelled=2,
        progress=lambda *now: told.append(now),
    )
    assert told == []


def test_focal_lengths_are_drawn_for_each_frame(tmp_path: Path) -> None:
    synthesize(tmp_path / "data", frames=4, seed=3, size=SIZE, focal_px=(40.0, 90.0), workers=1)
    layout = KittiLayout(tmp_path / "data")
    cameras = [read_calibration(layout.calibration(f"{index:06d}")).camera for index in range(4)]
    focal_px = [float(camera.focal_px) for camera in cameras]
    assert len({round(focal) for focal in focal_px}) > 1
    assert all(40 <= focal <= 90 for focal in focal_px)
    for index, camera in enumerate(cameras):
        frame = render_frame(3, index, SIZE, (40.0, 90.0))
        assert np.allclose(frame.calibration.camera.P, camera.P)
        objects = frame.objects[frame.objects.truncation == 0]
        corners = camera.project(objects.boxes_3d.corners())  # the 2D box is the mesh's, which fills the 3D box
        assert (corners.min(1) < objects.boxes_2d[:, :2] + 2).all()
        assert (corners.max(1) > objects.boxes_2d[:, 2:] - 2).all()
    street = render_frame(3, 0, SIZE)
    assert np.array_equal(street.points, render_frame(3, 0, SIZE, (40.0, 90.0)).points)  # the lens moves nothing
    with pytest.raises(InputError, match="the same focal lengths, as asked for"):
        synthesize(tmp_path / "data", frames=4, seed=3, size=SIZE, focal_px=(40.0, 91.0), workers=1)
    with pytest.raises(InputError, match=r"focal: expected the lowest and the highest.*got 90,40"):
        synthesize(tmp_path / "other", frames=4, size=SIZE, focal_px=(90.0, 40.0))
