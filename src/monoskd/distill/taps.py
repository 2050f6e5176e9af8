"""Where maps are taken from: any module of any network, by its dotted path, without a trace once the call is over."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel

from monoskd.errors import InputError

AdapterKind: TypeAlias = Literal["auto", "conv", "linear", "identity", "none"]


@dataclass(frozen=True)
class Outlet:
    """One place in a network where a map comes out.

    path: the module's dotted path as `named_modules` spells it ("" is the whole network). Where the module returns a
        tuple, dict or object, `:key` picks from it, as often as needed: "backbone.fpn:0", "backbone:features:p3".
    view: what was picked -> the tensor to distil, for instance `TokensAsMap()`. Applied inside the forward pass.
    call: which of several calls of a module that runs more than once in a forward pass (0 first, -1 last).
    """

    path: str
    view: Callable[[Any], Tensor] | None = None
    call: int | None = None

    @property
    def module(self) -> str:
        """The dotted path alone."""
        return self.path.partition(":")[0]

    @property
    def keys(self) -> list[str]:
        """What to pick from the module's output, outermost first."""
        return self.path.split(":")[1:]


@dataclass(frozen=True)
class Tap:
    """A map of the student beside the map of the teacher that it should resemble.

    student, teacher: an `Outlet` or its path; without `teacher`, the same path as the student's.
    adapter: a small network on the student's map, trained along and thrown away afterwards.
        "auto": a 1 x 1 convolution where the channels differ, nothing where they agree;
        "conv": 3 x 3 convolution, ReLU, 1 x 1 convolution (MonoSKD); "linear": a 1 x 1 convolution;
        "identity": nothing, and the channels have to agree; "none": nothing, and the channels may differ (affinity);
        or a module of your own.
    name: what terms, logs and the result call this tap; by default the student's path.
    """

    student: str | Outlet
    teacher: str | Outlet | None = None
    adapter: AdapterKind | nn.Module = "auto"
    name: str | None = None

    @property
    def label(self) -> str:
        """The name by which terms and results know this tap."""
        return self.name or self.student_outlet.path

    @property
    def student_outlet(self) -> Outlet:
        """Where the student's map comes out."""
        return self.student if isinstance(self.student, Outlet) else Outlet(self.student)

    @property
    def teacher_outlet(self) -> Outlet:
        """Where the teacher's map comes out."""
        if self.teacher is None:
            return self.student_outlet
        return self.teacher if isinstance(self.teacher, Outlet) else Outlet(self.teacher)


