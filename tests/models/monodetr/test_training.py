"""MonoDETR through the command line, and a teacher of another kind."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from monoskd.cli import main
from monoskd.kitti.io import read_split, write_split
from monoskd.kitti.layout import KittiLayout
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


@pytest.fixture(scope="module")
def mixed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered scenes with two of their training frames as frames without labels."""
    root = tmp_path_factory.mktemp("mixed")
    layout = KittiLayout(scenes)
    train = read_split(layout.split("train"))
    for split, names in (("train", train[:2]), ("val", read_split(layout.split("val"))), ("unlabelled", train[2:])):
        write_split(root / "ImageSets" / f"{split}.txt", names)
    for kind in ("image_2", "calib", "depth_2", "label_2"):
        (root / "training" / kind).mkdir(parents=True)
        for path in layout.folder(kind).iterdir():
            if not (kind == "label_2" and path.stem in train[2:]):
                (root / "training" / kind / path.name).symlink_to(path)
    return root


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


@pytest.mark.xfail(strict=False, reason="80 steps are too few for the overlap on some machines")
def test_it_learns_two_frames_by_heart(scenes: Path) -> None:
    """The depth error at the labelled objects and the 2D error fall far below where they start."""
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
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10)
        optimizer.step()
        totals.append({name: loss.item() for name, loss in losses.items()})
    for name in ("classes", "centre", "edges", "overlap"):
        assert totals[-1][name] < totals[0][name] / 2, name
    detector.eval()
    views = batch.views("rgb")
    with torch.no_grad():
        errors = detector.metrics(detector(views), batch.targets, views)["depth_error_m"]
    assert (errors / batch.targets.depth).median() < 0.15
