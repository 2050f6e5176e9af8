"""Several teachers, EMA teachers, the inputs that networks get, and the two silent traps."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from monoskd.distill import AffinityLoss, Distiller, EmaTeacher, LogitLoss, Outlet, Ramp, Tap, Term
from monoskd.distill.traps import check_apart
from monoskd.errors import InputError


def mse(*, student: Tensor, teacher: Tensor) -> Tensor:
    return mse_loss(student, teacher)


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 5),
    )


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Keywords(nn.Module):
    """Answers with a mapping and an object, as Hugging Face models do."""

    class Output(dict):
        @property
        def logits(self) -> Tensor:
            return self["logits"]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = network(width)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> "Keywords.Output":
        return Keywords.Output(logits=self.body(pixel_values), labels=labels)


def test_a_batch_of_keywords_reaches_both_networks(images: Tensor) -> None:
    distil = Distiller(
        Keywords(4),
        Keywords(6),
        taps=[Tap("body.0")],
        terms={"logits": Term(mse, between="output", key="logits"), "f": Term(mse, taps=["body.0"])},
    )
    out = distil(pixel_values=images, labels=torch.arange(4))
    assert torch.equal(out.student["labels"], torch.arange(4))
    torch.testing.assert_close(out.terms["logits"], mse_loss(out.student.logits, out.teacher.logits))
    other = distil.eval()(pixel_values=images, teacher_inputs={"pixel_values": images + 1})
    torch.testing.assert_close(other.teacher.logits, distil.teacher(images + 1).logits)
    assert distil.materialize(pixel_values=images) is distil


def test_a_key_that_the_output_does_not_have_is_an_error(images: Tensor) -> None:
    distil = Distiller(Keywords(4), Keywords(6), terms={"logits": Term(mse, between="output", key="logit")})
    with pytest.raises(InputError, match=r'term "logits": output of the student: there is no "logit" in Output'):
        distil(images)


def two(**options) -> Distiller:
    options = {
        "taps": [Tap("0", of="lidar", name="near"), Tap("0", of="big", name="far")],
        "terms": {"a": Term(mse, taps=["near"]), "b": Term(mse, taps=["far"])},
    } | options
    return Distiller(network(), teachers={"lidar": network(6), "big": network(8)}, **options)


def test_two_teachers_teach_by_name(images: Tensor) -> None:
    distil = two()
    out = distil.eval()(images, teacher_inputs={"big": images * 2})
    torch.testing.assert_close(out.maps["near"].teacher, distil.teachers["lidar"][0](images))
    torch.testing.assert_close(out.maps["far"].teacher, distil.teachers["big"][0](images * 2))
    torch.testing.assert_close(out.teacher["lidar"], distil.teachers["lidar"](images))
    assert {name.split(".")[0] for name in distil.state_dict()} == {"student", "adapters"}
    with pytest.raises(InputError, match="there are several teachers"):
        _ = distil.teacher
    assert distil.double().teachers["big"][0].weight.dtype == torch.float64
    copy.deepcopy(distil)


def test_a_teacher_that_no_term_asks_for_does_not_run(images: Tensor) -> None:
    distil = two(terms={"a": Term(mse, taps=["near"])})
    out = distil(images)
    assert set(out.teacher) == {"lidar"}
    assert out.maps["far"].teacher.numel() == 0


def test_the_mean_of_teachers_teaches(images: Tensor) -> None:
    terms = {"mean": Term(mse, between="output", of=["lidar", "big"]), "big": Term(mse, between="output", of="big")}
    out = two(taps=[], terms=terms)(images)
    both = out.teacher["lidar"], out.teacher["big"]
    torch.testing.assert_close(out.terms["mean"], mse_loss(out.student, (both[0] + both[1]) / 2))
    torch.testing.assert_close(out.terms["big"], mse_loss(out.student, both[1]))
    tapped = Distiller(
        network(), teachers={"a": network(6), "b": network(6)}, taps=[Tap("0", of=["a", "b"])], terms={"t": Term(mse)}
    )
    teachers = tapped.teachers
    expected = (teachers["a"][0](images) + teachers["b"][0](images)) / 2
    torch.testing.assert_close(tapped(images).maps["0"].teacher, expected)
    with pytest.raises(InputError, match="the mean of several teachers: expected tensors of one shape"):
        two(taps=[Tap("0", of=["lidar", "big"])], terms={"t": Term(mse)})(images)


def test_a_term_is_told_what_its_own_teacher_returned(images: Tensor) -> None:
    told = {}

    def look(*, student: Tensor, teacher: Tensor, teacher_output: object) -> Tensor:
        told["output"] = teacher_output
        return student.sum() * 0

    out = two(terms={"look": Term(look, taps=["far"]), "other": Term(mse, taps=["near"])})(images)
    assert told["output"] is out.teacher["big"]
    out = Distiller(network(), network(), taps=[Tap("0")], terms={"look": Term(look)})(images)
    assert told["output"] is out.teacher


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"taps": [Tap("0")], "terms": {"a": Term(mse)}},
            r'tap "0": there are several teachers: expected of=.*lidar, big',
        ),
        ({"taps": [Tap("0", of="lidr")], "terms": {"a": Term(mse)}}, 'there is no teacher "lidr"; nearest: "lidar"'),
        ({"terms": {"a": Term(mse, between="output")}}, 'term "a": there are several teachers'),
        ({"terms": {"a": Term(mse, between="output", of=[])}}, "of: expected names of teachers"),
        ({"terms": {"a": Term(mse, of="big")}}, r"key and of belong to Tap\(..., of=...\)"),
        (
            {"teacher_dtype": {"bigg": torch.float16}},
            r"teacher_dtype: expected names of teachers \(lidar, big\), got bigg",
        ),
        ({"teacher_dtype": torch.int8}, "expected a type such as torch.bfloat16, got torch.int8"),
    ],
)
def test_a_teacher_that_does_not_exist_is_an_error(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        two(**options)


def test_one_or_several_teachers_not_both() -> None:
    for options in ({}, {"teacher": network(), "teachers": {"a": network()}}, {"teachers": {}}):
        with pytest.raises(InputError, match="expected either a teacher or teachers"):
            Distiller(network(), **options, terms={"a": Term(mse, between="output")})
    with pytest.raises(InputError, match=r"expected inputs by teacher \(lidar, big\), got x as well"):
        two()(torch.zeros(2, 3, 8, 8), teacher_inputs={"big": torch.zeros(2, 3, 8, 8), "x": 1})


def test_the_teacher_alone_runs_in_half_precision(images: Tensor) -> None:
    distil = Distiller(network(), network(6), taps=[Tap("0")], terms={"a": Term(mse)}, teacher_dtype=torch.bfloat16)
    out = distil(images)
    assert (out.teacher.dtype, out.student.dtype) == (torch.bfloat16, torch.float32)
    assert out.maps["0"].teacher.dtype == torch.bfloat16
    assert distil.teacher[0].weight.dtype == torch.float32
    full = Distiller(network(), network(6), taps=[Tap("0")], terms={"a": Term(mse)}, teacher_dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = full(images)
    assert (out.teacher.dtype, out.student.dtype) == (torch.float32, torch.bfloat16)


def test_a_teacher_stays_on_its_device(images: Tensor) -> None:
    """Without a second device: "meta" holds no values, and everything else moves there with `.to()`."""
    distil = Distiller(network(), network(6), taps=[Tap("0")], terms={"a": Term(mse)}, teacher_device="cpu")
    distil.to("meta")
    assert distil.student[0].weight.is_meta
    assert not distil.teacher[0].weight.is_meta
    distil = Distiller(network(), network(6), taps=[Tap("0")], terms={"a": Term(mse)}, teacher_device="meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # it did run there
        distil(images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_a_teacher_on_a_gpu_teaches_a_student_on_the_cpu(images: Tensor) -> None:
    distil = Distiller(network(), network(6), taps=[Tap("0")], terms={"a": Term(mse)}, teacher_device="cuda")
    out = distil(images)
    assert out.teacher.device == out.maps["0"].teacher.device == images.device


class TestTraps:
    def test_a_shared_parameter_is_refused(self) -> None:
        student, teacher = network(), network()
        teacher[5].weight = student[5].weight
        with pytest.raises(
            InputError, match=r'student and teacher share "5.weight" \(the teacher\'s "5.weight"\): .*deepcopy'
        ):
            Distiller(student, teacher, terms={"a": Term(mse, between="output")})

    @pytest.mark.parametrize("first", [0, 3, 6])
    def test_memory_that_overlaps_is_refused(self, first: int) -> None:
        values = torch.rand(12)
        student, teacher = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
        student.weight, teacher.weight = (
            nn.Parameter(values[:6].view(3, 2)),
            nn.Parameter(values[first:][:6].view(2, 3)),
        )
        if first == 6:  # next to each other
            check_apart(student, teacher, role="teacher")
            return
        with pytest.raises(InputError, match='student and teacher share "weight"'):
            check_apart(student, teacher, role="teacher")

    @pytest.mark.parametrize("share", ["data", "buffer"])
    def test_shared_memory_is_refused(self, share: str) -> None:
        student, teacher = network(), network()
        if share == "data":
            teacher[0].weight.data = student[0].weight.data
        else:
            teacher[1].running_mean = student[1].running_mean
        with pytest.raises(InputError, match="student and teacher share"):
            Distiller(student, teacher, terms={"a": Term(mse, between="output")})

    def test_one_of_several_is_named(self) -> None:
        student = network()
        with pytest.raises(InputError, match='student and teacher "b" share modules'):
            Distiller(
                student, teachers={"a": network(), "b": student}, terms={"a": Term(mse, between="output", of="a")}
            )

    def test_a_teacher_may_tie_its_own_weights(self, images: Tensor) -> None:
        teacher = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        teacher[1].weight = teacher[0].weight
        Distiller(nn.Linear(4, 4), teacher, terms={"a": Term(mse, between="output")})(images[0, 0, :, :4])

    @pytest.mark.parametrize(
        "write",
        [
            lambda x: x.sub_(1),
            lambda x: x.data.mul_(0),
            lambda x: x.detach().numpy().fill(7),
            lambda x: x.view(-1)[0].data.zero_(),
        ],
    )
    @pytest.mark.parametrize("kind", ["tensor", "list", "keyword", "dataclass", "object", "other teacher"])
    def test_a_teacher_that_writes_into_its_input_writes_to_a_copy(self, write: Any, kind: str, images: Tensor) -> None:
        @dataclass(frozen=True)
        class Pictures:
            x: Tensor

        class Reader(nn.Module):
            def __init__(self, write: Any = None) -> None:
                super().__init__()
                self.write = write

            def forward(self, x: Any) -> Tensor:
                x = x[0] if isinstance(x, list) else x if isinstance(x, Tensor) else x.x
                if self.write:
                    self.write(x)
                return x.clone()

        before = images.clone()
        shapes = {"list": [images], "dataclass": Pictures(images), "object": SimpleNamespace(x=images)}
        given = shapes.get(kind, images)
        teachers = {"a": Reader(write), "b": Reader()}
        distil = Distiller(Reader(), teachers=teachers, terms={n: Term(mse, between="output", of=n) for n in teachers})
        out = distil(x=given) if kind == "keyword" else distil(given)
        assert torch.equal(out.student, before)
        assert torch.equal(images, before)
        assert torch.equal(out.teacher["b"], before)
        assert not torch.equal(out.teacher["a"], before)

    def test_inference_mode(self) -> None:
        distil = Distiller(nn.Identity(), nn.ReLU(inplace=True), terms={"a": Term(mse, between="output")})
        with torch.inference_mode():
            out = distil(-torch.ones(2, 3))
        assert (out.student == -1).all()
        assert (out.teacher == 0).all()


class TestEma:
    def test_it_follows_the_formula(self) -> None:
        student = network()
        ema = EmaTeacher(student, momentum=0.6)
        expected = student[0].weight.detach().clone()
        for t in range(1, 6):
            with torch.no_grad():
                student[0].weight.add_(torch.randn(4, 3, 3, 3))
                student[1].running_mean.add_(1)
            ema.update(student)
            a = min(0.6, 1 - 1 / t)
            expected = a * expected + (1 - a) * student[0].weight.detach()
            torch.testing.assert_close(ema.network[0].weight, expected)
            assert torch.equal(ema.network[1].running_mean, student[1].running_mean)

    def test_a_schedule_says_the_momentum(self) -> None:
        ema = EmaTeacher(network(), momentum=Ramp(first=0.5, last=1.0))
        assert [ema.rate(progress) for progress in (0.0, 0.5, 1.0)] == [0.5, 0.75, 1.0]
        for momentum in (1.0, -0.1, 1.5):
            with pytest.raises(InputError, match=r"momentum: expected a number in \[0, 1\)"):
                EmaTeacher(network(), momentum=momentum)

    def test_it_teaches_and_answers_without_gradient(self, images: Tensor) -> None:
        student = network()
        ema = EmaTeacher(student)
        distil = Distiller(
            student, ema, taps=[Tap("0")], terms={"f": Term(mse), "l": Term(LogitLoss(), between="output")}
        )
        distil.train()
        out = distil(images)
        assert not out.teacher.requires_grad
        assert not ema.network.training
        assert out.maps["0"].student.shape == out.maps["0"].teacher.shape
        assert not ema(images).requires_grad
        assert not {id(p) for p in distil.parameters()} & {id(p) for p in ema.parameters()}

    def steps(self, distil: Distiller, optimizer: torch.optim.Optimizer, count: int, images: Tensor) -> None:
        for _ in range(count):
            out = distil(images)
            optimizer.zero_grad()
            (out.student.square().mean() + out.total).backward()
            optimizer.step()
            distil.update_teachers()

    def make(self) -> tuple[Distiller, torch.optim.Optimizer]:
        torch.manual_seed(0)
        student = network()
        terms = {"f": Term(mse), "l": Term(mse, between="output")}
        distil = Distiller(student, EmaTeacher(student, momentum=0.9), taps=[Tap("0")], terms=terms)
        return distil, torch.optim.SGD(distil.parameters(), lr=0.1, momentum=0.9)

    def test_a_training_that_was_killed_goes_on_exactly(self, images: Tensor, tmp_path) -> None:
        whole, optimizer = self.make()
        self.steps(whole, optimizer, 5, images)
        begun, optimizer = self.make()
        self.steps(begun, optimizer, 3, images)
        torch.save((begun.state_dict(), optimizer.state_dict()), tmp_path / "last.pt")
        resumed, optimizer = self.make()
        for part, state in zip((resumed, optimizer), torch.load(tmp_path / "last.pt"), strict=True):
            part.load_state_dict(state)
        self.steps(resumed, optimizer, 2, images)
        assert {"ema.teacher.updates", "ema.teacher.network.0.weight"} <= set(whole.state_dict())
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name

    def test_a_checkpoint_without_it_is_an_error(self) -> None:
        distil, _ = self.make()
        state = {name: value for name, value in distil.state_dict().items() if not name.startswith("ema.")}
        with pytest.raises(RuntimeError, match=r"Missing key\(s\).*ema.teacher.updates"):
            distil.load_state_dict(state)
        with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*ema.teacher.more"):
            distil.load_state_dict(distil.state_dict() | {"ema.teacher.more": torch.zeros(1)})

    def test_a_student_that_changed_its_layers_is_an_error(self) -> None:
        student = network()
        ema = EmaTeacher(student)
        student[5] = nn.Linear(4, 7)
        with pytest.raises(InputError, match=r"got another shape of 5\.bias, 5\.weight"):
            ema.update(student)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_an_average_in_half_precision_would_stand_still(self, dtype: torch.dtype) -> None:
        student = network().to(dtype)
        ema = EmaTeacher(student)
        with pytest.raises(InputError, match=rf"0\.weight: expected weights in float32, got {dtype}"):
            ema.update(student)
        ema.update(student.requires_grad_(False))

    def test_of_a_compiled_student(self) -> None:
        student = network()
        compiled = torch.compile(student, backend="eager")
        ema = EmaTeacher(compiled)
        with torch.no_grad():
            student[0].weight.zero_()
        ema.update(compiled)
        assert not ema.network[0].weight.any()

    @pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
    @pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), lambda: nn.utils.weight_norm(nn.Linear(2, 3))])
    def test_a_student_that_cannot_be_copied_is_an_error(self, make) -> None:
        with pytest.raises(InputError, match=r"expected a student that can be copied.*run lazy layers once"):
            EmaTeacher(make())

    def test_without_one_there_is_nothing_to_update(self) -> None:
        with pytest.raises(InputError, match="expected an EmaTeacher among the teachers"):
            Distiller(network(), network(), terms={"a": Term(mse, between="output")}).update_teachers()


class TestOutlets:
    class Shared(nn.Module):
        """One block that is called on each level, and a head that is called by keyword."""

        class Head(nn.Module):
            def forward(self, x: Tensor, *, memory: Tensor) -> Tensor:
                return x + memory

        def __init__(self, width: int, *, sizes: tuple[int, ...] = (8, 8)) -> None:
            super().__init__()
            self.block = nn.Conv2d(3, width, 1)
            self.head = self.Head()
            self.sizes = sizes

        def forward(self, x: Tensor) -> Tensor:
            levels = [self.block(x[..., :size] + index) for index, size in enumerate(self.sizes)]
            return self.head(levels[0], memory=levels[-1][..., :1] * 2)

    def test_all_calls_are_stacked(self, images: Tensor) -> None:
        distil = Distiller(
            self.Shared(4),
            self.Shared(6),
            taps=[Tap(Outlet("block", call="all"))],
            terms={"a": Term(mse), "b": AffinityLoss()},
        )
        out = distil(images)
        student = distil.student
        assert out.maps["block"].teacher.shape == (8, 6, 8, 8)
        stacked = torch.cat([student.block(images), student.block(images + 1)])
        torch.testing.assert_close(out.maps["block"].student, distil.adapters[0](stacked))
        with pytest.raises(InputError, match=r'call="all": expected maps of one shape, got \(4, 8, 8\), \(4, 8, 4\)'):
            Distiller(self.Shared(4, sizes=(8, 4)), self.Shared(6), taps=distil.taps.values(), terms={"a": Term(mse)})(
                images
            )

    @pytest.mark.parametrize(("path", "index"), [("head", 0), ("head:0", 0), ("head:memory", 1)])
    def test_the_input_of_a_module_is_tapped(self, path: str, index: int, images: Tensor) -> None:
        distil = Distiller(
            self.Shared(4), self.Shared(4), taps=[Tap(Outlet(path, side="input"))], terms={"a": Term(mse)}
        )
        out = distil(images)
        block = distil.student.block
        expected = (block(images), block(images + 1)[..., :1] * 2)[index]
        torch.testing.assert_close(out.maps[path].source, expected)
        assert not any(len(m._forward_pre_hooks) for m in distil.modules())
        out.total.backward()
        assert block.weight.grad is not None

    def test_what_cannot_be_tapped_is_an_error(self, images: Tensor) -> None:
        tap = Tap(Outlet("head:2", side="input"))
        with pytest.raises(InputError, match=r'the input of "head:2" of the teacher: there is no "2" in tuple of 1'):
            Distiller(self.Shared(4), self.Shared(4), taps=[tap], terms={"a": Term(mse)})(images)
        with pytest.raises(InputError, match='side: expected "output" or "input"'):
            Outlet("head", side="inputs")
        with pytest.raises(InputError, match="call: expected a number or \"all\", got 'al'"):
            Outlet("head", call="al")


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


def test_outputs_that_are_named_tuples_are_picked_from(images: Tensor) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Pair:
            return Pair(self.body(x), x)

    out = Distiller(Two(), Two(), terms={"a": Term(mse, between="output", key="left")})(images)
    torch.testing.assert_close(out.terms["a"], mse_loss(out.student.left, out.teacher.left))
