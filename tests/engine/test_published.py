"""The published mode: all switches are on in the published recipes and nowhere else, and each has an effect."""

import copy
import inspect
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from monoskd import distill
from monoskd.engine.config import RunConfig
from monoskd.engine.frames import Frames
from monoskd.engine.load import find_config, load_config
from monoskd.engine.measure import labelled_batches
from monoskd.engine.run import build_student, build_training, train
from monoskd.engine.schedule import LearningRateSchedule, TaskWeights, shift_names
from monoskd.engine.sources import Sources
from monoskd.geometry.camera import Letterbox, PublishedLetterbox
from monoskd.kitti.prepare import prepare
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.published import convert
from monoskd.models.weights import load_model, save_model
from monoskd.structures import Batch, Modality, PublishedData
from monoskd.synthetic import synthesize

CONFIGS = find_config(Path("kitti/monoskd.yaml")).parents[1]
EVERYWHERE = {f"data.published.{field.name}" for field in fields(PublishedData)} | {
    "optimizer.schedule.milestones_after_warmup",
    "optimizer.schedule.once_an_epoch",
}
DISTILLED = EVERYWHERE | {
    "distillation.teacher_batch_statistics",
    "shifted_task_names",
    "distillation.terms.affinity.loss.init_args.mode",
    "distillation.terms.head.loss.init_args.published",
}
FROM_NOTHING = EVERYWHERE | {"detector.init_args.config.geometry"}
IMITATION = "distillation.terms.imitation.loss.init_args"
PUBLISHED = {
    "kitti/baseline_published.yaml": FROM_NOTHING,
    "kitti/teacher_published.yaml": FROM_NOTHING,
    "kitti/monodle/baseline_published.yaml": FROM_NOTHING,
    # It has no warm-up after which milestones could count.
    "kitti/monodetr/baseline_published.yaml": FROM_NOTHING - {"optimizer.schedule.milestones_after_warmup"},
    "kitti/monoskd_published.yaml": DISTILLED | {"distillation.terms.rank.loss.init_args.mode"},
    "kitti/monodistill_published.yaml": DISTILLED | {f"{IMITATION}.published", f"{IMITATION}.loss.init_args.mode"},
}
FLAGS = {name.rsplit(".", 1)[-1] for name in DISTILLED | EVERYWHERE} - {"mode"}

SIZE = (318, 96)  # of the pictures: KITTI's proportions, which are not those of the network's input
INPUT = (320, 96)
TINY = DidM3DConfig(
    pretrained=False,
    backbone_arguments={"channels": [4, 4, 8, 8, 8, 8]},
    backbone_early_stride=True,
    head_width=8,
    input_size=INPUT,
)


