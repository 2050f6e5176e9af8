"""The KITTI recipe by hand: a monocular 3D detector learns from the same detector that sees LiDAR depth.

monoskd synth scenes --frames 32 --size 320x96 && monoskd prepare scenes
python examples/distil_kitti.py scenes
"""

import sys

import torch
from torch.utils.data import DataLoader

from monoskd.data.samples import Samples
from monoskd.distill import AffinityLoss, Distiller, SpearmanLoss, Tap, Term
from monoskd.kitti.source import KittiFrames
from monoskd.models import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.teaching import HeadLoss
from monoskd.structures import Batch


def main(root: str, steps: int = 4) -> list[float]:
    """Distil for a few steps; returns the losses."""
    small = {"backbone_arguments": {"channels": [4, 4, 8, 16, 32, 64]}, "head_width": 32, "pretrained": False}
    teacher = DidM3D(DidM3DConfig(modality="depth", input_size=(320, 96), **small))  # load_model("teacher.safetensors")
    student = DidM3D(DidM3DConfig(modality="rgb", input_size=(320, 96), **small))
    distiller = Distiller(
        student,
        teacher,
        taps=[Tap(f"neck.{stride}", adapter="conv") for stride in (4, 8, 16, 32)],
        terms={"rank": SpearmanLoss(), "affinity": AffinityLoss(), "head": Term(HeadLoss(), between="output")},
    )
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-3)
    frames = Samples(KittiFrames(root), input_size=student.input_size, targets=student.target_maker())
    losses = []
    for _, batch in zip(range(steps), DataLoader(frames, batch_size=4, collate_fn=Batch.collate), strict=False):
        rgb, depth, targets = batch.views("rgb"), batch.views("depth"), batch.targets
        out = distiller(rgb, targets, teacher_inputs=(depth, targets), targets=targets)
        loss = sum(student.loss(out.student, targets).values()) + out.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(main(sys.argv[1]))
