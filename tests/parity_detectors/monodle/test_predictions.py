"""KITTI text of the whole path, from image file to result file, against that of the original implementation."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from monoskd.geometry.heading import wrap
from monoskd.inference.predictor import Predictor
from monoskd.kitti.io import read_calibration, read_image, read_objects, write_objects
from monoskd.models.monodle import MonoDLE
from monoskd.objects import Objects
from monoskd.structures import Detections

pytestmark = pytest.mark.kitti

PIXELS, METRES, RADIANS, SCORE = 0.01, 0.01, 0.001, 1e-4


@pytest.fixture(scope="module")
def recordings(golden_detectors: Path) -> list[Path]:
    paths = sorted((golden_detectors / "monodle" / "predictions").glob("*.txt"))
    if not paths:
        pytest.skip(f"no recorded predictions in {golden_detectors / 'monodle' / 'predictions'}")
    return paths


def paired(ours: Detections, recording: Path, out: Path) -> tuple[Objects, Objects, int]:
    """Our result file, the recorded one with its rows in the order of ours, and how many of its rows are there."""
    write_objects(out / recording.name, ours.to_objects(), decimals=6)
    rows, theirs = read_objects(out / recording.name, scored=True), read_objects(recording, scored=True)
    gaps = np.abs(rows.boxes_2d[:, None] - theirs.boxes_2d[None]).sum(-1)
    other = rows.names[:, None] != theirs.names[None]
    order = (gaps + 1e6 * other).argmin(1)
    assert len(rows) == len(theirs), recording.stem
    return rows, theirs[order], len(np.unique(order))


def errors(ours: Objects, theirs: Objects) -> NDArray[np.float64]:
    """The largest error of each row, in units of its tolerance."""
    gaps = [(ours.names != theirs.names)[:, None] * np.inf] if (ours.names != theirs.names).any() else []
    gaps += [np.abs(ours.boxes_2d - theirs.boxes_2d) / PIXELS, np.abs(ours.dimensions - theirs.dimensions) / METRES]
    gaps += [np.abs(ours.bottom - theirs.bottom) / METRES, np.abs(ours.scores - theirs.scores)[:, None] / SCORE]
    gaps += [np.abs(wrap(getattr(ours, name) - getattr(theirs, name)))[:, None] / RADIANS for name in ("alpha", "yaw")]
    worst: NDArray[np.float64] = np.concatenate(gaps, 1).max(1)
    return worst


def test_text_of_the_whole_path_agrees(recordings: list[Path], detector: MonoDLE, kitti: Path, tmp_path: Path) -> None:
    """From the image file on."""
    predict = Predictor(detector)
    for path in recordings:
        image = read_image(kitti / "training" / "image_2" / f"{path.stem}.png")
        camera = read_calibration(kitti / "training" / "calib" / path.name).camera
        ours, theirs, rows = paired(predict(image, camera), path, tmp_path)
        assert rows == len(ours), path.stem
        assert errors(ours, theirs).max() < 1, path.stem
