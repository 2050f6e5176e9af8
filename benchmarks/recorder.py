"""What the flight recorder costs: OMP_NUM_THREADS=1 python benchmarks/recorder.py [--every 50] [--repeats 5]

The time of a training step with a reading over that of a step without one, measured in turns so that both see the same
machine, and from it the cost of one reading every so many steps. MonoSKD's terms on the neck of DID-M3D with DLA-34.
"""

import argparse
import statistics
import time
from types import SimpleNamespace

import torch

from monoskd.distill import AffinityLoss, Distiller, FlightRecorder, SpearmanLoss, Tap
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.structures import Rois
from monoskd.structures import Views

LIMIT = 0.05  # of a step
SIZE = (640, 192)  # (width, height) [px]
BATCH = 2
OBJECTS = 4  # an image


def detector(modality: str) -> DidM3D:
    """DID-M3D as published, but for the size of the image."""
    return DidM3D(DidM3DConfig(modality=modality, input_size=SIZE, pretrained=False))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=50, help="steps between readings")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each kind")
    options = parser.parse_args()
    torch.manual_seed(0)
    student = detector("rgb")
    distiller = Distiller(
        student,
        detector("depth"),
        taps=[Tap(f"neck.{stride}", adapter="conv") for stride in (4, 8, 16, 32)],
        terms={"rank": SpearmanLoss(), "affinity": AffinityLoss()},
    )
    recorder = FlightRecorder(distiller, every=1)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-4)
    width, height = SIZE
    letterbox = Letterbox(torch.ones(BATCH), torch.zeros(BATCH, 2), SIZE)
    camera = torch.tensor([[720.0, 0, width / 2, 0], [0, 720.0, height / 2, 0], [0, 0, 1, 0]])
    image = torch.arange(BATCH).repeat_interleave(OBJECTS)
    cells = torch.stack([torch.randint(width // 4, image.shape), torch.randint(height // 4, image.shape)], 1)
    cameras = Camera(camera.expand(BATCH, 3, 4))
    at = SimpleNamespace(rois=Rois(image, cells, torch.ones_like(image)))  # all that the networks read of targets
    pictures = Views(torch.rand(BATCH, 3, height, width), cameras, letterbox)
    depths = Views(torch.rand(BATCH, 1, height, width) * 80, cameras, letterbox)

    def step(*, recorded: bool) -> float:
        start = time.perf_counter()
        out = distiller(pictures, at, teacher_inputs=(depths, at))
        task = sum(head.square().mean() for head in out.student.heads.values())
        if recorded:
            recorder.record(out, task=task)
        optimizer.zero_grad()
        (task + out.total).backward()
        optimizer.step()
        return time.perf_counter() - start

    step(recorded=True)
    pairs = [(step(recorded=False), step(recorded=True)) for _ in range(options.repeats)]
    plain = statistics.median(plain for plain, _ in pairs)
    ratio = statistics.median(recorded / plain for plain, recorded in pairs)
    cost = (ratio - 1) / options.every
    verdict = "kept" if cost < LIMIT else "BROKEN"
    print(f"step without a reading   {plain:8.3f} s      ({BATCH} x {width} x {height}, DLA-34)")
    print(f"step with a reading      {ratio:8.2f} times that")
    print(f"one every {options.every:3d} steps      {cost:8.2%} of a step (limit {LIMIT:.0%}: {verdict})")


if __name__ == "__main__":
    main()
