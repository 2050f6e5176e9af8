"""KITTI text of the whole path, from image file to result file, against that of the original implementation."""

from pathlib import Path

import numpy as np
import pytest

from monoskd.geometry.heading import wrap
from monoskd.inference.predictor import Predictor
from monoskd.kitti.io import read_calibration, read_image, read_objects, write_objects
from monoskd.models.monodle import MonoDLE
from monoskd.objects import Objects

pytestmark = pytest.mark.kitti

PIXELS, METRES, RADIANS = 0.01, 0.01, 0.001

Pairs = list[tuple[str, Objects, Objects]]


@pytest.fixture(scope="module")
def pairs(
    golden_detectors: Path, kitti: Path, detector: MonoDLE, tmp_path_factory: pytest.TempPathFactory
) -> Pairs:
    """(frame, our result file, the recorded one in the order of ours) of every recorded frame."""
    recordings = sorted((golden_detectors / "monodle" / "predictions").glob("*.txt"))
    if not recordings:
        pytest.skip(f"no recorded predictions in {golden_detectors / 'monodle' / 'predictions'}")
    predict, out = Predictor(detector), tmp_path_factory.mktemp("predictions")
    found = []
    for path in recordings:
        image = read_image(kitti / "training" / "image_2" / f"{path.stem}.png")
        camera = read_calibration(kitti / "training" / "calib" / path.name).camera
        write_objects(out / path.name, predict(image, camera).to_objects(), decimals=6)
        ours, theirs = read_objects(out / path.name, scored=True), read_objects(path, scored=True)
        assert len(ours) == len(theirs), path.stem
        gaps = np.abs(ours.boxes_2d[:, None] - theirs.boxes_2d[None]).sum(-1)
        other = ours.names[:, None] != theirs.names[None]
        found.append((path.stem, ours, theirs[(gaps + 1e6 * other).argmin(1)]))
    return found


def test_the_same_objects_are_found_each_once(pairs: Pairs) -> None:
    for frame, ours, theirs in pairs:
        assert (ours.names == theirs.names).all(), frame
        assert len(np.unique(theirs.boxes_2d, axis=0)) == len(ours), frame


@pytest.mark.parametrize(
    ("field", "tolerance"), [("boxes_2d", PIXELS), ("dimensions", METRES), ("bottom", METRES), ("scores", 1e-4)]
)
def test_the_numbers_agree(field: str, tolerance: float, pairs: Pairs) -> None:
    for frame, ours, theirs in pairs:
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=0, atol=tolerance, err_msg=frame)


@pytest.mark.parametrize("field", ["alpha", "yaw"])
def test_the_angles_agree(field: str, pairs: Pairs) -> None:
    for frame, ours, theirs in pairs:
        turn = wrap(getattr(ours, field) - getattr(theirs, field))
        np.testing.assert_allclose(turn, 0, atol=RADIANS, err_msg=frame)
