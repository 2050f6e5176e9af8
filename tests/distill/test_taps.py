import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monoskd.distill.probes import Probe, as_map, find_module
from monoskd.distill.taps import Outlet, Tap, TokensAsMap, channels_first
from monoskd.distill.teachers import Inputs, called
from monoskd.errors import InputError


class Branches(nn.Module):
    """Returns what users' modules return: a dict of lists, and an object."""

    def forward(self, x: Tensor) -> dict[str, object]:
        return {"maps": [x, x + 1], "info": "text", 3: x + 2}


def caught(network: nn.Module, outlet: Outlet, x: Tensor) -> Tensor:
    probe = Probe(outlet, role="student")
    called(network, Inputs((x,), {}), role="student", probes=[probe])
    return probe.take()[0]


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.fixture
def x() -> Tensor:
    return torch.arange(8.0).view(2, 1, 2, 2)


@pytest.mark.parametrize(("path", "added"), [("0:maps:0", 0), ("0:maps:-1", 1), ("0:3", 2), (":maps:1", 1)])
def test_a_key_picks_from_nested_outputs(path: str, added: int, x: Tensor) -> None:
    torch.testing.assert_close(caught(nn.Sequential(Branches()), Outlet(path), x), x + added)


def test_a_key_picks_an_attribute(x: Tensor) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> object:
            return torch.return_types.max((x, x.long()))  # a named tuple

    torch.testing.assert_close(caught(nn.Sequential(Named()), Outlet("0:values"), x), x)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("0", 'is dict with keys .* not a tensor: choose one, as in "0:maps"'),
        ("0:maps", 'is list of 2, not a tensor: choose one, as in "0:maps:0"'),
        ("0:info", "is str, not a tensor"),
        ("0:maps:2", 'there is no "2" in list of 2'),
        ("0:map", "there is no \"map\" in dict with keys 'maps', 'info', 3"),
        ("0:maps:0:T", 'there is no "T" in Tensor'),
    ],
)
def test_what_is_no_tensor_is_an_error_that_says_how_to_choose(path: str, message: str, x: Tensor) -> None:
    network = nn.Sequential(Branches())
    with pytest.raises(InputError, match=message):
        caught(network, Outlet(path), x)
    assert hooks(network) == 0


def test_an_unknown_path_names_the_nearest() -> None:
    network = nn.ModuleDict({"layer1": nn.Linear(1, 1), "layer2": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    with pytest.raises(
        InputError, match=r'the teacher \(ModuleDict\) has no module "layr2"; nearest: "layer2", "layer1"'
    ):
        find_module(network, "layr2", role="teacher")
    with pytest.raises(InputError, match='nearest: "layer1", "layer2", "head"'):
        find_module(network, "qqqq", role="teacher")


def test_paths_are_seen_through_compile() -> None:
    network = nn.Sequential(nn.Linear(1, 1))
    assert find_module(torch.compile(network), "0", role="student") is network[0]


def test_a_module_that_runs_twice_needs_to_be_told_which_call(x: Tensor) -> None:
    relu = nn.Hardtanh(-1, 5)
    network = nn.Sequential(relu, nn.Flatten(), nn.Unflatten(1, (1, 2, 2)), relu)
    with pytest.raises(InputError, match=r'"0" of the student ran 2 times .* Outlet\("0", call=-1\)'):
        caught(network, Outlet("0"), x)
    torch.testing.assert_close(caught(network, Outlet("0", call=0), x), x.clamp(max=5))
    with pytest.raises(InputError, match="there is no call 2"):
        caught(network, Outlet("0", call=2), x)


def test_a_module_that_never_runs_is_an_error(x: Tensor) -> None:
    network = nn.Sequential(nn.ModuleList([nn.Identity()]), nn.Identity())
    network.forward = lambda x: network[1](x)
    with pytest.raises(InputError, match='"0" of the student did not run'):
        caught(network, Outlet("0"), x)


def test_a_map_that_is_overwritten_in_place_is_an_error_and_a_copy_is_not(x: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True))
    with pytest.raises(InputError, match='"0" of the student is overwritten in place'):
        caught(network, Outlet("0"), x)
    torch.testing.assert_close(caught(network, Outlet("0", view=torch.clone), x), network[0](x))


@pytest.mark.parametrize("view", [None, lambda x: x[:, :1]])
def test_where_writes_are_not_counted_a_copy_is_kept(view, x: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True)).requires_grad_(False)
    network[0].weight.fill_(-1)
    with torch.inference_mode():
        torch.testing.assert_close(caught(network, Outlet("0", view=view), x), network[0](x))


