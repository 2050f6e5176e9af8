import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data.distributed import DistributedSampler

from monoskd.data.samples import Samples
from monoskd.data.transforms import Draw
from monoskd.engine.config import UnlabelledConfig
from monoskd.engine.unlabelled import MixedBatches, endless
from monoskd.errors import InputError
from monoskd.kitti.io import read_objects, read_split, write_objects, write_split
from monoskd.kitti.layout import KittiLayout
from monoskd.kitti.prepare import prepare
from monoskd.kitti.source import KittiFrames, WithDetections
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.synthetic import synthesize

Run = Callable[..., Path]


@pytest.fixture(scope="session")
def mixed_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four labelled frames to train on, two to validate on and three without labels. Not to be changed."""
    root = tmp_path_factory.mktemp("mixed") / "data"
    synthesize(root, frames=6, val=1 / 3, seed=3, size=(416, 128), workers=1, unlabelled=3)
    prepare(root, workers=1)
    return root


@pytest.fixture
def learn(run: Run, mixed_scenes: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains the tiny student on both kinds of frames; `unlabelled` is the entry of that name."""
    depth = ("--detector.init_args.config.modality", "depth")
    taught = run(*depth, out=str(tmp_path / "teacher"), epochs=1)
    response = {"class_path": "monoskd.models.did_m3d.teaching.ResponseLoss"}

    def start(*overrides: str, root: Path = mixed_scenes, resume: Path | None = None, **unlabelled: Any) -> Path:
        data = {"root": str(root), "batch_size": 2, "workers": 0, "unlabelled": {"threshold": 0.01, **unlabelled}}
        recipe = {
            "teacher": str(taught / "model.safetensors"),
            "taps": [{"student": "neck.4", "adapter": "none"}],
            "terms": {"response": {"loss": response, "between": "targets"}},
            "record_every": 1,
        }
        return run("--out", str(tmp_path / "student"), *overrides, resume=resume, data=data, distillation=recipe)

    return start


def test_the_student_learns_from_both_kinds_of_frames(learn: Callable[..., Path]) -> None:
    folder = learn(ratio=1.5)
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert all(float(row["train/distill_response"]) > 0 for row in rows if row["train/loss"])
    assert any(float(row["flight/response/gradient_share"] or 0) > 0 for row in rows if "flight/response/loss" in row)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["frames"] == {"train": 4, "val": 2, "unlabelled": 3}
    images = manifest["images_per_second"] * manifest["train_seconds"] / manifest["steps"]
    assert images == pytest.approx(2 + 3, rel=0.02)


def test_the_teacher_makes_pseudo_labels_in_float64_too(learn: Callable[..., Path]) -> None:
    folder = learn("--precision", "64-true", "--epochs", "1")
    assert sum(len(path.read_text()) for path in (folder / "detections").iterdir()) > 0


