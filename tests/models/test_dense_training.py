"""Dense detectors through the command line: teacher, student, distillation with frames without labels, resuming."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from monoskd.cli import main
from monoskd.kitti.layout import KittiLayout
from monoskd.models.monodle import MonoDLE
from monoskd.models.weights import load_model

MONODLE, MONOCON = "monoskd.models.monodle.MonoDLE", "monoskd.models.monocon.MonoCon"
CONFIGS = Path(__file__).parents[2] / "src/monoskd/configs/kitti/monodle"
SMALL: dict[str, Any] = {
    "backbone_arguments": {"channels": [8, 8, 8, 16, 16, 32]},
    "backbone_early_stride": True,
    "pretrained": False,
    "head_width": 16,
    "input_size": [416, 128],
}


def config(root: Path, out: Path, *, modality: str | None, kind: str = MONODLE, **entries: Any) -> str:
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
            "class_path": kind,
            "init_args": {"config": SMALL | {"modality": modality}},
        }
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_a_recording_without_a_lidar_is_trained_on(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cameras"
    shutil.copytree(scenes, root, ignore=shutil.ignore_patterns("velodyne", "depth_2"))
    file = config(root, tmp_path / "run", modality="rgb")
    assert main(["train", file]) == 2
    assert "without a LiDAR, train with `--data.depth false`" in capsys.readouterr().err
    assert main(["train", file, "--data.depth", "false"]) == 0, capsys.readouterr().err
    whole = config(scenes, tmp_path / "whole", modality="rgb")
    assert main(["train", whole]) == 0, capsys.readouterr().err
    networks = [load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("run", "whole")]
    assert all(torch.equal(tensor, networks[1][name]) for name, tensor in networks[0].items())

    sees_depth = config(root, tmp_path / "depth", modality="depth")
    assert main(["train", sees_depth, "--data.depth", "false"]) == 2
    assert "detector: expected a network on pictures, as of `data.depth: false`, got modality depth" in (
        capsys.readouterr().err
    )
    needs_depth = config(root, tmp_path / "targets", modality="rgb", kind="monoskd.models.did_m3d.DidM3D")
    assert main(["train", needs_depth, "--data.depth", "false"]) == 2
    assert "got DidM3D, whose targets are made of them: choose another detector" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "depth_weight"), [(MONODLE, "heads.depth.2.weight"), (MONOCON, "heads.depth.last.weight")]
)
def test_it_is_trained_distilled_resumed_evaluated_and_used(
    kind: str, depth_weight: str, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, modality in (("teacher", "depth"), ("baseline", "rgb")):
        file = config(mixed, tmp_path / name, modality=modality, kind=kind)
        assert main(["train", file]) == 0, capsys.readouterr().err
    teaching = f"{kind.rpartition('.')[0]}.teaching"
    distillation = {
        "teacher": str(tmp_path / "teacher" / "model.safetensors"),
        "taps": [{"student": "neck.8", "adapter": "conv"}],
        "terms": {
            "rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss"}},
            "affinity": {"loss": {"class_path": "monoskd.distill.AffinityLoss"}},
            "head": {"loss": {"class_path": f"{teaching}.HeadLoss"}, "between": "output"},
            "response": {"loss": {"class_path": f"{teaching}.ResponseLoss"}, "between": "targets"},
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
    assert type(loaded).__name__ == kind.rpartition(".")[2]
    assert loaded.input_focal_px is not None
    before, after = (network.state_dict()[depth_weight] for network in (load_model(start), loaded))
    assert not torch.equal(before, after)
    table = tmp_path / "table.json"
    assert main(["evaluate", "--model", str(model), "--data", str(mixed), "--json", str(table)]) == 0
    assert json.loads(table.read_text())["frames"] == 2
    picture = next(KittiLayout(mixed).folder("image_2").glob("*.png"))
    arguments = ["--model", str(model), "--focal", "240", "--score", "0", "--out", str(tmp_path / "predicted")]
    assert main(["predict", str(picture), *arguments]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "predicted" / "detections.json").read_text())["images"][0]["detections"]


def test_a_teacher_of_another_kind_teaches_by_features_and_pseudo_labels(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped recipe, on small networks."""
    recipe = yaml.safe_load((CONFIGS / "from_did_m3d.yaml").read_text())
    teacher = {"class_path": "monoskd.models.DidM3D", "init_args": {"config": SMALL | {"modality": "depth"}}}
    file = config(mixed, tmp_path / "teacher", modality=None, detector=teacher, task_learning=False)
    assert main(["train", file, "--epochs", "1"]) == 0, capsys.readouterr().err
    assert main(["train", config(mixed, tmp_path / "baseline", modality="rgb"), "--epochs", "1"]) == 0
    file = config(
        mixed,
        tmp_path / "student",
        modality=None,
        start=str(tmp_path / "baseline" / "model.safetensors"),
        distillation=recipe["distillation"] | {"teacher": str(tmp_path / "teacher" / "model.safetensors")},
        data={"unlabelled": recipe["data"]["unlabelled"] | {"threshold": 0.0}},
    )
    assert main(["train", file, "--epochs", "1"]) == 0, capsys.readouterr().err
    log = (tmp_path / "student" / "metrics.csv").read_text()
    assert all(f"train/distill_{term}" in log for term in ("rank", "affinity", "response"))
    assert isinstance(load_model(tmp_path / "student" / "model.safetensors"), MonoDLE)


def test_the_published_mode_is_trained_with_crops(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = yaml.safe_load((CONFIGS / "baseline_published.yaml").read_text())
    shipped["data"] |= {"root": str(scenes), "batch_size": 2, "workers": 0, "min_height_px": 5}
    shipped["detector"]["init_args"]["config"] |= SMALL
    shipped |= {"out": str(tmp_path / "run"), "epochs": 2, "validation": {"every": 2}, "log_every": 1}
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(shipped))
    assert main(["train", str(tmp_path / "published.yaml")]) == 0, capsys.readouterr().err
    assert load_model(tmp_path / "run" / "model.safetensors").published_input
