"""Matched pairs, task losses and gradients against recordings of the original implementation."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from monoskd.models.monodetr import MonoDETR
from monoskd.models.monodetr.heads import BoxScale
from monoskd.models.monodetr.losses import WEIGHTS, depth_map_loss, layer_losses, task_losses
from monoskd.models.monodetr.matching import match, matching_costs
from monoskd.models.monodetr.published import published_name
from monoskd.models.monodetr.structures import MonoDETROutput, MonoDETRTargets
from monoskd.structures import Batch

pytestmark = pytest.mark.kitti

Arrays = dict[str, np.ndarray]
CASES = ("plain", "mixed")
LOSSES = {
    "classes": "loss_ce",
    "centre": "loss_center",
    "edges": "loss_bbox",
    "overlap": "loss_giou",
    "depth": "loss_depth",
    "size_3d": "loss_dim",
    "heading": "loss_angle",
}


def of_cars(targets: MonoDETRTargets, arrays: list[Arrays]) -> MonoDETRTargets:
    """The targets of cars alone: their rows, and the map with only their boxes painted."""
    from monoskd.models.monodetr.targets import depth_bins, paint

    columns = dict(vars(targets))
    cars = targets.label == 1
    chosen = {name: value if name in targets.BY_IMAGE else value[cars] for name, value in columns.items()}
    maps = []
    for image in range(len(targets.labelled)):
        rows = chosen["image"] == image
        boxes = arrays[image]["boxes"][arrays[image]["car_mask_2d"] > 0].astype(np.float64)
        edges = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
        depth = (chosen["depth"][rows] / chosen["magnification"][image]).numpy()
        bins = depth_bins(depth, bins=80, far_background=True)
        maps.append(paint(edges * [80, 24, 80, 24], bins, depth, shape=(24, 80), background=80, wrapped=True))
    depth_bin, foreground = (torch.stack(part) for part in zip(*maps, strict=True))
    return MonoDETRTargets(**{**chosen, "depth_bin": depth_bin, "foreground": foreground})


def given(arrays: Arrays, prefix: str) -> dict[str, torch.Tensor]:
    """Recorded heads of a layer."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    depth, log_std = tensors[f"{prefix}pred_depth"].split(1, -1)
    heads = {"logits": "pred_logits", "boxes": "pred_boxes", "size_3d": "pred_3d_dim", "heading": "pred_angle"}
    return {name: tensors[prefix + theirs] for name, theirs in heads.items()} | {
        "depth": depth,
        "depth_log_std": log_std,
    }


def test_pairs_and_losses_of_given_outputs(
    recorded: Callable[[str], Arrays], batch_of: Callable[[object], Batch]
) -> None:
    arrays, said = recorded("losses_plain"), recorded("inference")
    targets = batch_of(arrays["frames"]).targets
    layers = {"_0": given(said, "aux_0_"), "_1": given(said, "aux_1_"), "": given(said, "")}
    for suffix, heads in layers.items():
        pairs = match(heads, targets, groups=1)
        losses = layer_losses(heads, targets, pairs=pairs, count=len(targets.image))
        for name, theirs in LOSSES.items():
            expected = float(arrays[f"eval_{theirs}{suffix}"])
            assert losses[name].item() == pytest.approx(expected, rel=3e-6), theirs + suffix


