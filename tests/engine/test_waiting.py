"""What a training step asks of the device, for whose answer the host would wait: on a CPU, by the operations."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from workload import Workload

from monoskd.distill import ranks
from monoskd.engine.training import labelled
from monoskd.models.monodle.losses import task_losses
from monoskd.models.monodle.structures import MonoDLETargets

READS = ("_local_scalar_dense", "nonzero", "masked_select")  # numbers of the device that the host reads
SENDS = ("lift_fresh",)  # numbers of the host, as in torch.tensor(...)


class Waits(TorchDispatchMode):
    """Notes every operation at which a GPU's host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        chosen = args[1] if name in ("index", "index_put", "index_put_") else []
        if name in (*READS, *SENDS) or any(at is not None and at.dtype == torch.bool for at in chosen):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def one_hot(label: Tensor, count: int) -> Tensor:
    return (label[..., None] == torch.arange(count)).long()


@pytest.mark.parametrize("recipe", ["student", "monoskd", "monodistill"])
def test_a_training_step_never_waits(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_on_host", lambda x: False)  # the way of a GPU
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)  # torch's own reads the labels, on CPUs alone
    training, batch = Workload.make(recipe, device=torch.device("cpu"), small=True).training()
    monkeypatch.setattr(training, "log_dict", lambda values: None)  # reads them once in `log_every` steps
    with Waits() as waits:
        training.training_step(batch, 0).backward()
    assert waits.found == []


def test_a_mixed_batch_waits_to_choose_the_labelled_images() -> None:
    workload = Workload.make("student", device=torch.device("cpu"), small=True)
    output = workload.outputs()
    with Waits() as waits:
        labelled(output, workload.targets, all_labelled=True)
    assert waits.found == []
    with Waits() as waits:
        labelled(output, workload.targets, all_labelled=False)
    assert "index" in waits.found


def test_monodles_losses_never_wait() -> None:
    objects, rows = 5, {"offset_2d": 2, "size_2d": 2, "offset_3d": 2, "dimensions": 3, "mean_size": 3}
    image = torch.zeros(objects, dtype=torch.int64)
    targets = MonoDLETargets(
        image=image,
        labelled=torch.tensor([True]),
        heatmap=torch.zeros(1, 3, 8, 8),
        cell=torch.zeros(objects, 2, dtype=torch.int64),
        label=image,
        **{name: torch.rand(objects, columns) + 1 for name, columns in rows.items()},
        heading_bin=image,
        heading_residual=torch.zeros(objects),
        depth=torch.full((objects,), 20.0),
        has_3d=torch.arange(objects) % 2 == 0,
        weight=torch.ones(objects),
    )
    widths = {"offset_2d": 2, "size_2d": 2, "offset_3d": 2, "size_3d": 3, "depth": 1, "depth_log_std": 1, "heading": 24}
    heads = {name: torch.rand(objects, columns, requires_grad=True) for name, columns in widths.items()}
    heads["heatmap"] = torch.rand(1, 3, 8, 8, requires_grad=True)
    with Waits() as waits:
        torch.stack([*task_losses(heads, targets, clamped_heat=False).values()]).sum().backward()
    assert waits.found == []
