"""Seconds of detectors: `python benchmarks/detector_speed.py [small | published | cells | attention]`.

small: DID-M3D's sizes in training and in use. published: the network of each `kitti/.../baseline.yaml`, one picture.
cells: dense heads at single cells, as DID-M3D's run in prediction and MonoDLE's always, against heads on the whole map.
attention: multi-scale deformable attention against the usual fallback for want of a compiled operator. What is
compared takes turns, so that other work on the machine meets all alike; ratios are what to compare between machines.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from monoskd.demo.story import recipes
from monoskd.engine.load import load_config
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.structures import ROI_CELLS, DidM3DTargets
from monoskd.models.heatmap import at_cells
from monoskd.models.monodetr.deformable import DeformableAttention, Shapes, places_of
from monoskd.models.monodetr.transformer import cell_centres
from monoskd.models.monodle import MonoDLE, MonoDLEConfig
from monoskd.structures import Detector, Views

EIGHTH = {"channels": [4, 4, 8, 16, 32, 64]}
CONFIGS = {
    "dla34": DidM3DConfig(pretrained=False, input_size=(320, 96)),
    "dla34, eighth": DidM3DConfig(pretrained=False, input_size=(320, 96), backbone_arguments=EIGHTH, head_width=32),
    "dla34, eighth, early stride": DidM3DConfig(
        pretrained=False, input_size=(320, 96), backbone_arguments=EIGHTH, head_width=32, backbone_early_stride=True
    ),
}
OBJECTS_AN_IMAGE = 4
SHAPES: Shapes = ((48, 160), (24, 80), (12, 40), (6, 20))  # of a picture of 1280 x 384
WIDTH, HEADS, POINTS = 256, 8, 4


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tables = {"small": small, "published": published, "cells": at_single_cells, "attention": attention}
    parser.add_argument("table", nargs="?", choices=list(tables), help="all by default")
    parser.add_argument("--batch", type=int, default=8, help="images a step of the small sizes")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in [options.table] if options.table else tables:
        tables[name](batch=options.batch, repeats=options.repeats)


def small(*, batch: int, repeats: int) -> None:
    """Images a second in training and in use, a row for each configuration."""
    reference = None
    print(f"{'backbone':30s} {'M params':>8s} {'train/s':>8s} {'use/s':>8s} {'ratio':>6s} {'ratio':>6s}")
    for name, config in CONFIGS.items():
        train, use, parameters = measure(config, batch=batch, repeats=repeats)
        reference = reference or (train, use)
        ratios = f"{train / reference[0]:6.1f} {use / reference[1]:6.1f}"
        print(f"{name:30s} {parameters / 1e6:8.2f} {train:8.1f} {use:8.1f} {ratios}", flush=True)


def published(*, batch: int, repeats: int) -> None:
    """One picture of the full size, decoding included, a row for each detector."""
    detectors = {name: full_size(folder) for name, folder in recipes(Path("kitti/baseline.yaml")).items()}
    views = {name: random_views(1, detector.input_size, focal_px=744.0) for name, detector in detectors.items()}

    @torch.no_grad()
    def predict(name: str) -> None:
        detectors[name].decode(detectors[name](views[name]), views[name])

    counts = {}
    for name in detectors:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it counts no fused attention
            predict(name)
        counts[name] = counter.get_total_flops() / 2
    seconds = in_turns({name: lambda name=name: predict(name) for name in detectors}, repeats)
    first = next(iter(seconds.values()))
    print(f"{'detector':30s} {'M params':>8s} {'G mult-adds':>11s} {'ms':>8s} {'ratio':>6s}")
    for name, detector in detectors.items():
        parameters = sum(weight.numel() for weight in detector.parameters()) / 1e6
        row = f"{counts[name] / 1e9:11.1f} {1e3 * seconds[name]:8.0f} {seconds[name] / first:6.2f}"
        print(f"{name:30s} {parameters:8.2f} {row}", flush=True)


def at_single_cells(*, batch: int, repeats: int) -> None:
    """CPU seconds at full size of a pass of one picture, and of one of MonoDLE with its gradient."""
    did_m3d, monodle = DidM3D(DidM3DConfig(pretrained=False)).eval(), MonoDLE(MonoDLEConfig(pretrained=False)).eval()
    views = random_views(1, did_m3d.input_size, focal_px=744.0)
    with torch.no_grad():
        found = did_m3d(views)  # as many regions in both forms
    objects = found.rois

    def said(at: Any, *, whole: bool) -> list[Tensor]:
        """What MonoDLE says at cells; whole: read from whole maps, as if its heads knew nothing else."""
        output = monodle(views, at)
        if not whole:
            return [*output.heads.values()]
        maps = monodle.heads(output.features["neck.4"], monodle.magnification(views))
        return [maps.pop("heatmap"), *(at_cells(dense, output.where) for dense in maps.values())]

    def step(*, whole: bool) -> None:
        torch.stack([head.sum() for head in said(objects, whole=whole)]).sum().backward()

    passes: dict[str, Callable[[bool], Any]] = {
        "DID-M3D, prediction": torch.inference_mode()(lambda whole: did_m3d(views, found if whole else None)),
        "MonoDLE, prediction": torch.inference_mode()(lambda whole: said(None, whole=whole)),
        "MonoDLE, training": lambda whole: step(whole=whole),
    }
    print(f"{'pass':30s} {'whole map ms':>12s} {'cells ms':>8s} {'ratio':>6s}")
    for name, run in passes.items():
        forms = {"whole": partial(run, True), "cells": partial(run, False)}
        ms = {form: 1e3 * seconds for form, seconds in in_turns(forms, repeats, clock=time.process_time).items()}
        print(f"{name:30s} {ms['whole']:12.0f} {ms['cells']:8.0f} {ms['whole'] / ms['cells']:6.2f}", flush=True)


def full_size(folder: Path) -> Detector:
    """The network of a shipped baseline, with random weights, in evaluation mode."""
    words = ("--detector.init_args.config.pretrained", "false")
    detector = load_config(folder / "baseline.yaml", words).run().detector
    assert isinstance(detector, Detector)
    return detector.eval().requires_grad_(False)  # the counter of operations follows parameters that have a gradient


class StackedAttention(DeformableAttention):
    """The usual fallback: samples of all levels are stacked, and summed with their weights at once."""

    def forward(self, query: Tensor, *, reference: Tensor, tokens: Tensor, shapes: Shapes) -> Tensor:
        """The same numbers as the parent's."""
        images, places = query.shape[0], reference[:, :, None, None]
        grid = (self.heads, self.levels, self.points)
        offsets = self.offsets(query).unflatten(-1, (*grid, 2))
        weights = self.weights(query).unflatten(-1, (self.heads, -1)).softmax(-1)
        values = torch.split(self.value(tokens), [rows * columns for rows, columns in shapes], 1)
        read = []
        for level, (value, shape) in enumerate(zip(values, shapes, strict=True)):
            maps = value.transpose(1, 2).reshape(images * self.heads, -1, *shape)
            where = 2 * places_of(places, offsets[:, :, :, level], shape) - 1
            read.append(functional.grid_sample(maps, where.transpose(1, 2).flatten(0, 1), align_corners=False))
        stacked = torch.stack(read, -2).flatten(-2)  # bh x w/h x q x lp
        summed = (stacked * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
        answer: Tensor = self.output(summed.reshape(images, tokens.shape[2], -1).transpose(1, 2))
        return answer


def attention(*, batch: int, repeats: int) -> None:
    """One encoder layer's attention over one picture of the full size, without and with its gradient."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"heads": HEADS, "levels": len(SHAPES), "points": POINTS}
    ours, usual = DeformableAttention(WIDTH, **sizes), StackedAttention(WIDTH, **sizes)
    torch.nn.init.normal_(ours.offsets.weight, std=0.1)
    torch.nn.init.normal_(ours.weights.weight, std=0.1)
    usual.load_state_dict(ours.state_dict())
    tokens = torch.randn(1, sum(rows * columns for rows, columns in SHAPES), WIDTH, requires_grad=True)
    given: dict[str, Any] = {"reference": cell_centres(SHAPES, like=tokens)[None], "shapes": SHAPES}
    layers = {"level by level": ours, "stacked, as usual": usual}
    apart = (ours(tokens, tokens=tokens, **given) - usual(tokens, tokens=tokens, **given)).abs().max().item()
    print(f"largest difference of the two: {apart:.1e}")

    @torch.inference_mode()
    def use(name: str) -> None:
        layers[name](tokens, tokens=tokens, **given)

    def train(name: str) -> None:
        layers[name](tokens, tokens=tokens, **given).sum().backward()

    print(f"{'attention':30s} {'use ms':>8s} {'ratio':>6s} {'train ms':>8s} {'ratio':>6s}")
    used, trained = (
        in_turns({name: lambda name=name, do=do: do(name) for name in layers}, repeats) for do in (use, train)
    )
    last = "stacked, as usual"
    for name in layers:
        row = f"{1e3 * used[name]:8.0f} {used[name] / used[last]:6.2f} {1e3 * trained[name]:8.0f}"
        print(f"{name:30s} {row} {trained[name] / trained[last]:6.2f}", flush=True)


def in_turns(
    actions: Mapping[str, Callable[[], Any]], repeats: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each action; they take turns, after a first turn that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            start = clock()
            action()
            if turn:
                seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure(config: DidM3DConfig, *, batch: int, repeats: int) -> tuple[float, float, int]:
    """Images a second in training and in use (decoding included), and the number of weights."""
    torch.manual_seed(0)
    detector, targets = DidM3D(config), random_targets(batch, config)
    views = random_views(batch, config.input_size, focal_px=250.0)
    optimizer = torch.optim.Adam(detector.parameters(), 1e-3)

    def step() -> None:
        losses = detector.loss(detector(views, targets), targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    @torch.inference_mode()
    def predict() -> None:
        detector.decode(detector(views), views)

    train = batch / in_turns({"step": step}, repeats)["step"]
    detector.eval()
    return (
        train,
        batch / in_turns({"use": predict}, repeats)["use"],
        sum(weight.numel() for weight in detector.parameters()),
    )


def random_views(batch: int, size: tuple[int, int], *, focal_px: float) -> Views:
    """Pictures of noise."""
    width, height = size
    P = torch.tensor([[focal_px, 0, width / 2, 0], [0, focal_px, height / 2, 0], [0, 0, 1, 0]])
    letterbox = Letterbox(torch.ones(batch), torch.zeros(batch, 2), size)
    return Views(torch.rand(batch, 3, height, width), Camera(P.expand(batch, 3, 4)), letterbox)


def random_targets(batch: int, config: DidM3DConfig) -> DidM3DTargets:
    """Some objects an image, anywhere."""
    count = OBJECTS_AN_IMAGE * batch
    columns, rows = config.input_size[0] // 4, config.input_size[1] // 4
    cell = torch.stack([torch.randint(columns, (count,)), torch.randint(rows, (count,))], 1)
    grid = (count, ROI_CELLS, ROI_CELLS)
    return DidM3DTargets(
        heatmap=torch.rand(batch, len(config.classes), rows, columns),
        image=torch.arange(batch).repeat_interleave(OBJECTS_AN_IMAGE),
        cell=cell,
        label=torch.randint(len(config.classes), (count,)),
        box_2d=torch.cat([cell - 3.0, cell + 3.0], 1),
        offset_2d=torch.rand(count, 2),
        size_2d=6 * torch.rand(count, 2),
        offset_3d=torch.rand(count, 2),
        size_3d=torch.rand(count, 3),
        heading_bin=torch.randint(12, (count,)),
        heading_residual=torch.rand(count) / 10,
        depth=40 * torch.rand(count),
        visual_depth=40 * torch.rand(grid),
        attribute_depth=torch.rand(grid),
        depth_mask=torch.rand(grid) < 0.5,
        unsupervised=torch.zeros(batch, dtype=torch.int64),
        weight=torch.ones(count),
        labelled=torch.ones(batch, dtype=torch.bool),
    )


if __name__ == "__main__":
    main()