def switched_on(value: Any, path: str = "") -> Iterator[str]:
    """The keys of a configuration that are "published", and the flags that are on."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from switched_on(item, f"{path}.{key}".lstrip("."))
    elif value == "published" or (value is True and path.rsplit(".", 1)[-1] in FLAGS):
        yield path


# --- which recipes have them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_recipe_is_published_in_everything_or_in_nothing(path: Path) -> None:
    complete = yaml.safe_load(load_config(path).text)  # with all defaults written out
    assert set(switched_on(complete)) == PUBLISHED.get(str(path.relative_to(CONFIGS)), set())


def test_every_published_recipe_is_there() -> None:
    assert {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*published*")} == set(PUBLISHED)


@pytest.mark.parametrize("name", ["baseline", "teacher", "monoskd", "monodistill"])
def test_a_published_recipe_is_its_corrected_one_with_switches(name: str) -> None:
    corrected, published = (
        yaml.safe_load(load_config(Path(f"kitti/{recipe}.yaml")).text) for recipe in (name, f"{name}_published")
    )
    starts = {f"detector.init_args.config.{key}" for key in ("initial_depth_m", "initial_size_cells")}
    # Files; and the original computes in float32.
    others = {"out", "start", "distillation.teacher", "distillation.teacher_precision"}
    assert set(differences(corrected, published)) - others - starts == PUBLISHED[f"kitti/{name}_published.yaml"]


@pytest.mark.parametrize("name", sorted(distill.__all__))
def test_nothing_is_published_by_default(name: str) -> None:
    defaults = {
        key: parameter.default for key, parameter in inspect.signature(getattr(distill, name)).parameters.items()
    }
    assert "published" not in defaults.values()
    assert not [key for key in defaults if key in FLAGS and defaults[key] is not False]


def differences(first: Any, second: Any, path: str = "") -> Iterator[str]:
    if isinstance(first, dict) or isinstance(second, dict):
        first, second = first or {}, second or {}
        for key in {**first, **second}:
            yield from differences(first.get(key), second.get(key), f"{path}.{key}".lstrip("."))
    elif first != second:
        yield path


# --- what the engine's switches do ------------------------------------------------------------------------------------


def test_milestones_after_warmup_come_late_by_as_many_epochs() -> None:
    configured, late = LearningRateSchedule(), LearningRateSchedule(milestones_after_warmup=True)
    epochs = np.arange(150)
    drops = [
        np.flatnonzero(np.diff([schedule.rate(epoch) for epoch in epochs]) < 0) + 1 for schedule in (configured, late)
    ]
    np.testing.assert_array_equal(drops, [[90, 120], [95, 125]])


def test_once_an_epoch_the_first_epoch_hardly_moves() -> None:
    smooth, stepped = LearningRateSchedule(), LearningRateSchedule(once_an_epoch=True)
    steps = np.linspace(0, 1, 100, endpoint=False)
    assert {stepped.rate(step) for step in steps} == {1e-5}
    assert np.mean([smooth.rate(step) for step in steps]) > 3e-5
    assert [stepped.rate(epoch) for epoch in range(150)] == [smooth.rate(epoch) for epoch in range(150)]


def test_with_shifted_names_a_3d_task_waits_for_the_affinity() -> None:
    def depth_weights(*, affinity_falls: bool, shifted: bool) -> list[float]:
        weights = TaskWeights(DidM3D.task_graph)
        course = []
        for epoch in range(1, 30):
            falling = 10 - 0.1 * epoch
            tasks = dict.fromkeys(DidM3D.task_graph, 1.0)
            terms = [falling if affinity_falls else 1.0, 1.0, 1.0]
            course.append(weights.advance(shift_names(tasks, terms) if shifted else tasks, epoch)["offset_3d"])
        return course

    assert depth_weights(affinity_falls=True, shifted=False) == depth_weights(affinity_falls=False, shifted=False)
    waiting, free = (depth_weights(affinity_falls=falls, shifted=True)[-1] for falls in (True, False))
    assert waiting == pytest.approx((29 - 5) / 135)  # t^(1 - c) with c = 0
    assert free == 1.0


def test_task_learning_spans_the_run_as_it_spanned_the_published_one() -> None:
    assert [TaskWeights.over(epochs, DidM3D.task_graph).epochs for epochs in (150, 60, 2)] == [140, 56, 6]


def test_shifted_names_read_by_position() -> None:
    tasks = {name: float(index) for index, name in enumerate(DidM3D.task_graph)}
    shifted = shift_names(tasks, [10.0, 11.0, 12.0])
    assert (shifted["offset_2d"], shifted["size_2d"], shifted["depth"]) == (10.0, 11.0, 12.0)
    assert (shifted["offset_3d"], shifted["size_3d"]) == (tasks["offset_2d"], tasks["size_2d"])


# --- through `train` --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five rendered frames, three of them to train on."""
    root = tmp_path_factory.mktemp("rendered")
    synthesize(root, frames=5, val=0.4, seed=1, size=SIZE, workers=1)
    prepare(root, workers=1)
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny untrained networks: `student`, `teacher`, and the same as published ones."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    modalities: dict[str, Modality] = {"student": "rgb", "teacher": "depth"}
    for name, modality in modalities.items():
        network = DidM3D(replace(TINY, modality=modality))
        save_model(network, folder / f"{name}.safetensors", provenance={})
        published = DidM3D(replace(TINY, modality=modality, geometry="published"))
        published.load_state_dict(network.state_dict())
        save_model(published, folder / f"{name}_published.safetensors", provenance={})
    return folder


def recipe(name: str, data: Path, out: Path, *, student: Path, teacher: Path | None, **options: Any) -> Any:
    """A shipped recipe on the rendered frames: one epoch of one step on the CPU."""
    given = {
        "data.root": data,
        "out": out,
        "start": student,
        "data.batch_size": 2,
        "data.workers": 0,
        "epochs": 1,
        "validation.every": 0,
        "accelerator": "cpu",
        **({"distillation.teacher": teacher} if teacher else {}),
        **options,
    }
    return load_config(Path(f"kitti/{name}.yaml"), [word for k, v in given.items() for word in (f"--{k}", str(v))])


