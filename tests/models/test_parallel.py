"""Losses of shares of a batch, as the processes of a training compute them, average to the loss of the whole batch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from monoskd import parallel
from monoskd.distill import BoxLoss
from monoskd.distill.center import RunningMean
from monoskd.models.dense import CellOutput
from monoskd.models.did_m3d import teaching
from monoskd.models.did_m3d.losses import task_losses
from monoskd.models.did_m3d.structures import DidM3DOutput, DidM3DTargets
from monoskd.models.heatmap import Peaks
from monoskd.models.monocon import teaching as monocon_teaching
from monoskd.models.monocon.losses import task_losses as monocon_losses
from monoskd.models.monocon.structures import MonoConOutput, MonoConTargets
from monoskd.models.monodetr import teaching as monodetr_teaching
from monoskd.models.monodetr.losses import task_losses as monodetr_losses
from monoskd.models.monodetr.structures import MonoDETROutput, MonoDETRTargets
from monoskd.models.monodle import teaching as monodle_teaching
from monoskd.models.monodle.losses import task_losses as monodle_losses
from monoskd.models.monodle.structures import MonoDLETargets
from monoskd.structures import DetectorOutput

WHOLE = torch.ones(4, dtype=torch.bool)
SHARES = [torch.tensor([True, True, False, False]), torch.tensor([False, False, True, True])]


def in_processes(monkeypatch: pytest.MonkeyPatch, tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each task gives where each is one process: all-reduce without processes, by repetition until sums settle.

    Fails where one asks more often for a sum than another, in which real processes would wait for ever.
    """
    sums: list[Tensor] = []
    asked: list[Tensor] = []

    def total(values: Tensor) -> Tensor:
        asked.append(values.clone())
        return sums[len(asked) - 1] if len(asked) <= len(sums) else values

    monkeypatch.setattr(parallel, "processes", lambda: len(tasks))
    monkeypatch.setattr(parallel, "_total", total)
    for _ in range(5):
        results, questions = [], []
        for task in tasks:
            asked.clear()
            results.append(task())
            questions.append([*asked])
        settled = [sum(parts[1:], parts[0]) for parts in zip(*questions, strict=True)]
        if len(sums) == len(settled) and all(torch.equal(*pair) for pair in zip(sums, settled, strict=True)):
            monkeypatch.undo()
            return results
        sums = settled
    raise AssertionError("the sums depend on each other without end")


@pytest.fixture(params=["spread", "first half"])
def targets(random_targets: Callable[..., DidM3DTargets], request: pytest.FixtureRequest) -> DidM3DTargets:
    """Seven objects, unevenly in four images or all in the first two."""
    targets = random_targets(7, images=4).double()
    image = targets.image if request.param == "spread" else targets.image % 2
    return replace(targets, image=image, weight=torch.linspace(0.2, 1, 7).double())


def output_at(targets: DidM3DTargets, seed: int) -> DidM3DOutput:
    draw = torch.Generator().manual_seed(seed)
    images, n, size = len(targets.heatmap), len(targets.label), targets.heatmap.shape[2:]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    heads = {name: normal(images, k, *size) for name, k in (("heatmap", 3), ("offset_2d", 2), ("size_2d", 2))}
    heads |= {name: normal(n, k) for name, k in (("offset_3d", 2), ("size_3d", 3), ("heading", 24))}
    for name in ("visual_depth", "attribute_depth", "depth"):
        heads[name], heads[f"{name}_log_variance"] = normal(n, 7, 7), normal(n, 7, 7)
        if name != "depth":
            heads[f"{name.removesuffix('_depth')}_log_variance"] = heads.pop(f"{name}_log_variance")
    heads = {name: head.requires_grad_() for name, head in heads.items()}
    return DidM3DOutput({}, heads, targets.rois, targets.box_2d, torch.ones(n))


def check(monkeypatch: pytest.MonkeyPatch, student: DetectorOutput, loss: Callable[[Tensor], Tensor]) -> None:
    """The mean of the shares' losses is that of all images, and so is its gradient."""
    whole = loss(WHOLE)
    mean = torch.stack(in_processes(monkeypatch, [lambda: loss(SHARES[0]), lambda: loss(SHARES[1])])).mean()
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=1e-12)
    leaves = [*student.heads.values()]
    expected, got = (torch.autograd.grad(x, leaves, materialize_grads=True, allow_unused=True) for x in (whole, mean))
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


def test_task_losses_of_did_m3d(monkeypatch: pytest.MonkeyPatch, targets: DidM3DTargets) -> None:
    output = output_at(targets, 0)

    def loss(images: Tensor) -> Tensor:
        return torch.stack([*task_losses(output.of(images).heads, targets.of(images)).values()]).sum()

    check(monkeypatch, output, loss)


@pytest.mark.parametrize("term", [teaching.HeadLoss(), teaching.HeadLoss(published=True)])
def test_head_loss_of_did_m3d(monkeypatch: pytest.MonkeyPatch, targets: DidM3DTargets, term: Any) -> None:
    student, teacher = output_at(targets, 0), output_at(targets, 1)

    def loss(images: Tensor) -> Tensor:
        value: Tensor = term(student=student.of(images), teacher=teacher.of(images), targets=targets.of(images))
        return value

    check(monkeypatch, student, loss)