@dataclass(frozen=True)
class TokensAsMap:
    """A view that lays the tokens of a transformer out as the map they were cut from.

    prefix: leading tokens that belong to no place (class and register tokens). height: rows of patches; without it
    the map is square.
    """

    prefix: int = 0
    height: int | None = None

    def __call__(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b c h w"]:
        """B x (prefix + h w) x C -> B x C x h x w."""
        count = tokens.shape[1] - self.prefix
        height = self.height or round(max(count, 0) ** 0.5)
        if count <= 0 or count % height or (self.height is None and height * height != count):
            raise InputError(
                f"TokensAsMap(prefix={self.prefix}, height={self.height}): {tokens.shape[1]} tokens do not fill such "
                "a map; give the number of prefix tokens and, unless the map is square, its height"
            )
        return tokens[:, self.prefix :].transpose(1, 2).reshape(len(tokens), -1, height, count // height)


def channels_first(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """A view for networks that keep channels last, as Swin does."""
    return x.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Caught:
    """One map on its way out: `source` as it left the module, part of the graph; `seen` as the view made it.

    edge: where in the graph that was, which `source` no longer says once a later module has written into it. version:
    how often `seen` was written to; None where that is not counted, and then it is a copy.
    """

    source: Tensor
    edge: GradientEdge | None
    seen: Tensor
    version: int | None
    where: str

    @property
    def map(self) -> Float[Tensor, "b c h w"]:
        """What was seen, as a map."""
        return as_map(self.seen, where=self.where)

    @property
    def grid(self) -> bool:
        """Whether rows and columns are places; not so for tokens and vectors."""
        return self.seen.ndim == 4


class Probe:
    """A forward hook that catches what one outlet puts out while a call is being watched, and nothing otherwise.

    The object lives as long as the distiller, so that code compiled with the hook inside keeps writing to the right
    place; `open` makes it deaf outside a watched call.
    """

    def __init__(self, outlet: Outlet, *, role: str) -> None:
        self.outlet = outlet
        self.where = f'"{outlet.path}" of the {role}'
        self.role = role
        self.open = False
        self.learns = False  # whether the watched call is made with gradients
        self.caught: list[Caught] = []

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """The hook: keeps the map and looks on."""
        if not self.open:
            return
        if self.role == "student" and self.learns and not torch.is_grad_enabled():
            raise InputError(
                f"{self.where} runs without gradients inside a call with them: expected one that learns; call "
                "torch.utils.checkpoint.checkpoint with use_reentrant=False, or tap a module outside torch.no_grad"
            )
        source = output
        for key in self.outlet.keys:
            source = _pick(source, key, where=self.where)
        source = _kept(source)
        seen = _viewed(source, self.outlet.view) if self.outlet.view else source
        if not isinstance(seen, Tensor):
            raise InputError(f"{self.where} is {_describe(seen)}, not a tensor: {_advice(self.outlet, seen)}")
        if not isinstance(source, Tensor):
            source = seen = _kept(seen)
        self.caught.append(Caught(source, _edge(source), seen, _version(seen), self.where))

    def take(self) -> Caught:
        """The map of the call that was watched. Raises InputError where there is none, several, or a spoilt one."""
        caught, self.caught = self.caught, []
        if not caught:
            raise InputError(
                f"{self.where} did not run in this forward pass: tap a module whose forward is called "
                "(not a ModuleList); where the network itself is compiled, compile the distiller instead"
            )
        if len(caught) > 1 and self.outlet.call is None:
            raise InputError(
                f"{self.where} ran {len(caught)} times in one forward pass: say which call is meant, "
                f'as in Outlet("{self.outlet.path}", call=-1) for the last'
            )
        call = self.outlet.call or 0
        if not -len(caught) <= call < len(caught):
            raise InputError(f"{self.where} ran {len(caught)} times in one forward pass: there is no call {call}")
        chosen = caught[call]
        if chosen.version is not None and chosen.seen._version != chosen.version:
            raise InputError(
                f"{self.where} is overwritten in place by a module after it: tap that module instead, or keep a copy "
                f'with Outlet("{self.outlet.path}", view=torch.clone)'
            )
        return chosen


@contextmanager
def watched(network: nn.Module, probes: Sequence[Probe], *, role: str) -> Iterator[None]:
    """Hooks on the modules of `network` for the length of one call: none stays, whatever happens in it."""
    with ExitStack() as hooks:
        for probe in probes:
            probe.open, probe.learns, probe.caught = True, torch.is_grad_enabled(), []
            hooks.callback(setattr, probe, "open", False)
            hooks.enter_context(find_module(network, probe.outlet.module, role=role).register_forward_hook(probe))
        yield


def find_module(network: nn.Module, path: str, *, role: str) -> nn.Module:
    """The module at a dotted path, seen through DDP and torch.compile. An unknown path names the nearest."""
    network = _bare(network)
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError(
            f"the {role} is a ScriptModule, which takes no hooks: expected the nn.Module that it was made from, or no "
            'taps and terms with between="output"'
        )
    try:
        return network.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
        nearest = get_close_matches(path, known, n=3, cutoff=0.3) or [name for name, _ in network.named_children()]
        quoted = ", ".join(f'"{name}"' for name in nearest) or "none: it has no submodules"
        raise InputError(f'the {role} ({type(network).__name__}) has no module "{path}"; nearest: {quoted}') from None


def as_map(x: Tensor, *, where: str) -> Float[Tensor, "b c h w"]:
    """What a tap gave as B x C x H x W: tokens B x N x C become B x C x N x 1, vectors B x C become B x C x 1 x 1."""
    if x.is_nested:
        raise InputError(
            f"{where} is a nested tensor; expected tokens B x N x C: "
            "fill it up with Outlet(path, view=lambda x: x.to_padded_tensor(0.0))"
        )
    if x.ndim == 4:
        return x
    if x.ndim == 3:
        return x.transpose(1, 2).unsqueeze(3)
    if x.ndim == 2:
        return x[:, :, None, None]
    raise InputError(
        f"{where} has shape {tuple(x.shape)}; expected B x C x H x W, tokens B x N x C or vectors B x C: "
        "bring it there with Outlet(path, view=...)"
    )


def _bare(network: nn.Module) -> nn.Module:
    """The network inside the wrappers that change its paths."""
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif isinstance(getattr(network, "_orig_mod", None), nn.Module):  # torch.compile's wrapper
            network = network.get_submodule("_orig_mod")
        else:
            return network


def _pick(output: Any, key: str, *, where: str) -> Any:
    """`output[key]`: by name in a mapping, by position in a sequence, else the attribute."""
    if isinstance(output, Mapping):
        for candidate in (key, int(key) if key.lstrip("-").isdigit() else key):
            if candidate in output:
                return output[candidate]
    elif isinstance(output, Sequence) and key.lstrip("-").isdigit():
        if -len(output) <= int(key) < len(output):
            return output[int(key)]
    elif not isinstance(output, Tensor) and hasattr(output, key):
        return getattr(output, key)
    raise InputError(f'{where}: there is no "{key}" in {_describe(output)}')


def _describe(output: Any) -> str:
    """Type and keys, for an error."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"{kind} with keys " + ", ".join(repr(key) for key in output)
    if isinstance(output, Sequence) and not isinstance(output, str):
        return f"{kind} of {len(output)}"
    return kind


def _advice(outlet: Outlet, output: Any) -> str:
    """How to get a tensor out of `output`."""
    if isinstance(output, Mapping) and output:
        return f'choose one, as in "{outlet.path}:{next(iter(output))}"'
    if isinstance(output, Sequence) and output:
        return f'choose one, as in "{outlet.path}:0"'
    return "choose a part with a key after a colon, or make a tensor of it with Outlet(path, view=...)"


def _counted(x: Tensor) -> bool:
    """Whether anyone counts how often `x` is written to."""
    return not torch.compiler.is_compiling() and not x.is_inference()


def _version(x: Tensor) -> int | None:
    return x._version if _counted(x) else None


def _kept(x: Any) -> Any:
    """A tensor that nobody overwrites unnoticed: a copy where writes are not counted."""
    return x.clone() if isinstance(x, Tensor) and not _counted(x) else x


def _viewed(x: Any, view: Callable[[Any], Tensor]) -> Tensor:
    """`view(x)`. A checkpoint around the module would count what it saves, and miss it when it runs again."""
    if torch.compiler.is_compiling():
        return view(x)
    with saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        return view(x)


def _edge(x: Tensor) -> GradientEdge | None:
    return get_gradient_edge(x) if x.requires_grad and not torch.compiler.is_compiling() else None
