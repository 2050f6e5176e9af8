"""MonoDLE in the camera geometry of the house: targets and decoding are inverse, losses, precision, bad settings."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monoskd.data.samples import make_sample
from monoskd.data.transforms import Draw
from monoskd.errors import InputError
from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BINS, alpha_from_yaw
from monoskd.models.dense import CellOutput, size_loss
from monoskd.models.heads import depth_m, mean
from monoskd.models.heatmap import Peaks, at_cells, peaks
from monoskd.models.monodle import MonoDLE, MonoDLEConfig
from monoskd.models.monodle.losses import task_losses
from monoskd.models.monodle.structures import MonoDLETargets, Quirk
from monoskd.models.monodle.teaching import HeadLoss, ResponseLoss
from monoskd.objects import Objects
from monoskd.structures import Batch, DetectorOutput, Frame, PublishedData, Sample

SIZE = (640, 192)
SMALL = MonoDLEConfig(
    backbone_arguments={"channels": (8, 8, 8, 16, 16, 32)}, pretrained=False, head_width=16, input_size=SIZE
)


@pytest.fixture(scope="module")
def detector() -> MonoDLE:
    torch.manual_seed(0)
    return MonoDLE(SMALL).eval()


def objects(*, xs: tuple[float, ...] = (-8.0, 1.0, 6.0), focal_px: float = 700.0) -> Objects:
    """Cars at 20 m and beyond, with 2D boxes about their projections."""
    count = len(xs)
    bottom = np.array([[x, 1.7, 20 + 5 * number] for number, x in enumerate(xs)]).reshape(-1, 3)
    dimensions, yaw = np.tile([1.5, 1.7, 4.1], (count, 1)), np.linspace(-3, 3, count)
    camera = Camera.from_focal(focal_px, width=1242, height=375)
    u, v = camera.project(bottom - [0, 0.75, 0]).T
    half = 1.5 * focal_px / bottom[:, 2]
    boxes = np.stack([u - half, v - half / 2, u + half, v + half / 2], 1)
    zeros = np.zeros(count)
    alpha = alpha_from_yaw(yaw, u=u, camera=camera)
    return Objects(np.array(["Car"] * count), zeros, zeros.astype(int), alpha, boxes, dimensions, bottom, yaw)


def sample(detector: MonoDLE, found: Objects, *, focal_px: float = 700.0, draw: Draw | None = None) -> Sample:
    camera = Camera.from_focal(focal_px, width=1242, height=375)
    frame = Frame(np.zeros((375, 1242, 3), np.uint8), camera, objects=found)
    return make_sample("", frame, draw=draw, input_size=SIZE, targets=detector.target_maker())


def perfect(targets: MonoDLETargets) -> CellOutput:
    """What a network without error says."""
    heading = torch.zeros(len(targets.image), 2 * BINS)
    heading[range(len(heading)), targets.heading_bin] = 100
    heading[range(len(heading)), BINS + targets.heading_bin] = targets.heading_residual
    values = {
        "offset_2d": targets.offset_2d,
        "size_2d": targets.size_2d,
        "depth": targets.depth[:, None],
        "depth_log_std": torch.full((len(heading), 1), -1.0),
        "offset_3d": targets.offset_3d,
        "size_3d": targets.dimensions - targets.mean_size,
        "heading": heading,
    }
    where = Peaks(targets.image, targets.cell, targets.label, torch.ones(len(heading)))
    return CellOutput({}, values | {"heatmap": torch.where(targets.heatmap == 1, 20.0, -20.0)}, where)


@given(
    focal_px=st.floats(350, 1400),
    flip=st.booleans(),
    scale=st.floats(0.8, 1.3),
    shift=st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)),
)
@settings(deadline=None, max_examples=25)
def test_decoding_inverts_the_targets_through_any_lens(
    detector: MonoDLE,
    assert_same_boxes: Callable[..., None],
    focal_px: float,
    flip: bool,
    scale: float,
    shift: tuple[float, float],
) -> None:
    labels = objects(focal_px=focal_px)
    one = sample(detector, labels, focal_px=focal_px, draw=Draw(flip=flip, scale=scale, shift=shift))
    batch = Batch.collate([one])
    found = detector.decode(perfect(batch.targets), batch.views("rgb"))[0].above(0.99).to_objects()
    assert len(found) == len(batch.targets.image)
    assert_same_boxes(found, one.objects, atol_m=2e-3)


def test_training_tells_the_lens_once() -> None:
    detector = MonoDLE(SMALL)
    detector.adapt_to(focal_px=500.0, input_focal_px=250.0)
    detector.adapt_to(focal_px=900.0, input_focal_px=450.0)
    assert (detector.reference_focal_px, detector.input_focal_px) == (500.0, 250.0)
    published = MonoDLE(replace(SMALL, geometry="published"))
    published.adapt_to(focal_px=500.0, input_focal_px=250.0)
    assert published.input_focal_px is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_says_the_same_in_float32(detector: MonoDLE, dtype: torch.dtype) -> None:
    batch = Batch.collate([sample(detector, objects())])
    views = replace(batch.views("rgb"), images=torch.rand(1, 3, 192, 640, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        whole = detector(views, batch.targets)
        with torch.autocast("cpu", dtype=dtype):
            half = detector(views, batch.targets)
            assert {head.dtype for head in detector(views).heads.values()} == {torch.float32}
    assert not torch.equal(half.heads["heatmap"], half.heads["heatmap"].to(dtype).float())  # not rounded on the way
    for name, head in half.heads.items():
        assert head.dtype == torch.float32
        largest = whole.heads[name].abs().max()
        assert (head - whole.heads[name]).abs().max() < 20 * torch.finfo(dtype).eps * largest, name
    assert len(detector.decode(half, views)[0]) == len(detector.decode(whole, views)[0])


@pytest.mark.parametrize("at_targets", [True, False])
def test_heads_say_at_their_cells_what_whole_maps_say_there(detector: MonoDLE, at_targets: bool) -> None:
    batch = Batch.collate([sample(detector, objects()), sample(detector, objects(xs=(2.0,)))])
    views = replace(batch.views("rgb"), images=torch.rand(2, 3, 192, 640, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        there = detector(views, batch.targets if at_targets else None)
        everywhere = detector.heads(there.features["neck.4"], detector.magnification(views))
    assert {*everywhere} == {*there.heads}
    for name, head in everywhere.items():
        wanted = head if name == "heatmap" else at_cells(head, there.where)
        torch.testing.assert_close(there.heads[name], wanted, rtol=1e-4, atol=1e-5)
    where = batch.targets if at_targets else peaks(everywhere["heatmap"].sigmoid(), count=SMALL.top_k)
    assert torch.equal(there.where.cell, where.cell)
    errors = detector.metrics(there, batch.targets, views)["depth_error_m"]
    said = at_cells(everywhere["depth"], batch.targets).squeeze(1)
    torch.testing.assert_close(errors, (said - batch.targets.depth).abs(), rtol=1e-4, atol=1e-4)


def test_the_output_for_chosen_images_is_that_of_them_alone(detector: MonoDLE) -> None:
    batch = Batch.collate([sample(detector, objects()), sample(detector, objects(xs=(2.0,)))])
    second = torch.tensor([False, True])
    right, alone = perfect(batch.targets).of(second), perfect(batch.targets.of(second))
    torch.testing.assert_close(right.heads, alone.heads)
    torch.testing.assert_close(vars(right.where), vars(alone.where))


def test_a_loss_refuses_heads_said_at_the_peaks_alone(detector: MonoDLE) -> None:
    batch = Batch.collate([sample(detector, objects())])
    with torch.inference_mode():
        there = detector(batch.views("rgb"))
    with pytest.raises(
        InputError, match=r"expected a row for each of the 3 objects, got 50: call the network with at=targets"
    ):
        detector.loss(there, batch.targets)


def test_a_perfect_network_has_next_to_no_loss(detector: MonoDLE) -> None:
    batch = Batch.collate([sample(detector, objects()), sample(detector, objects(xs=(2.0,)))])
    losses = detector.loss(perfect(batch.targets), batch.targets)
    assert losses.pop("depth").item() == pytest.approx(-1)  # u = -1
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(0, abs=1e-5), name


def test_nothing_to_supervise_gives_zeros_with_a_gradient() -> None:
    detector = MonoDLE(SMALL)
    batch = Batch.collate([sample(detector, objects(xs=()))])
    losses = detector.loss(detector(batch.views("rgb"), batch.targets), batch.targets)
    assert all(loss.item() == 0 for name, loss in losses.items() if name != "heatmap")
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in detector.parameters() if weight.grad is not None)


def test_the_size_loss_is_the_mean_error_and_pulls_small_dimensions_harder() -> None:
    true = torch.tensor([[1.0, 2.0, 4.0], [2.0, 2.0, 2.0]])
    sizes = (true + torch.tensor([0.1, 0.2, -0.4])).requires_grad_()
    loss = size_loss(sizes, true, weight=torch.ones(2, 1))
    loss.backward()
    assert loss.item() == pytest.approx(mean((sizes - true).abs()).item())
    assert sizes.grad[0, 0] / -sizes.grad[0, 2] == pytest.approx(4)


@pytest.mark.parametrize("raw", [-200.0, 0.0, 200.0])
def test_a_lost_depth_keeps_finite_gradients(detector: MonoDLE, raw: float) -> None:
    value = torch.tensor([raw], requires_grad=True)
    depth_m(value).backward()
    assert value.grad.isfinite().all()


def test_teaching_terms_are_zero_for_equal_networks_and_positive_otherwise(detector: MonoDLE) -> None:
    batch = Batch.collate([sample(detector, objects())])
    right = perfect(batch.targets)
    wrong = replace(right, heads={name: head + 0.5 for name, head in right.heads.items()})
    assert HeadLoss()(student=right, teacher=right, targets=batch.targets).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match=r"HeadLoss: expected a teacher of the student's kind, .* got DetectorOutput"):
        HeadLoss()(student=wrong, teacher=DetectorOutput({}, right.heads), targets=batch.targets)
    parts = HeadLoss().parts(student=wrong, teacher=right, targets=batch.targets)
    assert all(part.item() > 0 for part in parts.values())
    assert ResponseLoss()(student=wrong, targets=batch.targets).item() == 0  # every frame has labels
    soft = replace(batch.targets, labelled=torch.tensor([False]))
    assert ResponseLoss()(student=wrong, targets=soft).item() > ResponseLoss()(student=right, targets=soft).item()
    task = partial(task_losses, targets=soft, clamped_heat=False)
    assert ResponseLoss().parts(student=wrong, targets=soft)["size_2d"] == task(wrong.heads)["size_2d"]


def test_every_quirk_changes_what_it_says() -> None:
    views = Batch.collate([sample(MonoDLE(SMALL), objects())]).views("rgb")
    quirky = {}
    for quirk in ("lens_blind_depth", "absolute_sizes", "small_start"):
        torch.manual_seed(0)
        quirky[quirk] = MonoDLE(replace(SMALL, quirks=(quirk,))).eval()
    assert quirky["lens_blind_depth"].magnification(views).tolist() == [1.0]
    assert quirky["absolute_sizes"].mean_sizes.abs().max() == 0
    with torch.inference_mode():
        raw = quirky["small_start"](views).heads["depth"] / quirky["small_start"].magnification(views)
    torch.testing.assert_close(raw, torch.ones_like(raw), rtol=0.05, atol=0.05)


OF_QUIRK = {
    "label_alpha": {"heading"},
    "uncropped_3d": {"has_3d"},
    "lens_blind_depth": {"magnification"},
    "absolute_sizes": {"mean_size"},
    "clamped_heat": {"heat"},
    "unbounded_score": {"scores"},
    "negative_sizes": {"count"},
    "small_start": {"start"},
}


def seen_of(detector: MonoDLE) -> dict[str, list[float]]:
    """What each quirk is seen by."""
    labels = objects()
    frame = Frame(np.zeros((375, 1242, 3), np.uint8), Camera.from_focal(700.0, width=1242, height=375), objects=labels)
    frame = replace(frame, objects=replace(labels, alpha=labels.alpha + 0.1))
    draw, maker = Draw(scale=0.9), detector.target_maker(published=PublishedData.all())
    batch = Batch.collate(
        [make_sample("", frame, draw=draw, input_size=SIZE, targets=maker, published=PublishedData.all())]
    )
    views, targets = batch.views("rgb"), batch.targets
    said = perfect(targets)
    negative = replace(said, heads=said.heads | {"size_3d": said.heads["size_3d"] - 9})
    found = detector.decode(said, views)[0]
    seen = {
        "heading": targets.heading_residual,
        "has_3d": targets.has_3d.float(),
        "magnification": detector.magnification(views),
        "mean_size": targets.mean_size.flatten(),
        "heat": detector.loss(said, targets)["heatmap"][None],
        "scores": found.scores,
        "count": torch.tensor([float(len(detector.decode(negative, views)[0]))]),
        "start": detector.heads.depth[-1].bias,  # type: ignore[union-attr]
    }
    return {name: value.detach().tolist() for name, value in seen.items()}


@pytest.mark.parametrize("quirk", get_args(Quirk))
def test_a_quirk_changes_its_own_and_nothing_else(quirk: Quirk) -> None:
    plain, quirky = (seen_of(MonoDLE(replace(SMALL, quirks=quirks))) for quirks in ((), (quirk,)))
    assert {name for name in plain if plain[name] != quirky[name]} == OF_QUIRK[quirk]


def test_confidence_stays_below_one_unless_as_published(detector: MonoDLE) -> None:
    batch = Batch.collate([sample(detector, objects())])
    views, output = batch.views("rgb"), perfect(batch.targets)  # exp(-u) = e
    assert detector.decode(output, views)[0].scores.max() <= 1
    unbounded = MonoDLE(replace(SMALL, quirks=("unbounded_score",)))
    assert unbounded.decode(output, views)[0].scores.max().item() == pytest.approx(math.e, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality": "lidar"}, "modality: expected rgb, depth or rgbd, got 'lidar'"),
        ({"input_size": (640, 190)}, "input_size: expected .* multiples of 32 px"),
        ({"classes": ("Car", "Car")}, "classes: expected names, none twice"),
        ({"classes": ("Tram",)}, "mean_sizes: expected .* of Tram"),
        ({"quirks": ("label_beta",)}, "quirks: expected names among label_alpha"),
        ({"initial_depth_m": 0.0}, "initial_depth_m: expected more than 0 m, got 0.0"),
        ({"reference_focal_px": -1.0}, "reference_focal_px: expected more than 0 px"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MonoDLEConfig(**settings)