class Checkpointed(nn.Module):
    """A module that runs again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.body, x, use_reentrant=self.reentrant)
        return out


def test_a_checkpoint_that_drops_the_gradient_is_an_error(x: Tensor) -> None:
    network = Checkpointed(reentrant=True)
    with pytest.raises(InputError, match=r'"body.0" of the student runs without gradients .* use_reentrant=False'):
        caught(network, Outlet("body.0"), x.requires_grad_())
    with torch.no_grad():
        assert caught(network, Outlet("body.0"), x).shape == x.shape


def test_a_view_inside_a_checkpoint_saves_what_it_likes(x: Tensor) -> None:
    network, plain = Checkpointed(reentrant=False), Checkpointed(reentrant=False)
    plain.load_state_dict(network.state_dict())
    probe = Probe(Outlet("body.0", view=torch.square), role="student")
    out = called(network, Inputs((x,), {}), role="student", probes=[probe])
    (out.sum() + probe.take()[0].sum()).backward()
    inner = plain.body[0](x)
    (inner.tanh().sum() + inner.square().sum()).backward()
    torch.testing.assert_close(network.body[0].weight.grad, plain.body[0].weight.grad)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_nested_tensor_is_an_error_that_says_how_to_fill_it() -> None:
    """A TransformerEncoder in evaluation gives one where tokens are padding."""
    with pytest.raises(InputError, match=r"x is a nested tensor; expected tokens B x N x C: .*to_padded_tensor"):
        as_map(torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)]), where="x")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")
def test_a_script_module_takes_no_hooks() -> None:
    with pytest.raises(InputError, match=r'the teacher is a ScriptModule, which takes no hooks: .*between="output"'):
        find_module(torch.jit.script(nn.Sequential(nn.ReLU())), "0", role="teacher")


def test_hooks_are_gone_when_the_call_is_over_even_if_it_fails(x: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Identity())
    network[0].register_forward_pre_hook(lambda *_: seen.append(hooks(network)))
    seen: list[int] = []
    probe = Probe(Outlet("0"), role="student")
    with pytest.raises(RuntimeError):
        called(network, Inputs((x[:, :, :, None],), {}), role="student", probes=[probe])
    assert seen == [1]
    assert hooks(network) == 0
    with pytest.raises(InputError, match='has no module "2"'):
        called(network, Inputs((x,), {}), role="student", probes=[probe, Probe(Outlet("2"), role="student")])
    assert hooks(network) == 0
    network(x)
    assert not probe.caught


def test_tokens_become_the_map_they_were_cut_from() -> None:
    picture = torch.randn(2, 3, 4, 5)
    tokens = torch.cat([torch.zeros(2, 2, 3), picture.flatten(2).transpose(1, 2)], 1)
    torch.testing.assert_close(TokensAsMap(prefix=2, height=4)(tokens), picture)
    square = picture[..., :4].flatten(2).transpose(1, 2)
    torch.testing.assert_close(TokensAsMap()(square), picture[..., :4])


@pytest.mark.parametrize("view", [TokensAsMap(), TokensAsMap(height=6), TokensAsMap(prefix=30)])
def test_tokens_that_fill_no_map_are_an_error(view: TokensAsMap) -> None:
    with pytest.raises(InputError, match="20 tokens do not fill such a map"):
        view(torch.zeros(1, 20, 3))


def test_everything_a_tap_gives_is_a_map() -> None:
    assert as_map(torch.zeros(2, 7, 3), where="x").shape == (2, 3, 7, 1)
    assert as_map(torch.zeros(2, 3), where="x").shape == (2, 3, 1, 1)
    assert channels_first(torch.zeros(2, 4, 5, 3)).shape == (2, 3, 4, 5)
    with pytest.raises(InputError, match=r"x has shape \(2, 3, 4, 5, 6\); expected B x C x H x W"):
        as_map(torch.zeros(2, 3, 4, 5, 6), where="x")


def test_a_tap_is_called_as_the_students_path_and_looks_there_in_both() -> None:
    tap = Tap("layer2")
    assert (tap.label, tap.student_outlet, tap.teacher_outlet) == ("layer2", Outlet("layer2"), Outlet("layer2"))
    assert Tap("a", Outlet("b", call=-1), name="c").label == "c"