def test_response_loss_of_did_m3d(monkeypatch: pytest.MonkeyPatch, targets: DidM3DTargets) -> None:
    soft, student = replace(targets, labelled=torch.tensor([True, False, False, True])), output_at(targets, 0)

    def loss(images: Tensor) -> Tensor:
        return teaching.ResponseLoss()(student=student.of(images), targets=soft.of(images))

    check(monkeypatch, student, loss)


def test_object_loss_and_what_it_remembers(monkeypatch: pytest.MonkeyPatch, targets: DidM3DTargets) -> None:
    answer = output_at(targets, 1)
    maps = torch.randn(2, 7, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    terms: dict[int, teaching.ObjectLoss] = {}

    def loss(images: Tensor, number: int) -> Tensor:
        rows, terms[number] = images[targets.image], teaching.ObjectLoss()
        seen = {"targets": targets.of(images), "teacher_output": answer.of(images)}
        return terms[number](student=maps[0][rows], teacher=maps[1][rows], **seen)

    whole = loss(WHOLE, 2)
    values = in_processes(monkeypatch, [lambda: loss(SHARES[0], 0), lambda: loss(SHARES[1], 1)])
    torch.testing.assert_close(torch.stack(values).mean(), whole, rtol=1e-5, atol=1e-6)
    for number in range(2):
        mine, all_ = terms[number].moments.level_0, terms[2].moments.level_0
        torch.testing.assert_close(mine, all_, rtol=1e-5, atol=1e-6)


def monodle_targets(targets: DidM3DTargets) -> MonoDLETargets:
    names = ("image", "labelled", "heatmap", "cell", "label", "offset_2d", "size_2d", "offset_3d")
    shared = {name: getattr(targets, name) for name in (*names, "heading_bin", "heading_residual", "depth", "weight")}
    sizes = {"dimensions": targets.size_3d.abs() + 1, "mean_size": torch.ones(7, 3).double()}
    return MonoDLETargets(**shared, **sizes, has_3d=torch.arange(7) % 3 != 0)


def monodle_output(targets: MonoDLETargets, seed: int) -> CellOutput:
    draw = torch.Generator().manual_seed(seed)
    channels = {
        "offset_2d": 2,
        "size_2d": 2,
        "offset_3d": 2,
        "size_3d": 3,
        "heading": 24,
        "depth": 1,
        "depth_log_std": 1,
    }
    shapes = {"heatmap": targets.heatmap.shape, **{name: (len(targets.image), k) for name, k in channels.items()}}
    heads = {
        name: torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }
    where = Peaks(targets.image, targets.cell, targets.label, torch.ones(len(targets.image)))
    return CellOutput({}, heads, where)


def test_losses_of_monodle(monkeypatch: pytest.MonkeyPatch, targets: DidM3DTargets) -> None:
    hard = monodle_targets(targets)
    soft = replace(hard, labelled=torch.zeros(4, dtype=torch.bool))
    student, teacher = monodle_output(hard, 0), monodle_output(hard, 1)

    def task(images: Tensor) -> Tensor:
        losses = monodle_losses(student.of(images).heads, hard.of(images), clamped_heat=False)
        return torch.stack([*losses.values()]).sum()

    def head(images: Tensor) -> Tensor:
        outputs = {"student": student.of(images), "teacher": teacher.of(images)}
        return monodle_teaching.HeadLoss()(**outputs, targets=hard.of(images))

    def response(images: Tensor) -> Tensor:
        return monodle_teaching.ResponseLoss()(student=student.of(images), targets=soft.of(images))

    for loss in (task, head, response):
        check(monkeypatch, student, loss)


def monocon_targets(targets: DidM3DTargets) -> MonoConTargets:
    draw = torch.Generator().manual_seed(2)
    shared = {name: value for name, value in vars(monodle_targets(targets)).items() if name != "has_3d"}
    seen = torch.rand(7, 9, generator=draw) > 0.4
    cells = targets.cell[:, None].expand(-1, 9, -1)
    heat = 0.9 * torch.rand(4, 9, *targets.heatmap.shape[2:], generator=draw, dtype=torch.float64)
    heat[targets.image[:, None].expand_as(seen)[seen], seen.nonzero()[:, 1], cells[seen][:, 1], cells[seen][:, 0]] = 1
    return MonoConTargets(
        **shared,
        keypoint_heatmap=heat,
        corners=torch.randn(7, 8, 2, generator=draw, dtype=torch.float64),
        has_corner=torch.rand(7, 8, generator=draw) > 0.3,
        keypoint_cell=cells,
        keypoint_offset=torch.rand(7, 9, 2, generator=draw, dtype=torch.float64),
        has_keypoint=seen,
    )


def monocon_output(targets: DidM3DTargets, hard: MonoConTargets) -> MonoConOutput:
    draw, alike = torch.Generator().manual_seed(3), monodle_output(monodle_targets(targets), 0)
    shapes = {"corners": (7, 16), "keypoint_offset": (7, 9, 2), "keypoint_heatmap": hard.keypoint_heatmap.shape}
    auxiliary = {
        name: torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }
    return MonoConOutput({}, alike.heads | auxiliary, alike.where)


def test_losses_of_monocon(monkeypatch: pytest.MonkeyPatch, targets: DidM3DTargets) -> None:
    hard = monocon_targets(targets)
    soft, student = replace(hard, labelled=torch.zeros(4, dtype=torch.bool)), monocon_output(targets, hard)

    def task(images: Tensor) -> Tensor:
        return torch.stack([*monocon_losses(student.of(images).heads, hard.of(images)).values()]).sum()

    def response(images: Tensor) -> Tensor:
        return monocon_teaching.ResponseLoss()(student=student.of(images), targets=soft.of(images))

    for loss in (task, response):
        check(monkeypatch, student, loss)


def monodetr_targets(targets: DidM3DTargets) -> MonoDETRTargets:
    draw = torch.Generator().manual_seed(4)
    names = ("image", "labelled", "label", "heading_bin", "heading_residual", "weight")
    return MonoDETRTargets(
        **{name: getattr(targets, name) for name in names},
        depth=targets.depth.abs() + 1,
        magnification=torch.linspace(0.5, 2, 4).double(),
        depth_bin=torch.randint(0, 6, (4, 2, 3), generator=draw),
        foreground=torch.rand(4, 2, 3, generator=draw) > 0.5,
        box=torch.rand(7, 6, generator=draw, dtype=torch.float64),
        dimensions=targets.size_3d.abs() + 1,
    )


def monodetr_output(*, groups: int, seed: int) -> MonoDETROutput:
    """Of 4 images and 8 queries a group; the earlier layer says the same backwards."""
    draw = torch.Generator().manual_seed(seed)
    widths = {"logits": 3, "boxes": 6, "size_3d": 3, "heading": 24, "depth": 1, "depth_log_std": 1}
    heads = {
        name: torch.rand(4, 8 * groups, width, generator=draw, dtype=torch.float64) for name, width in widths.items()
    }
    heads["depth_map"] = torch.randn(4, 6, 2, 3, generator=draw, dtype=torch.float64)
    heads = {name: head.requires_grad_() for name, head in heads.items()}
    return MonoDETROutput({}, heads, {"0": {name: heads[name].flip(1) for name in widths}}, groups)


def test_losses_of_monodetr(monkeypatch: pytest.MonkeyPatch, targets: DidM3DTargets) -> None:
    hard = monodetr_targets(targets)
    soft = replace(hard, labelled=torch.tensor([True, False, False, True]))
    student, teacher = monodetr_output(groups=2, seed=0), monodetr_output(groups=1, seed=1)

    def task(images: Tensor) -> Tensor:
        return torch.stack([*monodetr_losses(student.of(images), hard.of(images)).values()]).sum()

    def head(images: Tensor) -> Tensor:
        outputs = {"student": student.of(images), "teacher": teacher.of(images)}
        return monodetr_teaching.HeadLoss()(**outputs, targets=hard.of(images))

    def response(images: Tensor) -> Tensor:
        return monodetr_teaching.ResponseLoss()(student=student.of(images), targets=soft.of(images))

    for loss in (task, head, response):
        check(monkeypatch, student, loss)


@pytest.mark.parametrize("weighted", [False, True])
def test_box_loss_of_uneven_numbers_of_boxes(monkeypatch: pytest.MonkeyPatch, weighted: bool) -> None:
    student, teacher, weight = *torch.randn(2, 7, 4, dtype=torch.float64), torch.rand(7, dtype=torch.float64)

    def loss(rows: slice) -> Tensor:
        return BoxLoss()(student=student[rows], teacher=teacher[rows], mask=weight[rows] if weighted else None)

    shares = in_processes(monkeypatch, [lambda: loss(slice(2)), lambda: loss(slice(2, 7))])
    torch.testing.assert_close(torch.stack(shares).mean(), loss(slice(7)))


def test_running_means_are_those_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(4, 3, 2, 2)
    whole, parts = RunningMean(), [RunningMean(), RunningMean()]
    whole.learn([maps])

    def share(number: int) -> None:
        parts[number] = RunningMean()
        parts[number].learn([maps[2 * number : 2 * number + 2]])

    in_processes(monkeypatch, [lambda: share(0), lambda: share(1)])
    for part in parts:
        torch.testing.assert_close(part.level_0, whole.level_0)


def test_a_process_alone_divides_by_its_own_count() -> None:
    like = torch.zeros(())
    assert [parallel.normaliser(count, like=like) for count in (0, 3)] == [1, 3]
    assert parallel.normaliser(3, like=like, least=4) == 4
    assert parallel.normaliser(torch.tensor(0), like=like).item() == 1
    assert parallel.average({"a": like})["a"] is like
