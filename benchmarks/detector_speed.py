"""Images a second of the detector in training and in use: `python benchmarks/detector_speed.py`.

The ratios to the first row are what to compare between machines.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.structures import ROI_CELLS, DidM3DTargets
from monoskd.structures import Views

EIGHTH = {"channels": [4, 4, 8, 16, 32, 64]}
CONFIGS = {
    "dla34": DidM3DConfig(pretrained=False, input_size=(320, 96)),
    "dla34, eighth": DidM3DConfig(pretrained=False, input_size=(320, 96), backbone_arguments=EIGHTH, head_width=32),
    "dla34, eighth, early stride": DidM3DConfig(
        pretrained=False, input_size=(320, 96), backbone_arguments=EIGHTH, head_width=32, backbone_early_stride=True
    ),
}
OBJECTS_AN_IMAGE = 4


def main() -> None:
    """Print a row for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reference = None
    print(f"{'backbone':30s} {'M params':>8s} {'train/s':>8s} {'use/s':>8s} {'ratio':>6s} {'ratio':>6s}")
    for name, config in CONFIGS.items():
        train, use, parameters = measure(config, batch=options.batch, repeats=options.repeats)
        reference = reference or (train, use)
        ratios = f"{train / reference[0]:6.1f} {use / reference[1]:6.1f}"
        print(f"{name:30s} {parameters / 1e6:8.2f} {train:8.1f} {use:8.1f} {ratios}", flush=True)


def measure(config: DidM3DConfig, *, batch: int, repeats: int) -> tuple[float, float, int]:
    """Images a second in training and in use (decoding included), and the number of weights."""
    torch.manual_seed(0)
    detector, targets = DidM3D(config), random_targets(batch, config)
    width, height = config.input_size
    images = torch.rand(batch, 3, height, width)
    camera = Camera(torch.tensor([[250.0, 0, width / 2, 0], [0, 250, height / 2, 0], [0, 0, 1, 0]]).expand(batch, 3, 4))
    letterbox = Letterbox(torch.ones(batch), torch.zeros(batch, 2), config.input_size)
    views = Views(images, camera, letterbox)
    optimizer = torch.optim.Adam(detector.parameters(), 1e-3)

    def step() -> None:
        losses = detector.loss(detector(views, targets), targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    @torch.inference_mode()
    def predict() -> None:
        detector.decode(detector(views), views)

    train = batch / median_seconds(step, repeats)
    detector.eval()
    return train, batch / median_seconds(predict, repeats), sum(weight.numel() for weight in detector.parameters())


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


def median_seconds(action: Callable[[], None], repeats: int) -> float:
    """Of one call, after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