def test_batch_statistics_of_the_teacher_drift_in_published_recipes_alone(
    data: Path, models: Path, tmp_path: Path
) -> None:
    drift = {}
    for name, suffix in (("monoskd", ""), ("monoskd_published", "_published")):
        student, teacher = (models / f"{part}{suffix}.safetensors" for part in ("student", "teacher"))
        config: RunConfig = recipe(name, data, tmp_path, student=student, teacher=teacher).run()
        network = build_student(config)
        training = build_training(config, network).train()
        before = copy.deepcopy(dict(training.distiller.teacher.named_buffers()))
        training.outputs(a_batch(Frames(config, network, Sources.open(config.data))))
        drift[name] = {k for k, v in training.distiller.teacher.named_buffers() if not torch.equal(v, before[k])}
    assert drift["monoskd"] == set()
    assert {name.rsplit(".", 1)[-1] for name in drift["monoskd_published"]} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def a_batch(frames: Frames) -> Batch:
    return Batch.collate([frames.train[0], frames.train[1]])


def test_a_published_network_is_evaluated_through_the_published_pipeline(data: Path, models: Path) -> None:
    def first(name: str) -> Batch:
        batch: Batch = next(iter(labelled_batches(load_model(models / name), data, split="val")))
        return batch

    corrected, published = first("teacher.safetensors"), first("teacher_published.safetensors")
    assert type(corrected.letterbox) is Letterbox
    assert isinstance(published.letterbox, PublishedLetterbox)
    corner = torch.tensor([[[0.0, 96.0]]] * len(corrected.cameras.P))
    apart = corrected.letterbox.invert(corner) - published.letterbox.invert(corner)
    assert apart.abs().max() > 0.2  # [px], on pictures a quarter of KITTI's size
    assert published.depth is not None
    assert corrected.depth is not None
    assert published.depth.max() * 200 < corrected.depth.max()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("monoskd_published", {}),
        ("monodistill_published", {"distillation.fusion.init_args": {"channels": [8, 8, 8], "width": 8}}),
    ],
)
def test_a_published_distillation_trains(
    name: str, options: dict[str, Any], data: Path, models: Path, tmp_path: Path
) -> None:
    student, teacher = (models / f"{part}_published.safetensors" for part in ("student", "teacher"))
    folder = train(recipe(name, data, tmp_path / "run", student=student, teacher=teacher, **options))
    trained = load_model(folder / "model.safetensors")
    assert trained.config.geometry == "published"
    assert moved(trained, load_model(student))


@pytest.mark.parametrize("name", ["baseline_published", "teacher_published"])
def test_a_published_network_trains_from_nothing(name: str, data: Path, tmp_path: Path) -> None:
    prefix = "detector.init_args.config"
    options = {
        f"{prefix}.pretrained": "false",
        f"{prefix}.backbone_arguments": json.dumps(dict(TINY.backbone_arguments)),
        f"{prefix}.backbone_early_stride": "true",
        f"{prefix}.head_width": TINY.head_width,
        f"{prefix}.input_size": list(INPUT),
    }
    config = recipe(name, data, tmp_path / "run", student=Path("null"), teacher=None, **options)
    trained = load_model(train(config) / "model.safetensors")
    assert (trained.config.geometry, trained.config.initial_depth_m) == ("published", 1)
    assert all(torch.isfinite(tensor).all() for tensor in trained.state_dict().values())


def moved(trained: Any, before: Any) -> bool:
    pairs = zip(trained.parameters(), before.parameters(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


# --- from the authors' checkpoints ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_distillation_starts_from_a_converted_student_and_teacher(
    shared: Path, named_weights: ModuleType, data: Path, tmp_path: Path
) -> None:
    spec = json.loads((shared / "reference" / "monoskd_state.json").read_text())
    state: dict[str, Tensor] = named_weights.named_state(spec, 0)
    torch.save({"epoch": 140, "model_state": state, "optimizer_state": None}, tmp_path / "published.pth")
    for part in ("student", "teacher"):
        convert(tmp_path / "published.pth", tmp_path / f"{part}.safetensors", part=part)
    started = load_model(tmp_path / "student.safetensors")
    small = {  # the network of the checkpoint, fed with small pictures
        "detector": "monoskd.models.DidM3D",
        "detector.init_args.config.pretrained": "false",
        "detector.init_args.config.geometry": "published",
        "detector.init_args.config.input_size": list(INPUT),
        "log_every": 1,
    }
    parts = {part: tmp_path / f"{part}.safetensors" for part in ("student", "teacher")}
    folder = train(recipe("monoskd_published", data, tmp_path / "run", **parts, **small))
    trained = load_model(folder / "model.safetensors")
    assert moved(trained, started)
    # One step of the first epoch at 1e-5: every weight is within a step of Adam of where it was converted.
    for ours, theirs in zip(trained.parameters(), started.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    metrics = (folder / "metrics.csv").read_text()
    assert all(f"train/distill_{term}" in metrics for term in ("rank", "affinity", "head"))
