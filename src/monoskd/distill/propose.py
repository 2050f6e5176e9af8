"""One call for the common case: which maps of two networks to compare, found by running both once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monoskd.distill.distiller import Distiller
from monoskd.distill.losses import AffinityLoss, SpearmanLoss
from monoskd.distill.probes import bare
from monoskd.distill.relations import RelationalLoss
from monoskd.distill.response import LogitLoss
from monoskd.distill.seen import modes_of, restore
from monoskd.distill.taps import Outlet, Tap, TokensAsMap, channels_first
from monoskd.distill.teachers import Inputs, as_inputs
from monoskd.distill.terms import Term
from monoskd.distill.traps import tensors
from monoskd.errors import InputError

MOST_TAPS = 2
MOST_PREFIX = 8  # class and register tokens in front of patches


@dataclass(frozen=True)
class Proposal:
    """What `distil` chose.

    distiller: ready to use. words: what was chosen and why, line by line. code: the lines that make the same distiller
    by hand.
    """

    distiller: Distiller
    words: tuple[str, ...]
    code: str

    def __str__(self) -> str:
        return "\n".join([*self.words, "", self.code])


@dataclass(frozen=True)
class CandidateMap:
    """A map that could be tapped: the path of its module, how to view it, and its size as a map."""

    path: str
    view: TokensAsMap | str | None  # "channels_first" for that function
    channels: int
    size: tuple[int, int]

    @property
    def outlet(self) -> str | Outlet:
        """What a `Tap` takes."""
        if self.view is None:
            return self.path
        return Outlet(self.path, view=channels_first if isinstance(self.view, str) else self.view)

    @property
    def code(self) -> str:
        """The same as code."""
        return f'"{self.path}"' if self.view is None else f'Outlet("{self.path}", view={self.view})'

    def __str__(self) -> str:
        rows, columns = self.size
        kind = {str: "channels last, ", TokensAsMap: "tokens, ", type(None): ""}[type(self.view)]
        return f'"{self.path}" ({kind}{self.channels} x {rows} x {columns})'


def distil(student: nn.Module, teacher: nn.Module, batch: Any) -> Proposal:
    """Propose a distiller for two networks and a batch that both take.

    batch: a tensor, a tuple of positional inputs or a dict of keyword inputs.

    Both networks run once in eval mode. Taps: for each size of map, or grid of tokens, that both have, the outermost
    module that makes it, and of several the last; the two coarsest sizes. Where no size agrees, the last map of each.
    The adapter is "auto". Terms: `SpearmanLoss` on the taps, and `LogitLoss` on the outputs where both are class logits
    of one shape, else `AffinityLoss` on the taps. Networks without maps are compared by `LogitLoss` and
    `RelationalLoss` on their outputs. Raises InputError where nothing can be compared.
    """
    inputs = as_inputs(batch)
    (places_s, output_s), (places_t, output_t) = (_run(network, inputs) for network in (student, teacher))
    pairs, words = _pairs(places_s, places_t)
    terms = _terms(bool(pairs), _logits_key(output_s, output_t))
    if not terms:
        raise InputError(
            "distil: expected maps B x C x H x W, grids of tokens or class logits in both networks, got none: write "
            "the Distiller by hand, with Outlet(path, view=...)"
        )
    taps = [Tap(s.outlet, t.outlet) for s, t in pairs]
    distiller = Distiller(student, teacher, taps=taps, terms={name: proposed.term for name, proposed in terms.items()})
    distiller.materialize(*inputs.args, **inputs.keywords)
    words += [f"term {name}: {proposed.words}" for name, proposed in terms.items()]
    return Proposal(distiller, tuple(words), _code(pairs, {name: proposed.code for name, proposed in terms.items()}))


class Chosen(NamedTuple):
    """A term, the code that makes it and the reason for it."""

    term: Term
    code: str
    words: str


def _terms(mapped: bool, key: str | None) -> dict[str, Chosen]:
    """Two terms, of what there is: maps, and class logits under a key."""
    terms: dict[str, Chosen] = {}
    if mapped:
        words = "SpearmanLoss, the order of the values at the taps"
        terms["rank"] = Chosen(Term(SpearmanLoss()), "SpearmanLoss()", words)
    if key is not None:
        options = 'between="output"' + (f', key="{key}"' if key else "")
        term = Term(LogitLoss(temperature=4.0), between="output", key=key or None)
        words = "LogitLoss, since both return class logits of one shape" + (f' under "{key}"' if key else "")
        terms["logits"] = Chosen(term, f"Term(LogitLoss(temperature=4.0), {options})", words)
        if not mapped:
            term = Term(RelationalLoss(), between="output", key=key or None)
            words = "RelationalLoss on the outputs, since no maps were found"
            terms["relations"] = Chosen(term, f"Term(RelationalLoss(), {options})", words)
    elif mapped:
        words = "AffinityLoss, how places relate, since the outputs are no class logits of one shape"
        terms["affinity"] = Chosen(Term(AffinityLoss()), "AffinityLoss()", words)
    return terms


def _run(network: nn.Module, inputs: Inputs) -> tuple[list[CandidateMap], Any]:
    """The maps of a network in the order in which they are made, and its output. Nothing is learned."""
    seen: list[tuple[str, Tensor, int]] = []

    def keep(path: str, output: Any) -> None:
        seen.extend((name, x, x._version) for name, x in _named(path, output))

    modes = modes_of(network)
    with ExitStack() as stack:
        stack.callback(restore, modes)
        network.eval()
        for path, module in bare(network).named_modules():
            if path and not isinstance(module, torch.jit.ScriptModule):
                hook = module.register_forward_hook(lambda _, __, output, path=path: keep(path, output))
                stack.enter_context(hook)
        with torch.no_grad():
            output = network(*inputs.args, **inputs.keywords)
    paths = Counter(path for path, _, _ in seen)
    once = [(path, x) for path, x, version in seen if paths[path] == 1 and x._version == version]
    batches = Counter(len(x) for _, x in once if x.ndim == 4).most_common(1)
    maps = [(path, x) for path, x in once if not batches or len(x) == batches[0][0]]
    candidates = [_candidate(path, x, _image_size(inputs)) for path, x in maps]
    if not any(candidates):  # a network may resize its images
        candidates = [_candidate(path, x, None) for path, x in maps]
    return [candidate for candidate in candidates if candidate is not None], output


def _named(path: str, made: Any) -> list[tuple[str, Tensor]]:
    """The tensors in what a module returned, with the path that picks each."""
    if isinstance(made, Tensor):
        return [(path, made)]
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(made, Mapping):
        items = list(made.items())
    elif isinstance(made, tuple | list):
        items = list(enumerate(made))
    return [(f"{path}:{key}", x) for key, x in items if isinstance(x, Tensor)]


def _image_size(inputs: Inputs) -> tuple[int, int] | None:
    """Height and width of the first tensor that looks like an image."""
    for x in tensors(inputs):
        if x.ndim in (3, 4) and x.shape[-3] in (1, 3, 4):
            return x.shape[-2], x.shape[-1]
    return None


def _candidate(path: str, x: Tensor, image: tuple[int, int] | None) -> CandidateMap | None:
    """The tensor as a map, if it has more than one place."""
    if not x.is_floating_point() or x.is_nested:
        return None
    if x.ndim == 4 and min(x.shape) > 0:
        _, c, h, w = x.shape
        if image is None or _fits((h, w), image):
            return CandidateMap(path, None, c, (h, w)) if h * w > 1 else None
        return CandidateMap(path, "channels_first", w, (c, h)) if _fits((c, h), image) and c * h > 1 else None
    if x.ndim == 3 and image:
        _, count, channels = x.shape
        for prefix in range(min(MOST_PREFIX, count - 2) + 1):
            for height in range(1, count - prefix + 1):
                size = height, (count - prefix) // height
                if (count - prefix) % height == 0 and min(size) > 1 and _fits(size, image):
                    square = size[0] == size[1]
                    return CandidateMap(path, TokensAsMap(prefix, None if square else height), channels, size)
    return None


def _fits(size: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a map of that size may be of an image: one stride for rows and columns, up to rounding."""
    strides = [round(whole / part) for whole, part in zip(image, size, strict=True)]
    return any(
        all(-(-whole // s) == part or whole // s == part for whole, part in zip(image, size, strict=True))
        for s in {s for s in strides if s > 0}
    )


def _by_size(candidates: Sequence[CandidateMap]) -> dict[tuple[int, int], CandidateMap]:
    """For each size the outermost module's map, the last of several."""
    chosen: dict[tuple[int, int], CandidateMap] = {}
    for candidate in candidates:
        best = chosen.get(candidate.size)
        if best is None or candidate.path.count(".") <= best.path.count("."):
            chosen[candidate.size] = candidate
    return chosen


def _pairs(
    students: list[CandidateMap], teachers: list[CandidateMap]
) -> tuple[list[tuple[CandidateMap, CandidateMap]], list[str]]:
    """The maps to compare, finest first, and the reason in words."""
    last_s, last_t = (_by_size(candidates) for candidates in (students, teachers))
    common = sorted(last_s.keys() & last_t.keys(), key=lambda size: size[0] * size[1])[:MOST_TAPS]
    if common:
        pairs = [(last_s[size], last_t[size]) for size in reversed(common)]
        reason = "outermost and last of a size that both networks have"
    elif students and teachers:
        pairs = [(students[-1], teachers[-1])]
        reason = "the last map of each, since no size is common; the finer one is resized"
    else:
        return [], []
    words = [f"tap {s} beside {t}: {reason}" for s, t in pairs]
    for s, t in pairs:
        change = f"1 x 1, {s.channels} to {t.channels} channels"
        words.append(f'adapter of "{s.path}": {"none, channels agree" if s.channels == t.channels else change}')
    return pairs, words


def _logits_key(student: Any, teacher: Any) -> str | None:
    """The key under which both outputs hold class logits of one shape, "" where they are such; else None."""
    for key in ("", "logits", "out"):
        pair = [x if not key else x.get(key) if isinstance(x, Mapping) else None for x in (student, teacher)]
        logits = [x for x in pair if isinstance(x, Tensor) and x.ndim in (2, 4) and x.shape[1] > 1]
        if len(logits) == 2 and logits[0].shape == logits[1].shape:
            return key
    return None


def _code(pairs: Sequence[tuple[CandidateMap, CandidateMap]], terms: Mapping[str, str]) -> str:
    """The lines that make the same distiller by hand."""
    code = [f"Tap({s.code}, {t.code})" for s, t in pairs]
    body = "".join(f"        {line},\n" for line in code)
    taps = f"    taps=[\n{body}    ],\n" if pairs else ""
    body = "".join(f'        "{name}": {line},\n' for name, line in terms.items())
    names = {
        name for text in [*code, *terms.values()] for name in _NAMES if f"{name}(" in text or f"view={name}" in text
    }
    return (
        f"from monoskd.distill import {', '.join(sorted(names | {'Distiller'}))}\n\n"
        f"distiller = Distiller(\n    student,\n    teacher,\n{taps}    terms={{\n{body}    }},\n)"
    )


_NAMES = (
    "AffinityLoss",
    "LogitLoss",
    "Outlet",
    "RelationalLoss",
    "SpearmanLoss",
    "Tap",
    "Term",
    "TokensAsMap",
    "channels_first",
)
