"""The maps and tokens that a network makes from a batch: where it could be tapped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from monoskd.distill.probes import bare
from monoskd.distill.seen import modes_of, restore
from monoskd.distill.taps import Outlet, TokensAsMap, as_tokens, channels_first
from monoskd.distill.teachers import Inputs, called
from monoskd.distill.traps import tensors

MOST_PREFIX = 8  # class and register tokens in front of patches
MOST_TOKENS = 4096  # affinity compares all pairs of them

_VIEWS = {"channels_first": channels_first, "as_tokens": as_tokens}

# What follows a layer of this kind is B x C x L, or B x N x C.
_SIGNAL = (nn.Conv1d, nn.ConvTranspose1d)
_TOKENS = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase)


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


def candidate_maps(network: nn.Module, inputs: Inputs, *, role: str) -> tuple[list[CandidateMap], Any]:
    """The maps of a network in the order in which they are made, and its output. Nothing is learned."""
    seen: list[tuple[str, Tensor, int, bool]] = []
    signal = False  # whether tensors of three axes are B x C x L at this point of the pass

    def keep(path: str, module: nn.Module, output: Any) -> None:
        nonlocal signal
        signal = isinstance(module, _SIGNAL) or (signal and not isinstance(module, _TOKENS))
        seen.extend((name, x, x._version, signal) for name, x in _named(path, output))

    modes = modes_of(network)
    with ExitStack() as stack:
        stack.callback(restore, modes)
        network.eval()
        for path, module in bare(network).named_modules():
            if path and not isinstance(module, torch.jit.ScriptModule):
                hook = module.register_forward_hook(lambda module, _, output, path=path: keep(path, module, output))
                stack.enter_context(hook)
        with torch.no_grad():
            output = called(network, inputs, role=role)
    paths = Counter(path for path, *_ in seen)
    once = [(path, x, signal) for path, x, version, signal in seen if paths[path] == 1 and x._version == version]
    batches = Counter(len(x) for _, x, _ in once if x.ndim > 2).most_common(1)
    maps = [made for made in once if len(made[1]) == batches[0][0]] if batches else []
    image, texts = _image_size(inputs), _text_lengths(inputs)
    candidates = [_candidate(*made, image, texts) for made in maps]
    if not any(candidates):  # a network may resize its images
        candidates = [_candidate(*made, None, texts) for made in maps]
    returned = {id(x): path.removeprefix(":") for path, x in _named("", output)}
    return [
        replace(candidate, answer=returned.get(id(x)))
        for candidate, (_, x, _) in zip(candidates, maps, strict=True)
        if candidate is not None
    ], output


def _named(path: str, made: Any) -> list[tuple[str, Tensor]]:
    """The tensors in what a module returned, with the path that picks each."""
    if isinstance(made, Tensor):
        return [(path, made)]
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(made, Mapping):
        items = list(made.items())
    elif isinstance(made, tuple | list):
        items = list(enumerate(made))
    elif is_dataclass(made):
        items = list(vars(made).items())
    return [(f"{path}:{key}", x) for key, x in items if isinstance(x, Tensor)]


def _image_size(inputs: Inputs) -> tuple[int, int] | None:
    """Height and width of the first batch of maps, or image in a list."""
    alone = [id(x) for x in (*inputs.args, *inputs.keywords.values())]
    for x in tensors(inputs):
        if x.ndim == 4 or (x.ndim == 3 and id(x) not in alone and x.shape[0] in (1, 3, 4)):
            return x.shape[-2], x.shape[-1]
    return None


def _text_lengths(inputs: Inputs) -> set[int]:
    """The numbers of tokens in the batch."""
    return {x.shape[1] for x in tensors(inputs) if x.ndim == 2 and not x.is_floating_point()}


def _candidate(
    path: str, x: Tensor, signal: bool, image: tuple[int, int] | None, texts: set[int]
) -> CandidateMap | None:
    """The tensor as a map or as tokens, if it has more than one place."""
    if not x.is_floating_point() or x.is_nested or min(x.shape) == 0:
        return None
    if x.ndim == 4 and (image or not texts):  # in a language model these are heads
        _, c, h, w = x.shape
        if image is None or _fits((h, w), image):
            return CandidateMap(path, None, c, (h, w)) if h * w > 1 else None
        return CandidateMap(path, "channels_first", w, (c, h)) if _fits((c, h), image) and c * h > 1 else None
    if x.ndim == 3 and image and x.shape[1] not in texts:
        return _patches(path, x, image)
    if x.ndim == 3 and not (signal and x.shape[1] not in texts):
        return CandidateMap(path, None, x.shape[2], (x.shape[1],)) if 1 < x.shape[1] <= MOST_TOKENS else None
    if x.ndim in (3, 5):
        places = x.shape[2:]
        fits = 1 < places.numel() <= MOST_TOKENS
        return CandidateMap(path, "as_tokens", x.shape[1], tuple(places)) if fits else None
    return None


def _patches(path: str, x: Tensor, image: tuple[int, int]) -> CandidateMap | None:
    """Tokens B x N x C as patches of an image."""
    _, count, channels = x.shape
    for prefix in range(min(MOST_PREFIX, count - 2) + 1):
        for height in range(1, count - prefix + 1):
            size = height, (count - prefix) // height
            if (count - prefix) % height == 0 and min(size) > 1 and _fits(size, image, patches=True):
                square = size[0] == size[1]
                return CandidateMap(path, TokensAsMap(prefix, None if square else height), channels, size)
    return None


def _fits(size: tuple[int, int], image: tuple[int, int], *, patches: bool = False) -> bool:
    """Whether a map may be of an image: one stride for rows and columns, up to rounding, which patches do alike."""
    for stride in {round(whole / part) for whole, part in zip(image, size, strict=True)} - {0}:
        up = [-(-whole // stride) == part for whole, part in zip(image, size, strict=True)]
        down = [whole // stride == part for whole, part in zip(image, size, strict=True)]
        if all(up) or all(down) or (not patches and (up[0] or down[0]) and (up[1] or down[1])):
            return True
    return False
