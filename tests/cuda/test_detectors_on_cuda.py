"""Every shipped detector, and the terms that read heads, on a GPU against the CPU, in float64."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from workload import Workload

from monoskd.demo.story import recipes
from monoskd.distill import Distiller, GenerativeLoss, Tap, Term
from monoskd.engine.load import load_config
from monoskd.engine.measure import labelled_batches
from monoskd.models import DepthMapLoss, HeatmapLoss
from monoskd.models.did_m3d.teaching import ObjectLoss, ResponseLoss
from monoskd.structures import Batch, Detector

pytestmark = pytest.mark.cuda

DEMOS = recipes(Path("demo/baseline.yaml"))
RELATIVE = 1e-6


def small(name: str) -> Detector:
    """The student of a detector's demo, without dropout, whose draws differ between devices.

    Its weights are moved a little: at the start MonoDETR samples at the very centres of cells, where bilinear
    interpolation has a kink and the last digit decides on the gradient.
    """
    detector = load_config(DEMOS[name] / "baseline.yaml").run().detector
    assert isinstance(detector, Detector)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    for module in detector.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return detector.double()


def close(ours: Tensor, theirs: Tensor, name: str) -> None:
    ours, theirs = ours.detach().cpu(), theirs.detach()
    size = float(theirs.abs().max())
    slack = RELATIVE * size + 1e-12  # a bias before a BatchNorm has no gradient but rounding
    torch.testing.assert_close(ours, theirs, rtol=RELATIVE, atol=slack, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("name", DEMOS)
def test_a_detector_says_and_learns_the_same(device: torch.device, name: str, scenes: Path) -> None:
    torch.manual_seed(0)
    detector = small(name)
    batch: Batch = next(iter(labelled_batches(detector, scenes, split="train", batch_size=2, min_height_px=5))).double()
    found = {}
    for place in (torch.device("cpu"), device):
        network, there = copy.deepcopy(detector).to(place).train(), batch.to(place)
        losses = network.loss(network(there.views("rgb"), there.targets), there.targets)
        torch.stack([*losses.values()]).sum().backward()
        network.eval()
        with torch.no_grad():
            heads = network(there.views("rgb"), there.targets).heads  # at peaks, equal heat may change places
        pulls = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
        found[place.type] = losses, pulls, heads
    for ours, theirs in zip(found[device.type], found["cpu"], strict=True):
        assert ours.keys() == theirs.keys()
        for part in theirs:
            close(ours[part], theirs[part], f"{name}: {part}")


def test_terms_that_read_heads_and_depth_maps(device: torch.device) -> None:
    values = {}
    for place in (torch.device("cpu"), device):
        workload = Workload.make("monoskd", device=torch.device("cpu"), small=True)
        assert workload.distiller is not None
        terms = {
            "objects": Term(ObjectLoss(), taps=["objects"]),
            "response": Term(ResponseLoss(), between="targets"),
            "depth_map": Term(DepthMapLoss(inside=3.0), between="targets", key="features:neck.4"),
            "heatmap": Term(HeatmapLoss(), between="output"),
            "generated": Term(GenerativeLoss(), taps=["neck"]),
        }
        taps = [Tap("regional.visual_depth.1", name="objects"), Tap("neck.4", name="neck")]
        distiller = Distiller(workload.student, workload.distiller.teacher, taps=taps, terms=terms)
        views, depth = workload.views.double(), workload.depth.double()
        targets = replace(workload.targets.double(), labelled=torch.tensor([True, False]))
        torch.manual_seed(0)
        distiller.double().materialize(views, targets, teacher_inputs=(depth, targets), targets=targets)
        distiller.to(place).eval()  # nothing is hidden by chance
        views, depth, targets = views.to(place), depth.to(place), targets.to(place)
        values[place.type] = distiller(views, targets, teacher_inputs=(depth, targets), targets=targets).terms
    for name, value in values["cpu"].items():
        assert value > 0, name
        close(values[device.type][name], value, name)
