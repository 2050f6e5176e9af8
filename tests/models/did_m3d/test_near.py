"""A pass at objects computes two heads near them alone: losses and gradients stay as they are."""

from collections.abc import Callable

import pytest
import torch

from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models.did_m3d import DidM3D
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.models.did_m3d.teaching.head import HeadLoss
from monoskd.structures import Views


@pytest.mark.parametrize("objects", [6, 0])
def test_losses_and_gradients_are_those_of_whole_maps(
    objects: int,
    detector: DidM3D,
    cameras: Camera,
    letterbox: Letterbox,
    random_targets: Callable[[int], DidM3DTargets],
) -> None:
    views, targets = Views(torch.rand(2, 3, 96, 160), cameras, letterbox), random_targets(objects)
    teacher = detector.forward_normalised(torch.rand(2, 3, 96, 160), views, rois=targets.rois)
    near = detector(views, targets)
    whole = detector.forward_normalised(detector.normalise(views), views, rois=targets.rois)
    assert (near.heads["size_2d"] == 0).any()
    assert not (whole.heads["size_2d"] == 0).any()
    losses, gradients = zip(*(learn(detector, output, teacher, targets) for output in (near, whole)), strict=True)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def learn(
    detector: DidM3D, output: DidM3DOutput, teacher: DidM3DOutput, targets: DidM3DTargets
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    losses = detector.loss(output, targets)
    for published in (False, True):
        term = HeadLoss(published=published)
        losses |= {
            f"{name} {published}": x for name, x in term.parts(student=output, teacher=teacher, targets=targets).items()
        }
    total = torch.stack([*losses.values()]).sum()
    found = torch.autograd.grad(total, [*detector.parameters()], retain_graph=True, allow_unused=True)
    return losses, [torch.zeros(()) if x is None else x for x in found]


def test_a_head_that_is_watched_is_computed_whole(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox, random_targets: Callable[[int], DidM3DTargets]
) -> None:
    seen = {}
    detector.dense.size_2d.register_forward_hook(lambda module, args, output: seen.update(map=output))
    output = detector(Views(torch.rand(2, 3, 96, 160), cameras, letterbox), random_targets(4))
    assert torch.equal(output.heads["size_2d"], seen["map"])
