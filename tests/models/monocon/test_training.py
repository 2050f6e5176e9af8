"""MonoCon through the command line: teacher, student, distillation with frames without labels, resuming."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from monoskd.cli import main
from monoskd.kitti.layout import KittiLayout
from monoskd.models.monocon import MonoCon
from monoskd.models.weights import load_model

CLASS = "monoskd.models.monocon"
SMALL: dict[str, Any] = {
    "backbone_arguments": {"channels": [8, 8, 8, 16, 16, 32]},
    "backbone_early_stride": True,
    "pretrained": False,
    "head_width": 16,
    "input_size": [416, 128],
}


def config(root: Path, out: Path, *, modality: str | None, **entries: Any) -> str:
    document: dict[str, Any] = {
        "data": {"root": str(root), "batch_size": 2, "workers": 0, "min_height_px": 5, **entries.pop("data", {})},
        "out": str(out),
        "epochs": 2,
        "optimizer": {"schedule": {"warmup_epochs": 1}},
        "validation": {"every": 2},
        "log_every": 1,
        **entries,
    }
    if modality is not None:
        document["detector"] = {
            "class_path": f"{CLASS}.MonoCon",
            "init_args": {"config": SMALL | {"modality": modality}},
        }
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_it_is_trained_distilled_resumed_evaluated_and_used(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, modality in (("teacher", "depth"), ("baseline", "rgb")):
        assert main(["train", config(mixed, tmp_path / name, modality=modality)]) == 0, capsys.readouterr().err
    distillation = {
        "teacher": str(tmp_path / "teacher" / "model.safetensors"),
        "taps": [{"student": "neck.8", "adapter": "conv"}],
        "terms": {
            "rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss"}},
            "affinity": {"loss": {"class_path": "monoskd.distill.AffinityLoss"}},
            "head": {"loss": {"class_path": f"{CLASS}.teaching.HeadLoss"}, "between": "output"},
            "response": {"loss": {"class_path": f"{CLASS}.teaching.ResponseLoss"}, "between": "targets"},
        },
    }
    run = tmp_path / "student"
    start = str(tmp_path / "baseline" / "model.safetensors")
    unlabelled = {"unlabelled": {"threshold": 0.0}}
    file = config(mixed, run, modality=None, start=start, distillation=distillation, data=unlabelled)
    assert main(["train", file, "--epochs", "1"]) == 0, capsys.readouterr().err
    assert main(["train", file, "--resume", str(run)]) == 0, capsys.readouterr().err
    log = (run / "metrics.csv").read_text()
    for name in ("train/distill_response", "train/distill_head", "val/depth_error_m_median"):
        assert name in log

    model = run / "model.safetensors"
    loaded = load_model(model)
    assert isinstance(loaded, MonoCon)
    assert loaded.input_focal_px is not None
    before, after = (network.state_dict()["heads.depth.last.weight"] for network in (load_model(start), loaded))
    assert not torch.equal(before, after)
    table = tmp_path / "table.json"
    assert main(["evaluate", "--model", str(model), "--data", str(mixed), "--json", str(table)]) == 0
    assert json.loads(table.read_text())["frames"] == 2
    picture = next(KittiLayout(mixed).folder("image_2").glob("*.png"))
    arguments = ["--model", str(model), "--focal", "240", "--score", "0", "--out", str(tmp_path / "predicted")]
    assert main(["predict", str(picture), *arguments]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "predicted" / "detections.json").read_text())["images"][0]["detections"]
