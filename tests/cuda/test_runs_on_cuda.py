"""`train`, `--resume`, `predict` and `evaluate --model` end to end on a GPU."""

import csv
import json
from pathlib import Path

import pytest
import torch

from monoskd.cli import main
from monoskd.models.weights import load_model

pytestmark = pytest.mark.cuda

NETWORK = {
    "pretrained": False,
    "backbone_arguments": {"channels": [4, 4, 8, 8, 8, 8]},
    "head_width": 8,
    "input_size": [128, 64],
}


def test_a_run_from_training_to_evaluation(
    device: torch.device, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "data": {"root": str(scenes), "batch_size": 2, "workers": 0},
        "out": str(tmp_path / "teacher"),
        "detector": {"class_path": "monoskd.models.DidM3D", "init_args": {"config": {**NETWORK, "modality": "depth"}}},
        "optimizer": {"schedule": {"warmup_epochs": 1}},
        "epochs": 1,
        "validation": {"every": 1},
        "log_every": 1,
        "accelerator": {"cuda": "gpu", "cpu": "cpu"}[device.type],
    }
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(document))
    assert main(["train", str(config)]) == 0
    terms = {"rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss"}}}
    teacher = str(tmp_path / "teacher" / "model.safetensors")
    document["distillation"] = {"teacher": teacher, "taps": [{"student": "neck.4"}], "terms": terms, "record_every": 1}
    document["detector"] = {"class_path": "monoskd.models.DidM3D", "init_args": {"config": NETWORK}}
    document["precision"] = "bf16-mixed"
    config.write_text(json.dumps(document))
    run = tmp_path / "student"
    assert main(["train", str(config), "--out", str(run)]) == 0
    assert main(["train", str(config), "--out", str(run), "--epochs", "2", "--resume", str(run)]) == 0
    with (run / "metrics.csv").open() as file:
        steps = {row["step"] for row in csv.DictReader(file) if row["train/loss"]}
    assert steps == {"0", "1", "2", "3"}
    model = run / "model.safetensors"
    assert all(value.isfinite().all() for value in load_model(model).state_dict().values())
    if device.type == "cuda":
        assert "cuda" in json.loads((run / "manifest.json").read_text())["device"]
    pictures, calibration = scenes / "training" / "image_2", scenes / "training" / "calib"
    network = ["--model", str(model), "--device", device.type, "--batch-size", "2"]
    where = ["--calib", str(calibration), "--out", str(tmp_path / "predictions"), "--score", "0"]
    assert main(["predict", str(pictures), *network, *where]) == 0
    assert len([*(tmp_path / "predictions" / "kitti").glob("*.txt")]) == 6
    assert main(["evaluate", *network, "--data", str(scenes), "--json", str(tmp_path / "ap.json")]) == 0
    assert json.loads((tmp_path / "ap.json").read_text())["frames"] == 2
