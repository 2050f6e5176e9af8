import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from monoskd.distill.probes import Origin
from monoskd.distill.response import LogitLoss
from monoskd.distill.terms import Ramp, Tapped, Term, resized
from monoskd.errors import InputError


def mse(*, student: Tensor, teacher: Tensor) -> Tensor:
    return mse_loss(student, teacher)


def tapped(student: Tensor, teacher: Tensor, *, grid: bool = True) -> Tapped:
    return Tapped((Origin(student, None),), student, teacher, grid)


@pytest.fixture
def seen() -> list[Tapped]:
    return [
        tapped(torch.randn(1, 2, 8, 6), torch.randn(1, 2, 4, 3)),
        tapped(torch.randn(1, 2, 2, 5), torch.randn(1, 2, 5, 6)),
    ]


@pytest.mark.parametrize(
    ("policy", "students", "teachers"),
    [
        ("coarsest", [(2, 5), (2, 5)], [(2, 5), (2, 5)]),
        ("teacher", [(4, 3), (5, 6)], [(4, 3), (5, 6)]),
        ("student", [(8, 6), (2, 5)], [(8, 6), (2, 5)]),
        ("none", [(8, 6), (2, 5)], [(4, 3), (5, 6)]),
    ],
)
def test_maps_are_brought_to_the_size_that_the_policy_says(policy, students, teachers, seen) -> None:
    got = resized(seen, policy=policy, where="term")
    assert [tuple(x.shape[2:]) for x in got[0]] == students
    assert [tuple(x.shape[2:]) for x in got[1]] == teachers


def test_resizing_is_bilinear_with_corners_at_pixel_borders(seen) -> None:
    (student, _), _ = resized(seen, policy="teacher", where="term")
    torch.testing.assert_close(student, interpolate(seen[0].student, (4, 3), mode="bilinear", align_corners=False))


def test_maps_of_the_right_size_are_not_touched(seen) -> None:
    (student, _), (teacher, _) = resized(seen, policy="student", where="term")
    assert student is seen[0].student
    assert teacher is not seen[0].teacher


def test_tokens_are_never_resized() -> None:
    tokens = tapped(torch.zeros(1, 2, 7, 1), torch.zeros(1, 2, 9, 1), grid=False)
    with pytest.raises(InputError, match=r"tokens and vectors cannot be resized, got \(7, 1\) and \(9, 1\) places"):
        resized([tokens], policy="coarsest", where="term")
    resized([tapped(torch.zeros(1, 2, 7, 1), torch.zeros(1, 2, 7, 1), grid=False)], policy="coarsest", where="term")


def test_one_tap_is_a_tensor_and_several_are_a_list_unless_taken_each() -> None:
    def kind(*, student: object, teacher: object) -> Tensor:
        return torch.tensor(1.0 if isinstance(student, Tensor) else 10.0)

    one, two = [torch.zeros(1)], [torch.zeros(1)] * 2
    assert Term(kind).value("t", student=one, teacher=one, hints={}) == 1
    assert Term(kind).value("t", student=two, teacher=two, hints={}) == 10
    assert Term(kind, each=True).value("t", student=two, teacher=two, hints={}) == 2


def test_a_loss_is_given_the_hints_that_it_names() -> None:
    def hinted(*, student: Tensor, teacher: Tensor, targets: float, mask: float = 0.0) -> Tensor:
        return torch.tensor(targets + mask)

    x = [torch.zeros(1)]
    assert Term(hinted).value("t", student=x, teacher=x, hints={"targets": 1.0, "mask": 2.0}) == 3
    assert Term(hinted, masked=False).value("t", student=x, teacher=x, hints={"targets": 1.0, "mask": 2.0}) == 1
    assert Term(mse).value("t", student=x, teacher=x, hints={"targets": 1.0, "mask": 2.0}) == 0
    with pytest.raises(InputError, match='term "t" needs targets'):
        Term(hinted).value("t", student=x, teacher=x, hints={"targets": None})


def difference(a, b):
    return a - b


@pytest.mark.parametrize(
    ("loss", "name"),
    [(nn.MSELoss(), r"MSELoss\(input, target\)"), (torch.dist, "dist"), (difference, r"difference\(a, b\)")],
)
def test_a_loss_that_is_called_otherwise_is_an_error(loss, name: str) -> None:
    with pytest.raises(InputError, match=f'term "t": expected a loss called with student= and teacher=, got {name}'):
        Term(loss).check("t", ["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": ["layer"]}, 'looks at "layer", which is no tap; nearest: "layer2", "layer1"'),
        ({"resize": "finest"}, "resize: expected one of coarsest, teacher, student, none, got 'finest'"),
        ({"between": "logits"}, "between: expected one of taps, output, targets, got 'logits'"),
    ],
)
def test_a_wrong_option_is_an_error(options, message) -> None:
    with pytest.raises(InputError, match=message):
        Term(mse, **options).check("t", ["layer1", "layer2"])


def test_taps_are_needed_unless_the_term_looks_at_outputs() -> None:
    with pytest.raises(InputError, match="compares taps and there are none"):
        Term(mse).check("t", [])
    Term(mse, between="output").check("t", [])


def test_a_loss_has_to_be_a_scalar_tensor() -> None:
    with pytest.raises(InputError, match=r"returns a scalar tensor, got \(2,\)"):
        Term(lambda student, teacher: student).value("t", student=[torch.zeros(2)], teacher=[torch.zeros(2)], hints={})
    with pytest.raises(InputError, match="returns a scalar tensor, got float"):
        Term(lambda student, teacher: 0.0).value("t", student=[0], teacher=[0], hints={})


def test_a_ramp_goes_from_first_to_last() -> None:
    ramp = Ramp(start=0.2, end=0.6, first=1.0, last=3.0)
    assert [ramp(at) for at in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([1, 1, 2, 3, 3])
    assert Term(mse, weight=10, schedule=Ramp()).factor(0.25) == 2.5
    with pytest.raises(InputError, match="0 <= start < end <= 1"):
        Ramp(start=0.5, end=0.5)


def test_an_output_that_a_loss_does_not_take_is_an_error() -> None:
    term = Term(LogitLoss(), between="output")
    made = {"logits": torch.zeros(2, 3)}
    with pytest.raises(InputError, match="term \"kd\": the student returns dict with keys 'logits', which LogitLoss"):
        term.value("kd", student=made, teacher=made, hints={})
