"""How maps are taken: hooks that exist for the length of one call and leave no trace."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from monoskd.distill.ema import EmaTeacher
from monoskd.distill.taps import Outlet
from monoskd.errors import InputError


@dataclass(frozen=True)
class Origin:
    """A tensor of the network's graph from which a map was made.

    A later module may write into `tensor`; `edge` is its place in the graph before that. None outside a graph.
    """

    tensor: Tensor
    edge: GradientEdge | None


@dataclass(frozen=True)
class Caught:
    """One map: where it comes from, and `seen` as the view made it.

    version: torch's count of writes to `seen`; None where there is no count, and then `seen` is a copy.
    """

    origins: tuple[Origin, ...]
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
    """A hook that keeps the maps of one outlet while a call is watched, and does nothing otherwise.

    It lives as long as the distiller, so that code compiled with the hook inside keeps writing to the right object.
    """

    def __init__(self, outlet: Outlet, *, role: str) -> None:
        self.outlet = outlet
        self.path, self.keys = outlet.module, outlet.keys
        what = f'"{outlet.path}" of the {role}'
        self.where = what if outlet.side == "output" else f"the input of {what}"
        self.role = role
        self.open = False
        self.learns = False  # whether the watched call is made with gradients
        self.caught: list[Caught] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], last: Any) -> None:
        """The hook. last: the module's output, or its keyword arguments where its input is tapped."""
        if not self.open:
            return
        if self.role == "student" and self.learns and not torch.is_grad_enabled():
            raise InputError(
                f"{self.where} runs without gradients inside a call with them: expected a module that learns; call "
                "torch.utils.checkpoint.checkpoint with use_reentrant=False, or tap a module outside torch.no_grad"
            )
        source, keys = last, self.keys
        if self.outlet.side == "input":
            source, keys = self._argument(args, last)
        for key in keys:
            source = pick(source, key, where=self.where)
        compiling = torch.compiler.is_compiling()
        source = _kept(source, compiling)
        seen = _viewed(source, self.outlet.view) if self.outlet.view else source
        if not isinstance(seen, Tensor):
            raise InputError(f"{self.where} is {describe(seen)}, not a tensor: {_advice(self.outlet, seen)}")
        if not isinstance(source, Tensor):
            source = seen = _kept(seen, compiling)
        version = None if compiling or seen.is_inference() else seen._version
        edge = get_gradient_edge(source) if source.requires_grad and not compiling else None
        self.caught.append(Caught((Origin(source, edge),), seen, version, self.where))

    def take(self) -> Caught:
        """The map of the call that was watched. Raises InputError: none, several, or one that was overwritten."""
        caught, self.caught = self.caught, []
        if not caught:
            raise InputError(
                f"{self.where} did not run in this forward pass: tap a module whose forward is called "
                "(not a ModuleList); where the network itself is compiled, compile the distiller instead"
            )
        if len(caught) > 1 and self.outlet.call is None:
            raise InputError(
                f"{self.where} ran {len(caught)} times in one forward pass: say which call is meant, "
                f'as in Outlet("{self.outlet.path}", call=-1) for the last, or call="all"'
            )
        if self.outlet.call == "all":
            return self._stacked([self._intact(output) for output in caught])
        call = self.outlet.call or 0
        if not -len(caught) <= call < len(caught):
            raise InputError(f"{self.where} ran {len(caught)} times in one forward pass: there is no call {call}")
        return self._intact(caught[call])

    def _argument(self, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """What the module is called with, and the keys that are left to pick from it."""
        if not self.outlet.keys:
            if args or len(keywords) == 1:
                return (*args, *keywords.values())[0], []
            raise InputError(
                f"{self.where}: expected a key that chooses one of {', '.join(map(repr, keywords)) or 'no arguments'}"
            )
        key, *others = self.outlet.keys
        return pick(args if key.lstrip("-").isdigit() else keywords, key, where=self.where), others

    def _intact(self, caught: Caught) -> Caught:
        """The same. Raises InputError where a later module has written into it."""
        if caught.version is not None and caught.seen._version != caught.version:
            raise InputError(
                f"{self.where} is overwritten in place by a module after it: tap that module instead, or keep a copy "
                f'with Outlet("{self.outlet.path}", view=torch.clone)'
            )
        return caught

    def _stacked(self, caught: Sequence[Caught]) -> Caught:
        """The maps of all calls, one after the other along the batch axis."""
        shapes = [tuple(output.seen.shape[1:]) for output in caught]
        if len(set(shapes)) > 1:
            raise InputError(
                f'{self.where}: call="all": expected maps of one shape, got {", ".join(map(str, shapes))}: give each '
                "call a tap of its own, with call=0, call=1, ..."
            )
        stacked = torch.cat([output.seen for output in caught])
        return Caught(tuple(origin for output in caught for origin in output.origins), stacked, None, self.where)


class Watched:
    """Hooks on the modules of a network for the length of one call; all are removed at its end, also after an error."""

    def __init__(self, network: nn.Module, probes: Sequence[Probe], *, role: str) -> None:
        self.network, self.probes, self.role = bare(network), probes, role
        self.hooks: list[RemovableHandle] = []

    def __enter__(self) -> None:
        """Register the hooks."""
        learns = torch.is_grad_enabled()
        try:
            for probe in self.probes:
                probe.open, probe.learns, probe.caught = True, learns, []
                module = self._module(probe.path)
                if probe.outlet.side == "input":
                    self.hooks.append(module.register_forward_pre_hook(probe, with_kwargs=True))
                else:
                    self.hooks.append(module.register_forward_hook(probe))
        except BaseException:
            self.__exit__()
            raise

    def _module(self, path: str) -> nn.Module:
        try:
            return self.network.get_submodule(path)
        except AttributeError:
            return find_module(self.network, path, role=self.role)  # says what is nearest

    def __exit__(self, *_: object) -> None:
        """Remove them."""
        for hook in self.hooks:
            hook.remove()
        for probe in self.probes:
            probe.open = False


def find_module(network: nn.Module, path: str, *, role: str) -> nn.Module:
    """The module at a dotted path, inside DDP, torch.compile and `EmaTeacher`. An unknown path names the nearest."""
    network = bare(network)
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
    """A tapped tensor as B x C x H x W: tokens B x N x C become B x C x N x 1, vectors B x C become B x C x 1 x 1."""
    if x.is_nested:
        raise InputError(
            f"{where} is a nested tensor; expected tokens B x N x C: "
            "pad it with Outlet(path, view=lambda x: x.to_padded_tensor(0.0))"
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


def bare(network: nn.Module) -> nn.Module:
    """The network inside the wrappers that change its paths."""
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif isinstance(network, EmaTeacher):
            network = network.network
        elif "_orig_mod" in network._modules:  # torch.compile's wrapper
            network = network.get_submodule("_orig_mod")
        else:
            return network


def pick(output: Any, key: str, *, where: str) -> Any:
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
    raise InputError(f'{where}: there is no "{key}" in {describe(output)}')


def describe(output: Any) -> str:
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


def _kept(x: Any, compiling: bool) -> Any:
    """`x`, or a copy of it where torch does not count the writes to it."""
    return x.clone() if isinstance(x, Tensor) and (compiling or x.is_inference()) else x


def _viewed(x: Any, view: Callable[[Any], Tensor]) -> Tensor:
    """`view(x)`; a checkpoint around the module must not count what it saves: the second run is without it."""
    if torch.compiler.is_compiling():
        return view(x)
    with saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        return view(x)
