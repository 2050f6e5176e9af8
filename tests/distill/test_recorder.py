import csv
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from monoskd.distill import Distilled, Distiller, FlightRecorder, Outlet, SpearmanLoss, Tap, Term
from monoskd.errors import InputError


def constant(value: float):
    """A loss that pulls the student's map up or down everywhere, and is worth `value` now."""

    def loss(*, student: Tensor, teacher: Tensor) -> Tensor:
        return value + (student - student.detach()).sum() * value

    return loss


def distiller(**terms: Term) -> Distiller:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return Distiller(student, nn.Sequential(nn.Conv2d(3, 4, 3)), taps=[Tap("0")], terms=terms)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def read(recorder: FlightRecorder, out: Distilled, **options) -> dict[str, float]:
    return {name.removeprefix("flight/"): value for name, value in recorder.record(out, **options).items()}


def test_the_published_run_would_have_shown_its_spearman_term_at_1_7_percent(images: Tensor) -> None:
    """The last epoch of the published log: affinity 6.27, head 2.88, Spearman 0.155."""
    distil = distiller(affinity=Term(constant(6.27)), head=Term(constant(2.88)), rank=Term(constant(0.155)))
    reading = read(FlightRecorder(distil), distil(images))
    assert reading["rank/loss_share"] == pytest.approx(0.0167, abs=1e-4)
    assert reading["rank/gradient_share"] == pytest.approx(0.0167, abs=1e-4)
    assert reading["affinity/loss"] == pytest.approx(6.27)


def test_weights_count_in_shares_and_not_in_losses(images: Tensor) -> None:
    distil = distiller(a=Term(constant(2.0), weight=3.0), b=Term(constant(4.0), weight=-0.5))
    reading = read(FlightRecorder(distil), distil(images), task=torch.tensor(2.0))
    assert (reading["a/loss"], reading["b/loss"], reading["task/loss"]) == (2.0, 4.0, 2.0)
    shares = [reading[f"{name}/loss_share"] for name in ("a", "b", "task")]
    assert shares == pytest.approx([0.6, 0.2, 0.2])
    assert reading["a/gradient_share"] == pytest.approx(0.75)


def test_gradients_are_those_of_backward(images: Tensor) -> None:
    distil = distiller(rank=Term(SpearmanLoss(), weight=2.0), affinity=Term(constant(1e-3)))
    out = distil(images)
    task = out.student.square().mean()
    reading = read(FlightRecorder(distil), out, task=task)
    source = out.maps["0"].source
    source.retain_grad()
    pulls = {}
    for name, loss in {"rank": 2.0 * out.terms["rank"], "affinity": out.terms["affinity"], "task": task}.items():
        source.grad = None
        loss.backward(retain_graph=True)
        pulls[name] = source.grad.flatten().clone()
    total = sum(pull.norm() for pull in pulls.values())
    for name, pull in pulls.items():
        assert reading[f"{name}/gradient_share"] == pytest.approx((pull.norm() / total).item(), rel=1e-4)
    cosine = torch.cosine_similarity(pulls["rank"], pulls["task"], dim=0).item()
    assert reading["rank/task_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert "task/task_cosine" not in reading


def test_a_map_that_is_overwritten_later_is_read_where_it_was(images: Tensor) -> None:
    readings = []
    for in_place in (False, True):
        distil = distiller(rank=Term(constant(1.0)))
        student = nn.Sequential(distil.student[0], nn.ReLU(inplace=in_place), distil.student[2])
        tap = Tap(Outlet("0", view=torch.clone), "0")
        distil = Distiller(student, distil.teacher, taps=[tap], terms=distil.terms)
        out = distil(images)
        readings.append(read(FlightRecorder(distil), out, task=out.student.square().mean()))
    assert readings[1] == pytest.approx(readings[0])
    assert 0 < readings[1]["rank/gradient_share"] < 1


def test_a_term_that_is_the_task_agrees_with_it_and_its_opposite_does_not(images: Tensor) -> None:
    def squares(*, student: Tensor, teacher: Tensor) -> Tensor:
        return student.square().mean()

    distil = distiller(
        same=Term(squares, between="output"),
        opposite=Term(squares, between="output", weight=-2.0),
        deaf=Term(constant(0.0)),
    )
    out = distil(images)
    reading = read(FlightRecorder(distil), out, task=out.student.square().mean())
    assert reading["same/task_cosine"] == pytest.approx(1)
    assert reading["opposite/task_cosine"] == pytest.approx(-1)
    assert reading["deaf/task_cosine"] == reading["deaf/gradient_share"] == 0


def test_reading_changes_nothing_that_training_sees(images: Tensor) -> None:
    gradients = []
    for recorded in (False, True):
        distil = distiller(rank=Term(SpearmanLoss(center="running")))
        out = distil(images)
        task = out.student.square().mean()
        if recorded:
            before = {name: value.clone() for name, value in distil.state_dict().items()}
            FlightRecorder(distil).record(out, task=task)
            assert all(parameter.grad is None for parameter in distil.parameters())
            assert all(torch.equal(value, before[name]) for name, value in distil.state_dict().items())
        (task + out.total).backward()
        gradients.append([parameter.grad for parameter in distil.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_floor_and_degeneracy_stand_beside_the_loss(images: Tensor) -> None:
    distil = distiller(rank=Term(SpearmanLoss()), linear=Term(SpearmanLoss("pearson")))
    out = distil(images)
    reading = read(FlightRecorder(distil), out)
    assert reading["rank/floor"] == pytest.approx(distil.floor(out)["rank"].item())
    assert 0 < reading["rank/degeneracy"] < 1
    assert reading["linear/degeneracy"] == 1
    assert "rank/floor" not in read(FlightRecorder(distil), distil(images[:1]))


def test_a_reading_is_due_every_so_many_steps(images: Tensor) -> None:
    distil = distiller(a=Term(constant(1.0)))
    recorder = FlightRecorder(distil, every=3)
    assert [bool(recorder.record(distil(images))) for _ in range(5)] == [True, False, False, True, False]
    assert not recorder.record(distil(images), step=100)
    assert recorder.record(distil(images), step=102)
    assert [row["step"] for row in recorder.rows] == [0, 3, 102]


def test_without_a_graph_there_are_losses_alone(images: Tensor) -> None:
    distil = distiller(a=Term(constant(1.0)))
    with torch.no_grad():
        reading = read(FlightRecorder(distil), distil(images))
    assert reading["a/loss_share"] == 1
    assert "a/gradient_share" not in reading


def test_the_record_goes_to_csv_and_json_and_back(tmp_path: Path, images: Tensor) -> None:
    distil = distiller(a=Term(constant(1.5)))
    recorder = FlightRecorder(distil, every=1)
    recorder.record(distil(images))
    recorder.record(distil(images), task=torch.tensor(0.5))
    recorder.write_csv(tmp_path / "flight.csv")
    recorder.write_json(tmp_path / "flight.json")
    with (tmp_path / "flight.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows == recorder.rows
    assert json.loads((tmp_path / "flight.json").read_text()) == {
        "schema": "monoskd/flight/1",
        "readings": recorder.rows,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every": 0}, "every: expected at least 1 step, got 0"), ({"at": ["1"]}, "expected some of the taps")],
)
def test_a_wrong_option_is_an_error(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FlightRecorder(distiller(a=Term(constant(1.0))), **options)


def test_no_term_may_be_called_task() -> None:
    with pytest.raises(InputError, match="rename the term"):
        FlightRecorder(distiller(task=Term(constant(1.0))))
