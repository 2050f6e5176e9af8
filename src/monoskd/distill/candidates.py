"""The maps and tokens that a network makes from a batch: where it could be tapped."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from monoskd.distill.ema import bare
from monoskd.distill.layouts import Layout, Made, batch_size, features, named, steps_lead
from monoskd.distill.seen import modes_of, restore
from monoskd.distill.taps import Outlet, TokensAsMap, as_tokens, batch_first, channels_first, last_as_tokens
from monoskd.distill.teachers import Inputs, called
from monoskd.distill.traps import tensors

MOST_PREFIX = 8  # class and register tokens in front of patches
MOST_TOKENS = 4096  # affinity compares all pairs of them

_VIEWS = {
    "channels_first": channels_first,
    "as_tokens": as_tokens,
    "last_as_tokens": last_as_tokens,
    "batch_first": batch_first,
}

# In the names of outputs that hold a row for each object of a set.
_SETS = ("boxes", "queries", "pred_masks")

# The size of what these give has nothing to do with the image's.
_FIXED_SIZE = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
_AFFINE = (nn.Linear, nn.modules.conv._ConvNd)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class CandidateMap:
    """A map that could be tapped: the path of its module, how to view it, and its size.

    size: rows and columns of a map; the number of tokens; or places of a signal or a volume, which are tokens too.
    """

    path: str
    view: TokensAsMap | str | None  # the name of a function in `_VIEWS`
    channels: int
    size: tuple[int, ...]
    answer: str | None = None  # the key under which the network returns it, "" where it returns nothing else
    depth: int = 0  # of the module among others
    batch: int = 0

    @property
    def tokens(self) -> bool:
        """Whether the places make no map, which could be resized."""
        return self.view == "as_tokens" or len(self.size) != 2

    @property
    def outlet(self) -> str | Outlet:
        """What a `Tap` takes."""
        if self.view is None:
            return self.path
        return Outlet(self.path, view=_VIEWS[self.view] if isinstance(self.view, str) else self.view)

    @property
    def code(self) -> str:
        """The same as code."""
        return f'"{self.path}"' if self.view is None else f'Outlet("{self.path}", view={self.view})'

    def __str__(self) -> str:
        tokens = "tokens, " if self.tokens or isinstance(self.view, TokensAsMap) else ""
        kind = "channels last, " if self.view == "channels_first" else tokens
        return f'"{self.path}" ({kind}{" x ".join(map(str, (self.channels, *self.size)))})'


@dataclass(frozen=True)
class Pass:
    """What one pass of a network showed.

    maps: those that could be tapped, in the order in which they are made. output: what the network returned. heads: the
    paths of the linear layers and convolutions whose output it returned as it is, by the key of the output. queries:
    the numbers of objects that it predicts as a set, in no order that another network shares (DETR). drawn: whether it
    drew random numbers.
    """

    maps: list[CandidateMap]
    output: Any
    heads: dict[str, str]
    queries: set[int]
    drawn: bool


def observed(network: nn.Module, inputs: Inputs, *, role: str) -> Pass:
    """One pass in eval mode. Nothing is learned."""
    made, made_by_layers, output, drawn = _watched(network, inputs, role=role, trained=role == "student")
    answers = {path.removeprefix(":"): x for path, x in named("", output)}
    queries = {x.shape[1] for key, x in answers.items() if x.ndim > 2 and any(word in key for word in _SETS)}
    steps_first = steps_lead(network)
    batch = batch_size(inputs, list(answers.values()), steps_first=steps_first)
    maps = [one for one in features(made, batch, steps_first=steps_first) if one.tokens not in queries]
    image, texts = image_size(inputs), text_lengths(inputs)
    volume = next(((x.shape[3], x.shape[4]) for x in tensors(inputs) if x.ndim == 5), None)
    candidates = [_candidate(one, image, texts, volume) for one in maps]
    if not any(candidates):  # a network may resize its images
        candidates = [_candidate(one, None, texts, volume) for one in maps]
    returned, modules = {id(x): key for key, x in answers.items()}, dict(bare(network).named_modules())
    chosen = [
        replace(candidate, answer=returned.get(id(one.tensor)), depth=_depth(one.path, modules), batch=one.batch)
        for candidate, one in zip(candidates, maps, strict=True)
        if candidate is not None
    ]
    answers = {path.removeprefix(":"): x for path, x in named("", output, deep=True)}
    heads = {key: made_by_layers[_memory(x)] for key, x in answers.items() if _memory(x) in made_by_layers}
    return Pass(chosen, output, {} if drawn else heads, queries, drawn)


def _watched(
    network: nn.Module, inputs: Inputs, *, role: str, trained: bool
) -> tuple[list[Made], dict[tuple[int, int], str], Any, bool]:
    """One pass in eval mode: what was made, the layers that made it by its memory, the output, and whether it drew
    random numbers.

    Left out is what no parameter has touched yet (trained: no parameter that learns), and what is made after random
    numbers were drawn, such as the tokens that a masked autoencoder keeps: it means something else in each pass.
    """
    made: list[Made] = []
    layers: list[Made] = []
    untouched = tensors(inputs)
    layout, start, reached = Layout(), _random_state(network), False

    def keep(path: str, module: nn.Module, output: Any) -> None:
        nonlocal reached
        if not _same(start, _random_state(network)):
            return
        reached = reached or any(x.requires_grad or not trained for x in module.parameters(recurse=False))
        for name, x in named(path, output):
            one = Made(name, x, x._version, layout.is_signal(module, x))
            if not reached:
                untouched.append(x)
            if isinstance(module, _AFFINE):
                layers.append(one)
            state = isinstance(module, nn.RNNBase) and name != f"{path}:0"
            if path and not state and not isinstance(module, _FIXED_SIZE):
                made.append(one)

    modes = modes_of(network)
    with ExitStack() as stack:
        stack.callback(restore, modes)
        network.eval()
        for path, module in bare(network).named_modules():
            if ".parametrizations." in f".{path}.":  # these make weights
                continue
            if (path or isinstance(module, _AFFINE)) and not isinstance(module, torch.jit.ScriptModule):
                hook = module.register_forward_hook(lambda module, _, output, path=path: keep(path, module, output))
                stack.enter_context(hook)
        with torch.no_grad():
            output = called(network, inputs, role=role)
    constant = set(map(_memory, untouched))
    made = [one for one in made if _memory(one.tensor) not in constant]
    by_memory = {_memory(one.tensor): one.path for one in layers if one.untouched}
    return made, by_memory, output, not _same(start, _random_state(network))


def _random_state(network: nn.Module) -> list[Tensor]:
    """The state of torch's random numbers, on the devices of the network."""
    devices = {x.device for x in network.parameters() if x.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def _depth(path: str, modules: Mapping[str, nn.Module]) -> int:
    """How deep a module lies: the modules around it. A container does not count around one that has parts itself."""
    names = path.partition(":")[0].split(".")
    around = [modules[".".join(names[:count])] for count in range(1, len(names))]
    leaf = not any(modules[".".join(names)].children())
    return sum(leaf or type(module) not in _CONTAINERS for module in around)


def training_output(network: nn.Module, inputs: Inputs) -> Any:
    """What a copy of the network returns in training mode; None where that takes more than these inputs."""
    devices = {x.device for x in network.parameters() if x.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            return deepcopy(network).train()(*inputs.args, **inputs.keywords)
    except Exception:  # such as a detector's, which asks for targets
        return None


def _memory(x: Tensor) -> tuple[int, int]:
    """What a tensor shares with its views of all its values."""
    return x.data_ptr(), x.numel()


def image_size(inputs: Inputs) -> tuple[int, int] | None:
    """Height and width of the first batch of maps, or image in a list."""
    alone = [id(x) for x in (*inputs.args, *inputs.keywords.values())]
    for x in tensors(inputs):
        if x.ndim == 4 or (x.ndim == 3 and id(x) not in alone and x.shape[0] in (1, 3, 4)):
            return x.shape[-2], x.shape[-1]
    return None


def text_lengths(inputs: Inputs) -> set[int]:
    """The numbers of tokens in the batch."""
    return {x.shape[1] for x in tensors(inputs) if x.ndim == 2 and not x.is_floating_point()}


def _candidate(
    one: Made,
    image: tuple[int, int] | None,
    texts: set[int],
    volume: tuple[int, int] | None,
) -> CandidateMap | None:
    """The tensor as a map or as tokens, if it has more than one place."""
    path, x, signal = one.path, one.tensor, one.signal
    if not x.is_floating_point() or min(x.shape) == 0:
        return None
    if one.steps_first:
        return CandidateMap(path, "batch_first", x.shape[2], (len(x),)) if 1 < len(x) <= MOST_TOKENS else None
    if x.ndim == 4 and (image or not (texts or volume)):  # in a transformer of texts or volumes these are heads
        _, c, h, w = x.shape
        if image is None or _fits((h, w), image):
            return CandidateMap(path, None, c, (h, w)) if h * w > 1 else None
        return CandidateMap(path, "channels_first", w, (c, h)) if _fits((c, h), image) and c * h > 1 else None
    if x.ndim == 3 and image and x.shape[1] not in texts:
        return _patches(path, x, image)
    if x.ndim == 3 and not (signal and x.shape[1] not in texts):
        return CandidateMap(path, None, x.shape[2], (x.shape[1],)) if 1 < x.shape[1] <= MOST_TOKENS else None
    if x.ndim not in (3, 5):
        return None
    view, channels, places = "as_tokens", x.shape[1], x.shape[2:]
    if x.ndim == 5 and volume is not None and not _fits(places[1:], volume):
        view, channels, places = "last_as_tokens", x.shape[4], x.shape[1:4]
        if not _fits(places[1:], volume):
            return None
    return CandidateMap(path, view, channels, tuple(places)) if 1 < places.numel() <= MOST_TOKENS else None


def _patches(path: str, x: Tensor, image: tuple[int, int]) -> CandidateMap | None:
    """Tokens B x N x C as patches of an image. With one channel they are a vector."""
    _, count, channels = x.shape
    if channels == 1:
        return None
    for prefix in range(min(MOST_PREFIX, count - 2) + 1):
        for height in range(1, count - prefix + 1):
            size = height, (count - prefix) // height
            if (count - prefix) % height == 0 and min(size) > 1 and _fits(size, image, patches=True):
                square = size[0] == size[1]
                return CandidateMap(path, TokensAsMap(prefix, None if square else height), channels, size)
    return None


def _fits(size: Sequence[int], image: tuple[int, int], *, patches: bool = False) -> bool:
    """Whether a map may be of an image: one stride for rows and columns, up to rounding, which patches do alike."""
    for stride in {round(whole / part) for whole, part in zip(image, size, strict=True)} - {0}:
        up = [-(-whole // stride) == part for whole, part in zip(image, size, strict=True)]
        down = [whole // stride == part for whole, part in zip(image, size, strict=True)]
        if all(up) or all(down) or (not patches and (up[0] or down[0]) and (up[1] or down[1])):
            return True
    return False
