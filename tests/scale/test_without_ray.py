"""What needs no Ray: the line that says what to install, and the task of an actor, here in this process."""

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from monoskd.errors import InputError
from monoskd.inference.cameras import CameraSource
from monoskd.inference.predict import predict_source
from monoskd.inference.predictor import Predictor
from monoskd.scale.predict import predict_on_ray
from monoskd.scale.spread import spread


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray: expected Ray Data, got none: `pip install 'monoskd\[scale\]'`"):
        list(spread(lambda: abs, [1], address="local"))


def test_the_task_writes_the_files_of_predict(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monoskd.scale.predict.spread", lambda make, items, **_: map(make(), items))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, size in (("a", (60, 90)), ("b", (40, 120)), ("wide", (4, 1600))):
        cv2.imwrite(str(pictures / f"{name}.png"), np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))
    given: dict[str, Any] = {"cameras": CameraSource(focal_px=100.0), "score": 0.0, "draw": True}
    predictor = Predictor(model)
    with pytest.raises(InputError) as plain:
        predict_source(predictor, pictures, out=tmp_path / "plain", **given)
    with pytest.raises(InputError) as tasks:
        predict_on_ray(lambda device: predictor, pictures, address="", model=model, out=tmp_path / "tasks", **given)
    assert "expected a drawing of at most 65500 pixels each way" in str(plain.value)
    assert str(tasks.value) == str(plain.value).replace(str(tmp_path / "plain"), str(tmp_path / "tasks"))
    written = {path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.*")}
    assert {str(path) for path in written} == {
        *("kitti/a.txt", "kitti/b.txt", "drawn/a.jpg", "drawn/b.jpg", "detections.json")
    }
    for path in written:
        assert (tmp_path / "tasks" / path).read_bytes() == (tmp_path / "plain" / path).read_bytes()
