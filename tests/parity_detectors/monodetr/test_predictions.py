"""KITTI text of whole pictures against that of the original implementation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from monoskd.geometry.heading import wrap
from monoskd.inference.predictor import Predictor
from monoskd.kitti.io import read_calibration, read_image, read_objects, write_objects
from monoskd.models.monodetr import MonoDETR
from monoskd.models.monodetr.structures import MonoDETROutput
from monoskd.objects import Objects
from monoskd.structures import Batch, Detections

pytestmark = pytest.mark.kitti

Arrays = dict[str, np.ndarray]
HEADS = {"logits": "pred_logits", "boxes": "pred_boxes", "size_3d": "pred_3d_dim", "heading": "pred_angle"}

PIXELS, METRES, RADIANS, SCORE = 0.1, 0.01, 0.002, 1e-3  # a transformer enlarges rounding


def paired(ours: Detections, recording: Path, out: Path) -> tuple[Objects, Objects, int]:
    """Our result file, the recorded one with its rows in the order of ours, and how many of its rows are there."""
    write_objects(out / recording.name, ours.to_objects(), decimals=6)
    rows, theirs = read_objects(out / recording.name, scored=True), read_objects(recording, scored=True)
    gaps = np.abs(rows.boxes_2d[:, None] - theirs.boxes_2d[None]).sum(-1)
    order = (gaps + 1e6 * (rows.names[:, None] != theirs.names[None])).argmin(1)
    assert len(rows) == len(theirs), recording.stem
    return rows, theirs[order], len(np.unique(order))


def errors(ours: Objects, theirs: Objects) -> NDArray[np.float64]:
    """The largest error of each row, in units of its tolerance."""
    gaps = [np.abs(ours.boxes_2d - theirs.boxes_2d) / PIXELS, np.abs(ours.dimensions - theirs.dimensions) / METRES]
    gaps += [np.abs(ours.bottom - theirs.bottom) / METRES, np.abs(ours.scores - theirs.scores)[:, None] / SCORE]
    gaps += [np.abs(wrap(getattr(ours, name) - getattr(theirs, name)))[:, None] / RADIANS for name in ("alpha", "yaw")]
    gaps += [np.where(ours.names != theirs.names, np.inf, 0)[:, None]]
    worst: NDArray[np.float64] = np.concatenate(gaps, 1).max(1)
    return worst


def test_text_of_recorded_outputs_agrees(
    golden_detectors: Path,
    detector: MonoDETR,
    recorded: Callable[[str], Arrays],
    batch_of: Callable[[object], Batch],
    tmp_path: Path,
) -> None:
    """Ten times nearer than the whole path, in which a transformer enlarges rounding."""
    said, frames = recorded("inference"), recorded("losses_plain")["frames"].tolist()
    heads = {ours: torch.from_numpy(said[theirs]) for ours, theirs in HEADS.items()}
    heads["depth"], heads["depth_log_std"] = torch.from_numpy(said["pred_depth"]).split(1, -1)
    found = detector.decode(MonoDETROutput({}, heads), batch_of(frames).views("rgb"))
    compared = 0
    for frame, detections, rows in zip(frames, found, said["detections"], strict=True):
        path = golden_detectors / "monodetr" / "predictions" / f"{frame.split('_')[0]}.txt"
        if not path.is_file():
            continue
        compared += 1
        ours, theirs, count = paired(detections, path, tmp_path)
        assert count == len(ours), frame
        assert 10 * errors(ours, theirs).max() < 1, frame
        order = detections.heat.argsort(descending=True)
        np.testing.assert_array_equal(detections.labels[order], rows[:, 0])
        np.testing.assert_allclose(detections.heat[order], rows[:, 1], rtol=0, atol=1e-6)
        np.testing.assert_allclose(1 / detections.depth_std_m[order], rows[:, 36], rtol=1e-5)
    if not compared:
        pytest.skip(f"no recorded predictions of {', '.join(frames)}")


@pytest.mark.slow
def test_text_of_the_whole_path_agrees(golden_detectors: Path, detector: MonoDETR, kitti: Path, tmp_path: Path) -> None:
    """From the image file on."""
    recordings = sorted((golden_detectors / "monodetr" / "predictions").glob("*.txt"))
    if not recordings:
        pytest.skip(f"no recorded predictions in {golden_detectors / 'monodetr' / 'predictions'}")
    predict = Predictor(detector)
    for path in recordings:
        image = read_image(kitti / "training" / "image_2" / f"{path.stem}.png")
        camera = read_calibration(kitti / "training" / "calib" / path.name).camera
        ours, theirs, rows = paired(predict(image, camera), path, tmp_path)
        assert rows == len(ours), path.stem
        assert errors(ours, theirs).max() < 1, path.stem
