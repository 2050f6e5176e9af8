"""A step of training to be timed: a student alone or with a teacher, on one random batch, as benchmarks share it."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from detector_speed import random_targets
from torch import Tensor, nn

from monoskd.distill import Distilled, Distiller
from monoskd.engine.config import OptimizerConfig
from monoskd.engine.load import load_config
from monoskd.engine.training import Training
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.structures import Batch, Views

SIZE, BATCH = (1280, 384), 16
SMALL_SIZE, SMALL_BATCH = (128, 64), 2
SMALL_NETWORK: dict[str, Any] = {"backbone_arguments": {"channels": [4, 4, 8, 8, 8, 8]}, "head_width": 8}
RECIPES = {
    "student": None,
    "monoskd": "kitti/monoskd.yaml",
    "monoskd_published": "kitti/monoskd_published.yaml",
    "monodistill": "kitti/monodistill.yaml",
    "monodistill_published": "kitti/monodistill_published.yaml",
}


@dataclass
class Workload:
    """A student that trains, alone or with a teacher, on one random batch on the device."""

    student: DidM3D
    distiller: Distiller | None
    views: Views
    depth: Views
    targets: DidM3DTargets
    optimizer: torch.optim.Optimizer
    autocast: torch.dtype | None

    @classmethod
    def make(
        cls,
        recipe: str,
        *,
        device: torch.device,
        small: bool,
        batch: int | None = None,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
        compile: bool = False,
        size: tuple[int, int] = SIZE,
        teacher_dtype: torch.dtype | None = None,
    ) -> Self:
        """The same weights and batch for the same arguments, wherever it runs. size: unless `small`.

        teacher_dtype: of the teacher's pass, which then is channels last.
        """
        torch.manual_seed(0)
        sizes = {"input_size": SMALL_SIZE, **SMALL_NETWORK} if small else {"input_size": size}
        config = DidM3DConfig(pretrained=False, **sizes)
        batch = batch or (SMALL_BATCH if small else BATCH)
        student = DidM3D(config)
        student.adapt_to(focal_px=700.0, input_focal_px=700.0)
        distiller = None
        if (source := RECIPES[recipe]) is not None:
            teacher = DidM3D(replace(config, modality="depth"))
            teacher.adapt_to(focal_px=700.0, input_focal_px=700.0)
            if channels_last or teacher_dtype is not None:
                teacher.to(memory_format=torch.channels_last)
            distiller = distiller_of(source, student, teacher, teacher_dtype=teacher_dtype)
            views, depth, targets = random_batch(1, config)  # enough to shape the adapters, on the CPU
            distiller.materialize(views, targets, teacher_inputs=(depth, targets))
        views, depth, targets = random_batch(batch, config)
        trained: nn.Module = student if distiller is None else distiller
        trained.to(device)
        if channels_last:
            trained.to(memory_format=torch.channels_last)
        if compile:
            trained.compile(backend="eager" if small else "inductor")
        optimizer = torch.optim.Adam(trained.parameters(), 1e-3, fused=True)  # as `monoskd train`
        return cls(student, distiller, views.to(device), depth.to(device), targets.to(device), optimizer, autocast)

    def double(self) -> Self:
        """The same in float64."""
        self.trained.double()
        return replace(self, views=self.views.double(), depth=self.depth.double(), targets=self.targets.double())

    @property
    def trained(self) -> nn.Module:
        """What the optimiser changes."""
        return self.student if self.distiller is None else self.distiller

    def outputs(self) -> Any:
        """The student's output, or the distiller's with all terms."""
        if self.distiller is None:
            return self.student(self.views, self.targets)
        return self.distiller(self.views, self.targets, teacher_inputs=(self.depth, self.targets), targets=self.targets)

    def losses(self) -> dict[str, Tensor]:
        """Every loss by name, the distillation terms with their weights."""
        device = self.views.images.device.type
        with torch.autocast(device, self.autocast) if self.autocast else nullcontext():
            out = self.outputs()
            output = out.student if isinstance(out, Distilled) else out
            losses = self.student.loss(output, self.targets)
        return losses | ({"distillation": out.total} if isinstance(out, Distilled) else {})

    def training(self) -> tuple[Training, Batch]:
        """The module and the batch with which `monoskd train` takes this step; its `log_dict` needs a trainer."""
        training = Training(self.student, optimizer=OptimizerConfig(), epochs=1, distiller=self.distiller)
        count = len(self.views)
        return training, Batch(
            frames=[""] * count,
            image=(255 * self.views.images).to(torch.uint8),
            cameras=self.views.cameras,
            letterbox=self.views.letterbox,
            picture_sizes=[self.views.letterbox.size] * count,
            depth=self.depth.images,
            targets=self.targets,
            objects=[None] * count,
            all_labelled=True,
        )

    def step(self, scaler: torch.amp.GradScaler | None = None) -> Tensor:
        """One step of the optimiser; the loss before it, still on the device."""
        loss = torch.stack([*self.losses().values()]).sum()
        self.optimizer.zero_grad()
        if scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(self.optimizer)
            scaler.update()
        return loss.detach()


def distiller_of(
    source: str, student: DidM3D, teacher: DidM3D, *, teacher_dtype: torch.dtype | None = None
) -> Distiller:
    """The distiller of a shipped config, around other networks."""
    channels = student.config.backbone_arguments.get("channels", (0, 0, 0, 128, 256, 512))[3:]
    words = ["--start", "none", "--distillation.teacher", "none"]
    if "monodistill" in source:
        words += ["--distillation.fusion.init_args.channels", json.dumps(list(channels))]
    config = load_config(Path(source), words).run().distillation
    assert config is not None
    return Distiller(
        student,
        teacher,
        taps=config.taps,
        terms=config.terms,
        fusion=config.fusion,
        teacher_batch_statistics=config.teacher_batch_statistics,
        teacher_dtype=teacher_dtype,
    )


def random_batch(batch: int, config: DidM3DConfig) -> tuple[Views, Views, DidM3DTargets]:
    """Pictures, depth maps and objects anywhere."""
    width, height = config.input_size
    P = torch.tensor([[700.0, 0, width / 2, 0], [0, 700, height / 2, 0], [0, 0, 1, 0]]).expand(batch, 3, 4)
    letterbox = Letterbox(torch.ones(batch), torch.zeros(batch, 2), config.input_size)
    pictures, metres = torch.rand(batch, 3, height, width), 80 * torch.rand(batch, 1, height, width)
    targets = random_targets(batch, config)
    return Views(pictures, Camera(P), letterbox), Views(metres, Camera(P), letterbox), targets
