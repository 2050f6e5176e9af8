"""Task losses and gradients against recordings of the original implementation."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.models.dense import CellOutput
from monoskd.models.heads import depth_m
from monoskd.models.heatmap import at_cells
from monoskd.models.monodle import MonoDLE
from monoskd.models.monodle.losses import task_losses
from monoskd.models.monodle.published import published_name
from monoskd.models.monodle.structures import MonoDLETargets
from monoskd.structures import Batch, Sample

pytestmark = pytest.mark.kitti

Arrays = dict[str, np.ndarray]
LOSSES = {
    "heatmap": "seg",
    "offset_2d": "offset2d",
    "size_2d": "size2d",
    "offset_3d": "offset3d",
    "depth": "depth",
    "size_3d": "size3d",
    "heading": "heading",
}
CASES = ("plain", "mixed")


def with_depth(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    depth, log_std = raw["depth"].split(1, 1)
    return raw | {"depth": depth_m(depth), "depth_log_std": log_std}


def said_at(maps: dict[str, Tensor], targets: MonoDLETargets) -> dict[str, Tensor]:
    """Whole maps as the heads of a pass at the targets."""
    return {name: head if name == "heatmap" else at_cells(head, targets) for name, head in maps.items()}


def of_cars(targets: MonoDLETargets) -> MonoDLETargets:
    """The targets of cars alone; the maps of the other classes are empty."""
    columns = dict(vars(targets))
    cars = targets.label == 1
    chosen = {name: value if name in targets.BY_IMAGE else value[cars] for name, value in columns.items()}
    heatmap = torch.zeros_like(targets.heatmap)
    heatmap[:, 1] = targets.heatmap[:, 1]
    return MonoDLETargets(**{**chosen, "heatmap": heatmap})


# The targets of the original are float32 positions of up to 1280 px: ours are nearer to the truth.
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_of_given_heads(
    case: str,
    dtype: torch.dtype,
    recorded: Callable[[str], Arrays],
    batch_of: Callable[[object], Batch],
    named_heads: Callable[[int], dict[str, Tensor]],
) -> None:
    arrays = recorded(f"losses_named_{case}")
    heads = named_heads(len(arrays["frames"]))
    raw = {name: head.detach().to(dtype).requires_grad_() for name, head in heads.items()}
    targets = batch_of(arrays["frames"]).targets
    losses = task_losses(said_at(with_depth(raw), targets), targets, clamped_heat=True)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    suffix = "_f64" if dtype == torch.float64 else ""
    for name, theirs in LOSSES.items():
        assert losses[name].item() == pytest.approx(float(arrays[theirs + suffix]), rel=1e-5), name
    assert total.item() == pytest.approx(float(arrays[f"total{suffix}"]), rel=1e-5)
    for name, head in raw.items():
        assert head.grad.double().norm().item() == pytest.approx(float(arrays[f"grad_{name}{suffix}"]), rel=1e-5), name


@pytest.fixture(scope="module")
def passed(
    new_detector: Callable[[], MonoDLE], recorded: Callable[[str], Arrays], batch_of: Callable[[object], Batch]
) -> Callable[[str, str], tuple[MonoDLE, CellOutput, MonoDLETargets]]:
    """`passed(case, mode)`: one pass of the network over a recorded batch; in training mode with its gradients."""

    @cache
    def run(case: str, mode: str) -> tuple[MonoDLE, CellOutput, MonoDLETargets]:
        batch = batch_of(recorded(f"losses_{case}")["frames"])
        detector = new_detector().train(mode == "train")
        with torch.set_grad_enabled(mode == "train"):
            output = detector(batch.views("rgb"), batch.targets)
        if mode == "train":
            torch.stack(list(detector.loss(output, batch.targets).values())).sum().backward()
        return detector, output, batch.targets

    return run


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_losses_of_the_network(
    case: str,
    mode: str,
    recorded: Callable[[str], Arrays],
    passed: Callable[[str, str], tuple[MonoDLE, CellOutput, MonoDLETargets]],
) -> None:
    _, output, targets = passed(case, mode)
    arrays = recorded(f"losses_{case}")
    cars = {name: head if name == "heatmap" else head[targets.label == 1] for name, head in output.heads.items()}
    for prefix, chosen, heads in ((mode, targets, output.heads), (f"{mode}_car", of_cars(targets), cars)):
        losses = task_losses(heads, chosen, clamped_heat=True)
        for name, theirs in LOSSES.items():
            expected = float(arrays[f"{prefix}_{theirs}"])
            assert losses[name].item() == pytest.approx(expected, rel=1e-4), f"{prefix} {name}"
        total = sum(loss.item() for loss in losses.values())
        assert total == pytest.approx(float(arrays[f"{prefix}_total"]), rel=1e-4), prefix


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_what_is_said_at_the_objects(
    case: str,
    mode: str,
    recorded: Callable[[str], Arrays],
    passed: Callable[[str, str], tuple[MonoDLE, CellOutput, MonoDLETargets]],
    samples: dict[str, tuple[Sample, Arrays]],
) -> None:
    _, output, _ = passed(case, mode)
    arrays = recorded(f"losses_{case}")
    names = arrays["frames"].tolist()
    supervised = np.stack([samples[name][1]["mask_2d"] > 0 for name in names])
    for name in ("offset_2d", "size_2d", "depth", "offset_3d", "size_3d", "heading"):
        theirs = arrays[f"{mode}_at_{name}"][supervised]
        ours = output.heads[name].detach()
        if name == "depth":
            raw = torch.logit(1 / (ours.double() + 1) - 1e-6)
            ours = torch.cat([raw, output.heads["depth_log_std"].detach().double()], 1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max(), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_network(
    case: str,
    recorded: Callable[[str], Arrays],
    passed: Callable[[str, str], tuple[MonoDLE, CellOutput, MonoDLETargets]],
) -> None:
    detector, arrays = passed(case, "train")[0], recorded(f"losses_{case}")
    for name in ("backbone", "neck", *(f"heads.{head}" for head in LOSSES)):
        gradients = [weight.grad for weight in detector.get_submodule(name).parameters() if weight.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        # BatchNorm of few values moves the backbone's norm by about 1e-3 in single precision.
        tolerance = 1e-2 if name == "backbone" else 1e-3
        assert norm == pytest.approx(float(arrays[f"train_grad_{name.removeprefix('heads.')}"]), rel=tolerance), name


@pytest.mark.slow
def test_losses_and_all_gradients_of_the_network_in_double_precision(
    new_detector: Callable[[], MonoDLE], recorded: Callable[[str], Arrays], batch_of: Callable[[object], Batch]
) -> None:
    arrays = recorded("losses_plain")
    batch, detector = batch_of(arrays["frames"]), new_detector().double().train()
    views, targets = batch.views("rgb"), batch.targets
    inputs, k = detector.normalise(views).double(), detector.magnification(views).double()
    output = detector.forward_normalised(inputs, k, targets)
    losses = task_losses(output.heads, targets, clamped_heat=True)
    torch.stack(list(losses.values())).sum().backward()
    for name, theirs in LOSSES.items():
        assert losses[name].item() == pytest.approx(float(arrays[f"train_{theirs}_f64"]), rel=1e-5), name
    expected = dict(zip(arrays["grad_names"].tolist(), arrays["grad_norms_f64"].tolist(), strict=True))
    ours = {
        published_name(name): weight.grad.norm().item()
        for name, weight in detector.named_parameters()
        if weight.grad is not None
    }
    assert set(ours) == set(expected)
    for name, norm in expected.items():
        assert ours[name] == pytest.approx(norm, rel=1e-3, abs=1e-6 * max(expected.values())), name


def test_every_recorded_loss_is_compared(recorded: Callable[[str], Arrays]) -> None:
    names = {name for name in recorded("losses_named_plain") if "grad_" not in name and "_f64" not in name}
    assert names == {*LOSSES.values(), "total", "frames", "detections"}