def test_detections_are_kept_as_result_files_with_a_note_on_their_worth(
    learn: Callable[..., Path], mixed_scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = learn(threshold=1.0, thresholds={"car": 0.01})
    names = read_split(mixed_scenes / "ImageSets" / "unlabelled.txt")
    pseudo_labels = [read_objects(folder / "detections" / f"{name}.txt", scored=True) for name in names]
    assert sum(map(len, pseudo_labels)) > 0
    for objects in pseudo_labels:
        assert objects.scores is not None
        assert (objects.scores >= 0.01).all()
        assert set(objects.names) == {"Car"}
    said = f"pseudo-labels on {len(names)} frames: Pedestrian 0, Car {sum(map(len, pseudo_labels))}, Cyclist 0; "
    assert f"{said}how good they are: {folder / 'detections.json'}" in capsys.readouterr().err
    note = json.loads((folder / "detections.json").read_text())
    assert note["measured_on"] == "unlabelled, labels held back"
    everything = [row for row in note["quality"] if row["distance_m"] == "all"]
    assert [row["class"] for row in everything] == ["Pedestrian", "Car", "Cyclist"]
    assert everything[0]["right"] == 0
    assert everything[0]["missed"] > 0


def test_without_held_back_labels_the_worth_is_measured_on_validation(
    learn: Callable[..., Path], mixed_scenes: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(mixed_scenes, tmp_path / "data")
    shutil.rmtree(root / "training" / "label_held_back")
    note = json.loads((learn(root=root) / "detections.json").read_text())
    assert note["measured_on"] == "val"


def test_a_resumed_run_ends_as_one_that_was_never_interrupted(learn: Callable[..., Path], tmp_path: Path) -> None:
    whole = learn("--epochs", "3", "--out", str(tmp_path / "whole"), ratio=1.0)
    short = learn("--epochs", "2", "--out", str(tmp_path / "resumed"), ratio=1.0)
    before = (short / "detections.json").stat().st_mtime_ns
    resumed = learn("--epochs", "3", "--out", str(short), resume=short, ratio=1.0)
    assert (resumed / "detections.json").stat().st_mtime_ns == before
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_resumed_with_other_thresholds_asks_the_teacher_again(learn: Callable[..., Path], tmp_path: Path) -> None:
    first = learn("--epochs", "1", threshold=0.0)
    before = json.loads((first / "detections.json").read_text())
    learn("--epochs", "2", resume=first, threshold=0.05)
    after = json.loads((first / "detections.json").read_text())
    assert (before["threshold"], after["threshold"]) == (0.0, 0.05)
    assert before["made_of"] != after["made_of"]


def pseudo_labelled(root: Path, detections: Path, size: tuple[int, int], *, soft: bool = True) -> Samples:
    source = WithDetections(KittiFrames(root, "unlabelled", labels=False), detections)
    detector = DidM3D(DidM3DConfig(pretrained=False, input_size=size))
    return Samples(source, input_size=size, targets=detector.target_maker(min_height_px=1), soft=soft)


def test_plain_pseudo_labels_count_as_labels(learn: Callable[..., Path], mixed_scenes: Path, tmp_path: Path) -> None:
    folder = learn(soft=False, augmentation=None)
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert all(float(row["train/distill_response"]) == 0 for row in rows if row["train/loss"])
    hard = pseudo_labelled(mixed_scenes, folder / "detections", (128, 64), soft=False)[0].targets
    soft = pseudo_labelled(mixed_scenes, folder / "detections", (128, 64))[0].targets
    assert hard is not None
    assert soft is not None
    assert hard.labelled.all()
    assert not soft.labelled.any()
    assert (hard.weight == 1).all()
    assert (soft.weight < 1).all()
    peaks = soft.heatmap[0, soft.label, soft.cell[:, 1], soft.cell[:, 0]]
    assert (peaks >= soft.weight - 1e-6).all()


def test_detections_move_with_the_students_picture(mixed_scenes: Path, tmp_path: Path) -> None:
    layout = KittiLayout(mixed_scenes)
    frame = read_split(layout.split("unlabelled"))[0]
    truth = read_objects(layout.held_back(frame), scored=False)
    write_objects(tmp_path / f"{frame}.txt", replace(truth, scores=np.linspace(0.3, 0.9, len(truth))))
    (tmp_path / "ImageSets").mkdir()
    dataset = pseudo_labelled(mixed_scenes, tmp_path, (416, 128))
    plain, flipped = (dataset.sample(frame, draw).targets for draw in (Draw(), Draw(flip=True)))
    assert plain is not None
    assert flipped is not None
    assert len(plain.label)
    torch.testing.assert_close(flipped.weight, plain.weight)
    centre = plain.cell[:, 0] + plain.offset_3d[:, 0]
    torch.testing.assert_close(flipped.cell[:, 0] + flipped.offset_3d[:, 0], 416 / 4 - centre, rtol=0, atol=1e-3)
    torch.testing.assert_close(flipped.depth, plain.depth)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"ratio": 0.0}, "data.unlabelled.ratio: expected more than 0, got 0"),
        ({"threshold": 1.5}, "threshold threshold: expected a score from 0 to 1, got 1.5"),
        ({"thresholds": {"Tram": 0.5}}, r"expected classes of the teacher \(Pedestrian, Car, Cyclist\), got 'Tram'"),
        ({"threshold": 1.0}, "expected the teacher to find something on the 3 frames without labels, got no detection"),
        ({"ratio": 0.75}, "expected a whole number of frames without labels beside the 2 labelled ones .*, got 1.5"),
        ({"split": "train"}, "expected frames without a label, got 00000., which has one"),
        ({"split": "val"}, "expected no validation frame, got 00000."),
        ({"split": "nowhere"}, "nowhere.txt"),
    ],
)
def test_frames_that_may_not_be_learned_from_are_refused(
    learn: Callable[..., Path], entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        learn(**entries)


def test_a_frame_without_a_label_in_a_labelled_split_is_refused(
    learn: Callable[..., Path], mixed_scenes: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(mixed_scenes, tmp_path / "data")
    split = root / "ImageSets" / "train.txt"
    write_split(split, [*read_split(split), "000006"])
    with pytest.raises(
        InputError, match=r"label_2: expected a file for each of the split's 5 frames, got none for 1 .*000006"
    ):
        learn(root=root)


def test_a_validation_frame_in_the_training_split_is_refused(run: Run, mixed_scenes: Path, tmp_path: Path) -> None:
    root = shutil.copytree(mixed_scenes, tmp_path / "data")
    layout = KittiLayout(root)
    leaked = read_split(layout.split("val"))[0]
    write_split(layout.split("train"), sorted([*read_split(layout.split("train")), leaked]))
    message = rf"expected no frame of split train in split val, got 1 \(the first is {leaked}\)"
    with pytest.raises(InputError, match=message):
        run(data={"root": str(root), "batch_size": 2, "workers": 0})


def test_the_ratio_is_finite() -> None:
    with pytest.raises(InputError, match="ratio: expected more than 0, got inf"):
        UnlabelledConfig(ratio=float("inf"))


def test_frames_without_labels_need_a_teacher(run: Run, mixed_scenes: Path) -> None:
    data = {"root": str(mixed_scenes), "batch_size": 2, "workers": 0, "unlabelled": {}}
    with pytest.raises(
        InputError, match=r"data\.unlabelled: expected `distillation`, whose teacher makes pseudo-labels"
    ):
        run(data=data)


# --- batches ----------------------------------------------------------------------------------------------------------


def batches(epoch: int, *, rank: int = 0, replicas: int = 1) -> list[list[int]]:
    sampler: DistributedSampler[Any] = DistributedSampler(
        range(8),
        num_replicas=replicas,
        rank=rank,
        shuffle=True,
        seed=5,  # type: ignore[arg-type]
    )
    sampler.set_epoch(epoch)
    return list(MixedBatches(sampler, 2, unlabelled=5, further=3))


def test_every_batch_holds_both_kinds_and_an_epoch_all_labelled_frames() -> None:
    epoch = batches(0)
    assert [len(batch) for batch in epoch] == [5] * 4
    assert sorted(index for batch in epoch for index in batch[:2]) == list(range(8))
    assert all(8 <= index < 13 for batch in epoch for index in batch[2:])


def test_frames_without_labels_come_by_equally_often() -> None:
    seen = [index for epoch in range(5) for batch in batches(epoch) for index in batch[2:]]
    assert np.bincount(seen)[8:].tolist() == [12] * 5
    assert endless(5, first=7, count=6, seed=1) == endless(5, first=0, count=13, seed=1)[7:]


def test_devices_share_the_frames_of_a_step() -> None:
    both = [batches(1, rank=rank, replicas=2) for rank in (0, 1)]
    labelled = [index for epoch in both for batch in epoch for index in batch[:2]]
    assert sorted(labelled) == list(range(8))
    others = [index for epoch in both for batch in epoch for index in batch[2:]]
    assert sorted(others) == sorted(8 + index for index in endless(5, first=12, count=12, seed=5))