@pytest.fixture(scope="module")
def passed(
    new_detector: Callable[[], MonoDETR], recorded: Callable[[str], Arrays], batch_of: Callable[[object], Batch]
) -> Callable[[str, str], tuple[MonoDETR, MonoDETROutput, MonoDETRTargets]]:
    """`passed(case, mode)`: one pass of the network over a recorded batch; in training mode with its gradients."""

    @cache
    def run(case: str, mode: str) -> tuple[MonoDETR, MonoDETROutput, MonoDETRTargets]:
        batch = batch_of(recorded(f"losses_{case}")["frames"])
        detector = new_detector().train(mode == "train")
        with torch.set_grad_enabled(mode == "train"):
            output = detector(batch.views("rgb"))
        if mode == "train":
            torch.stack(list(detector.loss(output, batch.targets).values())).sum().backward()
        heads, *earlier = (
            {name: head.detach() for name, head in layer.items()} for layer in (output.heads, *output.earlier.values())
        )
        numbered = {str(number): layer for number, layer in enumerate(earlier)}
        return detector, replace(output, features={}, heads=heads, earlier=numbered), batch.targets

    return run


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_pairs_of_the_network(
    case: str,
    mode: str,
    recorded: Callable[[str], Arrays],
    passed: Callable[[str, str], tuple[MonoDETR, MonoDETROutput, MonoDETRTargets]],
) -> None:
    _, output, targets = passed(case, mode)
    arrays = recorded(f"losses_{case}")
    for layer, heads in {"last": output.heads, **output.earlier}.items():
        query, row = match(heads, targets, groups=output.groups)
        for image in range(len(targets.labelled)):
            ours = targets.image[row] == image
            first = int((targets.image < image).sum())
            theirs = arrays[f"{mode}_match_{layer}_{image}"]
            np.testing.assert_array_equal(torch.stack([query[ours], row[ours] - first]), theirs, f"{layer} {image}")
    if mode == "train":  # all queries, or every eleventh
        for name, theirs in (("logits", "logits"), ("boxes", "boxes"), ("size_3d", "3d_dim")):
            expected = arrays[f"train_pred_{theirs}"]
            said = output.heads[name][:, :: output.heads[name].shape[1] // expected.shape[1]]
            np.testing.assert_allclose(said, expected, rtol=0, atol=3e-4 * np.abs(expected).max(), err_msg=name)
    costs = matching_costs(output.heads, targets)
    for image in range(len(targets.labelled)):
        theirs = arrays[f"{mode}_cost_last_{image}"]
        np.testing.assert_allclose(costs[targets.image == image].T, theirs, rtol=0, atol=2e-3 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_losses_of_the_network(
    case: str,
    mode: str,
    recorded: Callable[[str], Arrays],
    passed: Callable[[str, str], tuple[MonoDETR, MonoDETROutput, MonoDETRTargets]],
    samples: dict[str, tuple[object, Arrays]],
) -> None:
    _, output, targets = passed(case, mode)
    arrays = recorded(f"losses_{case}")
    frames = arrays["frames"].tolist()
    cars = of_cars(targets, [samples[name][1] for name in frames])
    for prefix, chosen in ((mode, targets), (f"{mode}_car", cars)):
        count = len(chosen.image) * output.groups
        for suffix, heads in {"_0": output.earlier["0"], "_1": output.earlier["1"], "": output.heads}.items():
            losses = layer_losses(heads, chosen, pairs=match(heads, chosen, groups=output.groups), count=count)
            for name, theirs in LOSSES.items():
                expected = float(arrays[f"{prefix}_{theirs}{suffix}"])
                assert losses[name].item() == pytest.approx(expected, rel=1e-4), f"{prefix} {theirs}{suffix}"
        expected = float(arrays[f"{prefix}_loss_depth_map"])
        assert depth_map_loss(output.heads["depth_map"], chosen).item() == pytest.approx(expected, rel=1e-4)
        total = sum(loss.item() for loss in task_losses(output, chosen).values())
        assert total == pytest.approx(float(arrays[f"{prefix}_total"]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_network(
    case: str,
    recorded: Callable[[str], Arrays],
    passed: Callable[[str, str], tuple[MonoDETR, MonoDETROutput, MonoDETRTargets]],
) -> None:
    """By module; in single precision a small bias beside a large weight is mostly rounding."""
    detector, arrays = passed(case, "train")[0], recorded(f"losses_{case}")
    ours = gradient_norms(detector)
    assert set(arrays["grad_names"].tolist()) == set(ours)
    modules = {name.removeprefix("train_grad_") for name in arrays if name.startswith("train_grad_")}
    modules = {name for name in modules if not name.startswith(("first_", "last_")) and not name.endswith("_f64")}
    assert len(modules) == 13
    for module in modules:
        of_module = [norm for name, norm in ours.items() if f"{name}.".startswith(f"{module}.")]
        expected = float(arrays[f"train_grad_{module}"])
        assert np.linalg.norm(of_module) == pytest.approx(expected, rel=1e-3), module


@pytest.mark.slow
def test_losses_and_all_gradients_of_the_network_in_double_precision(
    new_detector: Callable[[], MonoDETR], recorded: Callable[[str], Arrays], batch_of: Callable[[object], Batch]
) -> None:
    arrays = recorded("losses_plain")
    batch, detector = batch_of(arrays["frames"]), new_detector().double().train()
    views = batch.views("rgb")
    scale = BoxScale(**{name: value.double() for name, value in vars(detector.box_scale(views)).items()})
    inputs, k = detector.normalise(views).double(), detector.magnification(views).double()
    total = torch.stack(
        list(detector.loss(detector.forward_normalised(inputs, k, scale), batch.targets).values())
    ).sum()
    total.backward()
    assert total.item() == pytest.approx(float(arrays["train_total_f64"]), rel=1e-6)
    expected = dict(zip(arrays["grad_names"].tolist(), arrays["grad_norms_f64"].tolist(), strict=True))
    ours = gradient_norms(detector)
    for name, norm in expected.items():
        assert ours[name] == pytest.approx(norm, rel=1e-3, abs=1e-6 * max(expected.values())), name
    assert set(ours) == set(expected)


def gradient_norms(detector: MonoDETR) -> dict[str, float]:
    """Of every parameter that has a gradient, by its published name."""
    return {
        published_name(name): weight.grad.double().norm().item()
        for name, weight in detector.named_parameters()
        if weight.grad is not None
    }


def test_losses_weigh_as_published(recorded: Callable[[str], Arrays]) -> None:
    arrays = recorded("losses_plain")
    for name, theirs in LOSSES.items():
        assert {float(arrays[f"weight_{theirs}{layer}"]) for layer in ("", "_0", "_1")} == {WEIGHTS[name]}, name
    assert float(arrays["weight_loss_depth_map"]) == WEIGHTS["depth_map"]


def test_every_recorded_loss_is_compared(recorded: Callable[[str], Arrays]) -> None:
    names = {name.removeprefix("eval_") for name in recorded("losses_plain") if name.startswith("eval_loss_")}
    assert {name for name in names if not name[-1].isdigit()} == {*LOSSES.values(), "loss_depth_map"}
