"""How maps are taken: hooks that exist for the length of one call and leave no trace."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch
import torch._dynamo.config
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, saved_tensors_hooks

from monoskd.distill.ema import bare
from monoskd.distill.taps import Outlet
from monoskd.errors import InputError

# Else torch compiles a network without hooks, or with those of another distiller, and runs that for one with ours.
torch._dynamo.config.skip_nnmodule_hook_guards = False


@dataclass(slots=True)
class Origin:
    """A tensor of the network's graph from which a map was made.

    A later module may write into `tensor`; `node` and `output` are its place in the graph before that. No node outside
    a graph, and for a leaf, which nobody may write into.
    """

    tensor: Tensor
    node: Node | None = None
    output: int = 0

    @property
    def edge(self) -> GradientEdge | None:
        """The place in the graph."""
        return None if self.node is None else GradientEdge(self.node, self.output)


# One call of a tapped module: where the map comes from (the fields of an `Origin`), what was seen, and torch's count of
# the writes to that; None: a copy, to which nobody can write.
Call: TypeAlias = tuple[Tensor, Node | None, int, Tensor, int | None]


# The map of one outlet, b x c x h x w, whether rows and columns are places (not for tokens), and the calls behind it.
Caught: TypeAlias = tuple[Tensor, bool, Sequence[Call]]


class Probe:
    """A hook that keeps the maps of one outlet while a call is watched, and does nothing otherwise.

    It lives as long as the distiller, so that code compiled with the hook inside keeps writing to the right object.
    """

    def __init__(self, outlet: Outlet, *, role: str) -> None:
        self.outlet = outlet
        self.path, self.keys = outlet.module, outlet.keys
        self.names = self.path.split(".") if self.path else []
        what = f'"{outlet.path}" of the {role}'
        self.where = what if outlet.side == "output" else f"the input of {what}"
        self.role = role
        self.open = False
        self.learns = False  # whether the watched call is made with gradients, which the module should have, too
        self.caught: list[Call] = []
        self.key = 0
        self.tables: tuple[dict[Any, Any], ...] = ()  # torch's, in which the hook is while a call is watched

    def attach(self, network: nn.Module, *, learns: bool) -> None:
        """Become a hook of the module at the path; torch's `get_submodule` and handles take ten times as long."""
        self.open, self.learns, self.caught = True, learns, []
        module: Any = network
        try:
            for name in self.names:
                module = module._modules[name]
        except (AttributeError, KeyError):
            module = None
        if module is None:
            module = find_module(network, self.path, role=self.role)
        if self.outlet.side == "input":
            self.tables = (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
        else:
            self.tables = (module._forward_hooks,)
        self.key = id(self)  # a whole number, as torch's own: its compiler reads the tables
        for table in self.tables:
            table[self.key] = self

    def detach(self) -> None:
        """Be a hook no longer."""
        for table in self.tables:
            if self.key in table:
                del table[self.key]
        self.open, self.tables = False, ()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], last: Any) -> None:
        """The hook. last: the module's output, or its keyword arguments where its input is tapped."""
        if not self.open:
            return
        if self.learns and not torch.is_grad_enabled():
            raise InputError(
                f"{self.where} runs without gradients inside a call with them: expected a module that learns; call "
                "torch.utils.checkpoint.checkpoint with use_reentrant=False, or tap a module outside torch.no_grad"
            )
        source, keys = last, self.keys
        if self.outlet.side == "input":
            source, keys = self._argument(args, last)
        for key in keys:
            source = pick(source, key, where=self.where)
        seen = source
        if self.outlet.view:
            seen = _viewed(source, self.outlet.view)
            source = source if isinstance(source, Tensor) else seen
        if not isinstance(seen, Tensor):
            raise InputError(f"{self.where} is {describe(seen)}, not a tensor: {_advice(self.outlet, seen)}")
        if seen.is_inference() or torch.compiler.is_dynamo_compiling():  # torch does not count the writes to it
            copy = seen.clone()
            self.caught.append((copy if seen is source else source, None, 0, copy, None))
        else:
            self.caught.append((source, source.grad_fn, source.output_nr, seen, seen._version))

    def take(self) -> Caught:
        """The map of the call that was watched. Raises InputError: none, several, or one that was overwritten."""
        calls, self.caught, which = self.caught, [], self.outlet.call
        if which is not None or len(calls) != 1:
            calls = self._chosen(calls)
        for _, _, _, seen, version in calls:
            if version is not None and seen._version != version:
                raise InputError(
                    f"{self.where} is overwritten in place by a module after it: tap that module instead, or keep a "
                    f'copy with Outlet("{self.outlet.path}", view=torch.clone)'
                )
        if which == "all":
            seen = self._stacked([seen for *_, seen, _ in calls])
        grid = seen.ndim == 4 and not seen.is_nested
        return (seen if grid else as_map(seen, where=self.where)), grid, calls

    def _chosen(self, calls: list[Call]) -> list[Call]:
        """The calls that the outlet asks for."""
        if not calls:
            raise InputError(
                f"{self.where} did not run in this forward pass: tap a module whose forward is called "
                "(not a ModuleList); where the network itself is compiled, compile the distiller instead, and where "
                "that was before monoskd was imported, call torch._dynamo.reset()"
            )
        call, count = self.outlet.call, len(calls)
        if call == "all":
            return calls
        if call is None:
            raise InputError(
                f"{self.where} ran {count} times in one forward pass: say which call is meant, "
                f'as in Outlet("{self.outlet.path}", call=-1) for the last, or call="all"'
            )
        if not -count <= call < count:
            raise InputError(f"{self.where} ran {count} times in one forward pass: there is no call {call}")
        return [calls[call]]

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

    def _stacked(self, maps: list[Tensor]) -> Tensor:
        """The maps of all calls, one after the other along the batch axis."""
        shapes = [tuple(seen.shape[1:]) for seen in maps]
        if len(set(shapes)) > 1:
            raise InputError(
                f'{self.where}: call="all": expected maps of one shape, got {", ".join(map(str, shapes))}: give each '
                "call a tap of its own, with call=0, call=1, ..."
            )
        return torch.cat(maps)


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


def _viewed(x: Any, view: Callable[[Any], Tensor]) -> Tensor:
    """`view(x)`; a checkpoint around the module must not count what it saves: the second run is without it."""
    if torch.compiler.is_compiling():
        return view(x)
    with saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        return view(x)
