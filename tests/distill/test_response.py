import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from monoskd.distill.response import BoxLoss, LogitLoss
from monoskd.errors import InputError


def test_logits_are_compared_by_scipys_relative_entropy() -> None:
    torch.manual_seed(0)
    student, teacher, weight = torch.randn(5, 4).double(), torch.randn(5, 4).double(), torch.rand(5).double()
    temperature = 3.0
    p, q = (stats.entropy, lambda x: (x / temperature).softmax(1).numpy())
    each = torch.from_numpy(p(q(teacher), q(student), axis=1)) * temperature**2
    loss = LogitLoss(temperature)
    assert_close(loss(student=student, teacher=teacher), each.mean())
    assert_close(loss(student=student, teacher=teacher, mask=weight), (each * weight).sum() / weight.sum())


def test_the_gradient_keeps_its_size_at_high_temperatures() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(5, 4)
    sizes = []
    for temperature in (10.0, 100.0):
        student = torch.zeros(5, 4, requires_grad=True)
        LogitLoss(temperature)(student=student, teacher=teacher).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm())
    assert_close(sizes[0], sizes[1], rtol=0.1, atol=0)


def test_dense_logits_have_their_classes_on_axis_1() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    rows = [x.movedim(1, -1).reshape(-1, 4) for x in (student, teacher)]
    assert_close(LogitLoss()(student=student, teacher=teacher), LogitLoss()(student=rows[0], teacher=rows[1]))


def test_boxes_are_weighted_by_the_teachers_quality() -> None:
    student, teacher = torch.zeros(3, 2), torch.tensor([[1.0, 3.0], [10.0, 10.0], [4.0, 0.0]])
    assert BoxLoss()(student=student, teacher=teacher) == pytest.approx(28 / 6)
    quality = torch.tensor([1.0, 0.0, 0.5])
    assert BoxLoss()(student=student, teacher=teacher, mask=quality) == pytest.approx((2 + 0.5 * 2) / 1.5)
    assert BoxLoss([1.0, 3.0])(student=student, teacher=teacher, mask=quality) == pytest.approx((1 + 0.5 * 2) / 1.5)


@pytest.mark.parametrize("loss", [LogitLoss(), BoxLoss()])
def test_only_the_student_gets_a_gradient(loss: torch.nn.Module) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    loss(student=student, teacher=teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("loss", [LogitLoss(), BoxLoss()])
@pytest.mark.parametrize(("count", "mask"), [(0, None), (3, torch.zeros(3))])
def test_nothing_to_compare_costs_nothing(loss: torch.nn.Module, count: int, mask: torch.Tensor | None) -> None:
    student = torch.randn(count, 4, requires_grad=True)
    value = loss(student=student, teacher=torch.randn(count, 4), mask=mask)
    value.backward()
    assert value == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


@pytest.mark.parametrize("loss", [LogitLoss(), BoxLoss()])
def test_a_mask_may_have_an_axis_for_channels(loss: torch.nn.Module) -> None:
    torch.manual_seed(0)
    student, teacher, mask = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5), torch.rand(2, 3, 5)
    want = loss(student=student, teacher=teacher, mask=mask)
    assert_close(loss(student=student, teacher=teacher, mask=mask[:, None]), want)
    with pytest.raises(InputError, match=r"mask: expected .* \(2, 3, 5\), got \(2, 1, 6, 10\): resize it"):
        loss(student=student, teacher=teacher, mask=torch.ones(2, 1, 6, 10))


@pytest.mark.parametrize("loss", [LogitLoss(), BoxLoss()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_compared_in_float32(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    student, teacher, mask = torch.randn(3, 4).to(dtype), torch.randn(3, 4).to(dtype), torch.tensor([1, 0, 1]) > 0
    with torch.autocast("cpu", torch.bfloat16):
        got = loss(student=student, teacher=teacher, mask=mask)
    assert got.dtype == torch.float32
    assert_close(got, loss(student=student.float(), teacher=teacher.float(), mask=mask))


@pytest.mark.parametrize("loss", [LogitLoss(), BoxLoss()])
def test_what_stands_where_nothing_weighs_does_not_count(loss: torch.nn.Module) -> None:
    torch.manual_seed(0)
    student, teacher, mask = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([1.0, 0.0, 2.0])
    want = loss(student=student[::2], teacher=teacher[::2], mask=mask[::2])
    student[1], teacher[1] = torch.nan, torch.inf
    student.requires_grad_()
    got = loss(student=student, teacher=teacher, mask=mask)
    got.backward()
    assert_close(got, want)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_class_that_the_teacher_rules_out_adds_nothing() -> None:
    student = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, 1.0, -torch.inf]])
    p, q = teacher.softmax(1)[0, :2], student.detach().softmax(1)[0, :2]
    value = LogitLoss()(student=student, teacher=teacher)
    value.backward()
    assert_close(value.detach(), (p * (p / q).log()).sum())
    assert_close(student.grad, student.detach().softmax(1) - teacher.softmax(1))
    both = torch.where(teacher == -torch.inf, teacher, student.detach())
    assert LogitLoss()(student=both, teacher=teacher).isfinite()


@pytest.mark.wrong_shapes
def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"BoxLoss: .*one shape n x k x ..., got \(3, 4\) and \(3, 5\)"):
        BoxLoss()(student=torch.zeros(3, 4), teacher=torch.zeros(3, 5))
    with pytest.raises(InputError, match="temperature: expected more than 0, got 0"):
        LogitLoss(0)
