"""MonoDETR through the command line, and a teacher of another kind."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from monoskd.cli import main
from monoskd.models.monodetr import MonoDETR, MonoDETRConfig
from monoskd.models.weights import load_model
from monoskd.structures import Batch

CLASS = "monoskd.models.monodetr"
SMALL: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_arguments": {"channels": [8, 8, 16, 16]},
    "pretrained": False,
    "frozen": False,
    "width": 32,
    "heads": 4,
    "points": 2,
    "hidden": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "queries": 10,
    "groups": 2,
    "input_size": [416, 128],
}
OTHER = {
    "class_path": "monoskd.models.DidM3D",
    "init_args": {
        "config": {
            "modality": "depth",
            "backbone_arguments": {"channels": [4, 4, 8, 16, 32, 64]},
            "backbone_early_stride": True,
            "pretrained": False,
            "head_width": 16,
            "input_size": [416, 128],
        }
    },
}


def train(root: Path, out: Path, *, detector: dict[str, Any], **entries: Any) -> Path:
    """The model file of a run of one epoch."""
    document: dict[str, Any] = {
        "data": {"root": str(root), "batch_size": 2, "workers": 0, "min_height_px": 5, **entries.pop("data", {})},
        "out": str(out),
        "detector": detector,
        "epochs": 1,
        "optimizer": {"decoupled_decay": True, "schedule": {"warmup_epochs": 0, "base": 0.0002}},
        "validation": {"every": 1},
        "task_learning": False,
        "log_every": 1,
        **entries,
    }
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main(["train", str(path)]) == 0
    return out / "model.safetensors"


def small(modality: str) -> dict[str, Any]:
    return {"class_path": f"{CLASS}.MonoDETR", "init_args": {"config": SMALL | {"modality": modality}}}


def test_it_learns_from_a_teacher_of_its_kind_and_of_another(mixed: Path, tmp_path: Path) -> None:
    own = train(mixed, tmp_path / "teacher", detector=small("depth"))
    other = train(mixed, tmp_path / "other", detector=OTHER)
    rank = {"rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss"}}}
    head = {"head": {"loss": {"class_path": f"{CLASS}.teaching.HeadLoss"}, "between": "output"}}
    response = {"response": {"loss": {"class_path": f"{CLASS}.teaching.ResponseLoss"}, "between": "targets"}}
    unlabelled = {"unlabelled": {"threshold": 0.0}}
    for name, teacher, terms, data in (
        ("alike", own, rank | head, {}),
        ("unlike", other, rank | response, unlabelled),
    ):
        taps = [{"student": "neck.8", "adapter": "conv"}]
        distillation = {"teacher": str(teacher), "taps": taps, "terms": terms}
        run = train(mixed, tmp_path / name, detector=small("rgb"), data=data, distillation=distillation)
        log = (run.parent / "metrics.csv").read_text()
        assert all(f"train/distill_{term}" in log for term in terms)
        assert "val/depth_error_m_median" in log
        loaded = load_model(run)
        assert isinstance(loaded, MonoDETR)
        assert loaded.input_focal_px is not None


@pytest.mark.slow
def test_it_begins_to_learn_two_frames_by_heart(scenes: Path) -> None:
    """Classes and boxes; eighty steps are too few for depths."""
    from monoskd.data.samples import Samples
    from monoskd.kitti.source import KittiFrames

    torch.manual_seed(0)
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in SMALL.items()}
    detector = MonoDETR(MonoDETRConfig(**(settings | {"dropout": 0.0, "input_size": (192, 64)})))
    source = KittiFrames(scenes, split="train", depth=False, labels=True)
    samples = Samples(source, input_size=(192, 64), targets=detector.target_maker(min_height_px=10))
    batch = Batch.collate([samples[0], samples[1]])
    assert len(batch.targets.image) > 1
    optimizer = torch.optim.AdamW(detector.parameters(), 2e-3)
    totals = []
    for _ in range(80):
        losses = detector.loss(detector(batch.views("rgb")), batch.targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10)
        optimizer.step()
        totals.append({name: loss.item() for name, loss in losses.items()})
    left = {name: totals[-1][name] / totals[0][name] for name in ("classes", "centre", "edges", "overlap", "size_3d")}
    assert max(left[name] for name in ("classes", "centre", "edges")) < 0.5, left
    assert left["overlap"] < 0.7, left
