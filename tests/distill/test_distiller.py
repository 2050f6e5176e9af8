import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from monoskd.distill import AffinityLoss, Distiller, ImitationLoss, Outlet, Ramp, SpearmanLoss, Tap, Term, TokensAsMap
from monoskd.errors import InputError


def network(*, width: int = 4, stride: int = 1) -> nn.Sequential:
    """A small classifier with everything that moves: BatchNorm, dropout, names."""
    layers = nn.Sequential()
    layers.add_module("stem", nn.Conv2d(3, width, 3, stride=stride, padding=1))
    layers.add_module("norm", nn.BatchNorm2d(width))
    layers.add_module("act", nn.ReLU())
    layers.add_module("drop", nn.Dropout(0.5))
    layers.add_module("body", nn.Conv2d(width, 2 * width, 3, stride=2, padding=1))
    layers.add_module("pool", nn.AdaptiveAvgPool2d(1))
    layers.add_module("flat", nn.Flatten())
    layers.add_module("head", nn.Linear(2 * width, 5))
    return layers


class Mse(nn.Module):
    """The smallest loss; it also works on logits."""

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return mse_loss(student, teacher)


def distiller(*, student: nn.Module | None = None, teacher: nn.Module | None = None, **options) -> Distiller:
    torch.manual_seed(0)
    options = {"taps": [Tap("norm"), Tap("body")], "terms": {"mse": Term(Mse(), each=True)}} | options
    return Distiller(student or network(), teacher or network(width=6, stride=2), **options)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def hooks(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_three_lines_train_the_student_and_its_adapters(images: Tensor) -> None:
    distil = distiller(terms={"rank": SpearmanLoss(), "affinity": Term(AffinityLoss(), weight=2.0)})
    optimiser = torch.optim.Adam(distil.parameters(), lr=1e-2)
    before = None
    for _ in range(3):
        out = distil(images)
        before = before or state(distil)
        optimiser.zero_grad()
        (out.student.square().mean() + out.total).backward()
        optimiser.step()
    moved = {name for name, value in distil.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.endswith("num_batches_tracked")} | {
        "student.norm.num_batches_tracked"
    }
    torch.testing.assert_close(out.total, out.terms["rank"] + 2.0 * out.terms["affinity"])
    assert out.weights == {"rank": 1.0, "affinity": 2.0}


def test_the_student_answers_as_if_it_were_alone(images: Tensor) -> None:
    student = network().eval()
    alone = student(images)
    out = distiller(student=student).eval()(images)
    assert torch.equal(out.student, alone)
    assert hooks(student) == 0


def test_the_student_comes_out_as_it_went_in(images: Tensor) -> None:
    student = network()
    before, class_, keys = state(student), type(student), set(vars(student))
    distil = distiller(student=student).materialize(images)
    assert distil.student is student
    assert (type(student), set(vars(student)), student.training) == (class_, keys, True)
    assert_same(state(student), before)
    distil(images).total.backward()
    assert hooks(distil) == hooks(distil.teacher) == 0


def test_no_hook_stays_after_a_failure(images: Tensor) -> None:
    distil = distiller()
    with pytest.raises(RuntimeError):
        distil(images[:, :2])
    with pytest.raises(RuntimeError):
        distil(images[:, :2], teacher_inputs=images)
    assert hooks(distil) == hooks(distil.teacher) == 0


def test_no_map_stays_after_a_failure(images: Tensor) -> None:
    distil = distiller()
    distil.student.head = nn.Linear(1, 1)
    with pytest.raises(RuntimeError):
        distil(images)
    assert not any(
        probe.caught for probe in (*distil._student_probes, *(p for by in distil._teacher_probes for p in by))
    )
    copy.deepcopy(distil)


def test_a_loss_may_take_any_keywords(images: Tensor) -> None:
    class Any(Mse):
        def forward(self, **maps: Tensor) -> Tensor:
            assert set(maps) == {"student", "teacher"}
            return super().forward(**maps)

    named, free = (distiller(terms={"mse": Term(loss, between="output")}).eval() for loss in (Mse(), Any()))
    assert free(images).total == named(images).total
    compiled = torch.compile(ImitationLoss(), backend="eager")
    assert distiller(terms={"mse": Term(compiled)}).terms["mse"].takes_mask


def test_the_teacher_is_frozen_whatever_is_done_to_it(images: Tensor) -> None:
    distil = distiller().train()
    distil.teacher.train()
    before = state(distil.teacher)
    out = distil(images)
    out.total.backward()
    torch.optim.SGD(distil.parameters(), lr=1.0).step()
    assert_same(state(distil.teacher), before)
    assert not any(module.training for module in distil.teacher.modules())
    assert all(parameter.grad is None for parameter in distil.teacher.parameters())
    assert not out.teacher.requires_grad
    torch.testing.assert_close(out.teacher, distil.teacher(images))
    assert all(p.requires_grad for p in distil.teacher.parameters()), "whoever owns the teacher may go on training it"


def test_batch_statistics_of_the_teacher_are_the_published_ones_and_drift(images: Tensor) -> None:
    distil = distiller(teacher_batch_statistics=True)
    expected = copy.deepcopy(distil.teacher).train()
    expected.drop.eval()
    before = state(distil.teacher)
    torch.testing.assert_close(distil(images).teacher, expected(images))
    assert_same(state(distil.teacher), state(expected))
    assert not torch.equal(distil.teacher.norm.running_mean, before["norm.running_mean"])


def test_the_teacher_is_in_neither_parameters_nor_state_and_yet_moves_along() -> None:
    distil = distiller()
    names = {name.split(".")[0] for name, _ in distil.named_parameters()} | {
        key.split(".")[0] for key in distil.state_dict()
    }
    assert names == {"student", "adapters"}
    assert "teacher" not in dict(distil.named_children())
    assert distil.double().teacher.stem.weight.dtype == torch.float64
    assert distil.to("meta").teacher.stem.weight.device.type == "meta"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_is_a_distiller_of_its_own(copied, used: bool, images: Tensor) -> None:
    distil = distiller().eval()
    if used:
        distil(images)
    twin = copied(distil)
    if not used:
        twin.materialize(images)
        distil.load_state_dict(twin.state_dict())
    torch.testing.assert_close(twin(images).total, distil(images).total)
    with torch.no_grad():
        twin.student.body.weight.zero_()
        twin.teacher.body.weight.zero_()
    assert distil.student.body.weight.any()
    assert distil.teacher.body.weight.any()
    assert twin(images).total != distil(images).total


@pytest.mark.parametrize("used", [False, True])
def test_a_checkpoint_restores_adapters_and_running_means(used: bool, images: Tensor) -> None:
    terms = {"rank": SpearmanLoss(center="running")}
    distil = distiller(terms=terms)
    distil(images)
    other = distiller(teacher=distil.teacher, terms={"rank": SpearmanLoss(center="running")})
    if used:
        other.materialize(images)
    other.load_state_dict(distil.state_dict())
    torch.testing.assert_close(other.eval()(images).total, distil.eval()(images).total)


def test_materialize_gives_shapes_and_learns_nothing(images: Tensor) -> None:
    distil = distiller(taps=[Tap("norm"), Tap("body", adapter="conv")], teacher_batch_statistics=True)
    student, teacher = state(distil.student), state(distil.teacher)
    assert distil.materialize(images) is distil
    assert distil.adapters[0].layers.weight.shape == (6, 4, 1, 1)
    assert distil.adapters[1].layers[0].weight.shape == (12, 8, 3, 3)
    assert_same(state(distil.student), student)
    assert_same(state(distil.teacher), teacher)
    assert distil.student.training
    assert distil.teacher_batch_statistics


def test_a_tap_that_no_term_reads_gets_no_adapter(images: Tensor) -> None:
    distil = distiller(terms={"mse": Term(Mse(), taps=["body"])})
    out = distil(images)
    assert not list(distil.adapters[0].parameters())
    assert out.maps["norm"].student.shape[1] == 4


def test_terms_see_the_maps_that_plain_hooks_see(images: Tensor) -> None:
    seen = {}

    def look(*, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        seen.update(student=student, teacher=teacher)
        return student[0].sum() * 0

    distil = distiller(
        taps=[Tap("norm", adapter="none"), Tap("body", adapter="none")], terms={"look": Term(look, resize="none")}
    )
    distil(images)
    expected = []
    with torch.no_grad():
        for net in (copy.deepcopy(distil.student), distil.teacher):
            norm = net.norm(net.stem(images))
            expected += [norm] if net is not distil.teacher else [norm, net.body(net.act(norm))]
    torch.testing.assert_close(seen["student"][0], expected[0])
    torch.testing.assert_close(seen["teacher"], expected[1:])


def test_fusion_comes_between_taps_and_adapters(images: Tensor) -> None:
    class Double(nn.Module):
        def forward(self, maps: list[Tensor]) -> list[Tensor]:
            return [torch.cat([x, x], 1) for x in maps]

    distil = distiller(fusion=Double(), taps=[Tap("norm", adapter="linear")], terms={"mse": Term(Mse())})
    distil(images)
    assert distil.adapters[0].layers.weight.shape == (6, 8, 1, 1)


def test_a_fusion_that_loses_a_map_is_an_error(images: Tensor) -> None:
    class First(nn.Module):
        def forward(self, maps: list[Tensor]) -> list[Tensor]:
            return maps[:1]

    with pytest.raises(InputError, match="fusion: expected a map for each of the 2 taps, got 1"):
        distiller(fusion=First(), taps=[Tap("norm"), Tap("body")])(images)


@pytest.mark.parametrize("terms", [{"a": Mse()}, {"a": Mse(), "b": Term(Mse(), weight=2.0)}])
def test_the_total_is_a_tensor_of_its_own(terms, images: Tensor) -> None:
    out = distiller(taps=[Tap("body")], terms=terms)(images)
    before = {name: value.item() for name, value in out.terms.items()}
    out.total.data.zero_()
    assert {name: value.item() for name, value in out.terms.items()} == before


def test_a_part_that_the_teacher_gets_later_is_frozen_too(images: Tensor) -> None:
    distil = distiller()
    distil.teacher.drop = nn.Sequential(nn.Identity(), nn.Dropout(0.9)).train()
    distil(images)
    assert not any(module.training for module in distil.teacher.modules())


def test_the_teacher_of_a_copy_is_frozen_too(images: Tensor) -> None:
    distil = distiller()
    distil(images)
    for twin in (copy.deepcopy(distil), pickle.loads(pickle.dumps(distil))):
        twin.teacher.drop.train()
        distil.teacher.drop.train()
        twin(images)
        assert not any(module.training for module in twin.teacher.modules())
        assert distil.teacher.drop.training, "it belongs to another distiller"


def test_an_adapter_of_ones_own_is_used_and_trained(images: Tensor) -> None:
    own = nn.Conv2d(8, 12, 5, padding=2)
    distil = distiller(taps=[Tap("body", adapter=own)])
    distil(images).total.backward()
    assert own.weight.grad is not None
    assert distil.adapters[0] is own


def test_student_and_teacher_may_see_different_things(images: Tensor) -> None:
    teacher = network(width=6)
    teacher.stem = nn.Conv2d(1, 6, 3)
    out = distiller(teacher=teacher)(images, teacher_inputs=images[:, :1])
    torch.testing.assert_close(out.teacher, teacher(images[:, :1]))
    assert torch.equal(distiller(teacher=teacher).eval()(images, teacher_inputs=(images[:, :1],)).teacher, out.teacher)


def test_outputs_are_compared_by_terms_on_the_output(images: Tensor) -> None:
    distil = distiller(taps=[], terms={"logits": Term(Mse(), between="output", weight=3.0)})
    out = distil(images)
    torch.testing.assert_close(out.total, 3.0 * mse_loss(out.student, out.teacher))


def test_weights_follow_their_schedules(images: Tensor) -> None:
    distil = distiller(
        terms={"a": Term(Mse(), each=True, weight=4.0, schedule=Ramp(end=0.5)), "b": Term(Mse(), each=True)}
    )
    assert distil(images).weights == {"a": 0.0, "b": 1.0}
    distil.progress = 0.25
    assert distil(images).weights == {"a": 2.0, "b": 1.0}
    with pytest.raises(InputError, match="expected 0 to 1, got 25"):
        distil.progress = 25


def test_a_mask_reaches_the_losses_that_take_one(images: Tensor) -> None:
    terms = {"imitation": Term(ImitationLoss(), taps=["body"]), "rank": Term(SpearmanLoss(), masked=False)}
    distil = distiller(terms=terms).eval()
    everywhere, nowhere = torch.ones(4, 1, 12, 10), torch.zeros(4, 1, 12, 10)
    free = distil(images)
    torch.testing.assert_close(distil(images, mask=everywhere).terms, free.terms)
    masked = distil(images, mask=nowhere)
    assert masked.terms["imitation"] == 0
    assert masked.terms["rank"] == free.terms["rank"]
    with pytest.raises(InputError, match="a mask was given and none of the terms takes one: mse"):
        distiller()(images, mask=everywhere)


class Tokens(nn.Module):
    """Patches to tokens with a class token in front, as a vision transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 2, stride=2)
        self.block = nn.Linear(width, width)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        return self.block(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))


def test_tokens_teach_tokens_of_another_width(images: Tensor) -> None:
    distil = distiller(student=Tokens(4), teacher=Tokens(6), taps=[Tap("block")], terms={"affinity": AffinityLoss()})
    out = distil(images)
    assert out.maps["block"].student.shape == out.maps["block"].teacher.shape == (4, 6, 31, 1)
    out.total.backward()


def test_tokens_teach_a_convolutional_network_once_they_are_a_map(images: Tensor) -> None:
    view = TokensAsMap(prefix=1, height=6)
    distil = distiller(
        teacher=Tokens(6), taps=[Tap("body", Outlet("block", view=view))], terms={"rank": SpearmanLoss()}
    )
    assert distil(images).maps["body"].teacher.shape == (4, 6, 6, 5)
    with pytest.raises(InputError, match="view=TokensAsMap"):
        distiller(teacher=Tokens(6), taps=[Tap("body", "block")])(images)


def test_vectors_are_compared_too(images: Tensor) -> None:
    out = distiller(taps=[Tap("head")], terms={"mse": Mse()})(images)
    torch.testing.assert_close(out.terms["mse"], mse_loss(out.student, out.teacher))


def test_half_precision_trains(images: Tensor) -> None:
    distil = distiller(terms={"rank": SpearmanLoss(), "affinity": AffinityLoss()})
    with torch.autocast("cpu", torch.bfloat16):
        out = distil(images)
    out.total.backward()
    assert out.total.isfinite()
    assert all(p.dtype == torch.float32 and p.grad is not None for p in distil.adapters.parameters())


def test_the_floor_is_the_loss_of_the_mean_of_the_other_images(images: Tensor) -> None:
    terms = {"mse": Term(Mse(), taps=["body"], resize="teacher"), "logits": Term(Mse(), between="output")}
    distil = distiller(terms=terms)
    out = distil(images)
    goals = out.maps["body"].teacher
    others = torch.stack([torch.cat([goals[:i], goals[i + 1 :]]).mean(0) for i in range(4)])
    floor = distil.floor(out)
    assert floor.keys() == {"mse"}
    torch.testing.assert_close(floor["mse"], mse_loss(others, goals))
    assert distil.floor(distil.eval()(images[:1])) == {}


def test_the_floor_leaves_running_means_alone(images: Tensor) -> None:
    distil = distiller(terms={"rank": SpearmanLoss(center="running")})
    out = distil(images)
    before = state(distil)
    assert distil.floor(out)["rank"].isfinite()
    assert_same(state(distil), before)
    assert distil.losses["rank"].training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": {}}, "at least one term"),
        ({"taps": [Tap("bdy")]}, r'the student \(Sequential\) has no module "bdy"; nearest: "body"'),
        ({"taps": [Tap("body", "bdy")]}, r'the teacher \(Sequential\) has no module "bdy"; nearest: "body"'),
        ({"taps": [Tap("body"), Tap("body", "norm")]}, 'two taps are called "body"'),
        ({"taps": []}, 'term "mse" compares taps and there are none'),
        ({"terms": {"mse": Term(Mse(), taps=["nrm"])}}, 'looks at "nrm", which is no tap; nearest: "norm"'),
        ({"terms": {"mse": nn.MSELoss()}}, r"called with student= and teacher=, got MSELoss\(input, target\)"),
        ({"taps": ["body"]}, r'taps: expected a list of Tap, got "body" in it: Tap\("body"\)'),
        ({"terms": {"mse": Term(Mse(), taps="body")}}, r"taps: expected a list of names, got 'body'"),
        ({"terms": {"mse.body": Mse()}}, 'terms: "mse.body" cannot be a name: expected one without dots'),
        ({"terms": {"": Mse()}}, 'terms: "" cannot be a name'),
        ({"terms": {"keys": Mse()}}, 'terms: "keys" cannot be a name'),
        ({"terms": {"type": Mse()}}, 'terms: "type" cannot be a name'),
        ({"taps": [Tap("body", adapter="cnov")]}, "adapter='cnov': expected auto"),
    ],
)
def test_what_cannot_work_is_said_at_once(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distiller(**options)


def test_shared_modules_are_refused() -> None:
    student = network()
    with pytest.raises(InputError, match=r"share modules: give the teacher its own with copy\.deepcopy"):
        distiller(student=student, teacher=student)


def test_hooks_stand_where_torch_would_put_them(images: Tensor) -> None:
    """Under whole numbers: `torch.compile` of torch 2.11 reads the tables and fails on other keys."""
    student, keys = network(), []
    student.norm.register_forward_hook(lambda module, args, out: keys.extend(module._forward_hooks))
    distiller(student=student)(images)
    assert len(keys) == 2
    assert all(isinstance(key, int) for key in keys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while tracing
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_distiller_gives_the_same_numbers(in_place: bool, images: Tensor) -> None:
    plain, compiled = distiller(), distiller()
    if in_place:
        compiled.compile(backend="eager")
    run = compiled if in_place else torch.compile(compiled, backend="eager")
    for _ in range(2):
        totals = []
        for call, distil in ((plain, plain), (run, compiled)):
            torch.manual_seed(2)
            out = call(images)
            out.total.backward()
            totals.append(out.total.item())
            distil.student.eval()(images)  # as in validation: without the distiller, and it keeps no map
            distil.student.train()
            assert not any(probe.caught for probe in distil._student_probes)
        assert totals[0] == totals[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_networks_compiled_one_after_another_keep_their_own_maps(images: Tensor) -> None:
    """torch's compiler looks code up by class; it must see that another network has other hooks, or none."""
    alone = Named()
    alone.compile(backend="eager")
    alone(images)
    pairs = []
    for path in ("near", "far", "near"):
        options = {"taps": [Tap(path)], "terms": {"rank": SpearmanLoss()}}
        plain, compiled = (distiller(student=Named(), teacher=Named(), **options) for _ in range(2))
        compiled.load_state_dict(plain.materialize(images).state_dict())
        compiled.teacher.load_state_dict(plain.teacher.state_dict())
        compiled.compile(backend="eager")
        pairs.append((plain, compiled))
    for plain, compiled in pairs * 2:
        assert compiled(images).total.item() == plain(images).total.item()


class Named(nn.Module):
    """A network with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.far(self.near(images).relu())


@pytest.mark.slow
def test_two_processes_find_the_gradients_of_one(tmp_path: Path) -> None:
    worker = [sys.executable, str(Path(__file__).with_name("parallel_worker.py"))]
    running = [
        subprocess.Popen([*worker, str(rank), str(world), str(tmp_path)]) for world in (1, 2) for rank in range(world)
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    torch.testing.assert_close(torch.load(tmp_path / "gradients_2"), torch.load(tmp_path / "gradients_1"))


def test_data_parallel_before_first_use_is_refused_by_torch(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="uninitialized parameters"):
            DistributedDataParallel(distiller())
    finally:
        torch.distributed.destroy_process_group()
