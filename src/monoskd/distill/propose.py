"""One call for the common case: which maps of two networks to compare, found by running both once."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from monoskd.distill.candidates import CandidateMap, observed
from monoskd.distill.distiller import Distiller
from monoskd.distill.logits import Logits, find_logits, values_key
from monoskd.distill.losses import AffinityLoss, SpearmanLoss
from monoskd.distill.relations import RelationalLoss
from monoskd.distill.response import BoxLoss, LogitLoss
from monoskd.distill.taps import Tap
from monoskd.distill.teachers import Inputs, as_inputs
from monoskd.distill.terms import Term
from monoskd.distill.traps import check_module
from monoskd.errors import InputError

MOST_TAPS = 2


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


def distil(student: nn.Module, teacher: nn.Module, batch: Any, *, logits: bool | None = None) -> Proposal:
    """Propose a distiller for two networks and a batch that both take.

    batch: a tensor, a tuple of positional inputs or a dict of keyword inputs.
    logits: whether the outputs are class logits. Without it distil guesses, and says so: it takes for logits what a
    linear layer or a convolution of both gives in one shape, what comes under the key "logits" or "out", and dense
    outputs of the image's size; not images, boxes, features, or a `config.problem_type` other than one label.

    Both networks run once in eval mode, and a copy of the student in training mode. Taps: for each size of map, grid of
    patches or row of tokens that both have, the outermost module that makes it, and of several the last; the two
    coarsest sizes. Where no size agrees, the last map of each. The adapter is "auto". Terms: `SpearmanLoss` on the
    taps, and `LogitLoss` on class logits, else `AffinityLoss` on the taps. Networks without maps are compared by
    `RelationalLoss` and `LogitLoss` or `BoxLoss` on their outputs. An `attention_mask` of the tokens goes to the terms,
    too: see the last line of `code`. Raises InputError where nothing can be compared.
    """
    inputs = as_inputs(batch)
    for network, role in ((student, "student"), (teacher, "teacher")):
        check_module(network, role=role)
    if any(isinstance(x, np.ndarray) for x in (*inputs.args, *inputs.keywords.values())):
        raise InputError("distil: batch: expected tensors, got numpy arrays in it: use torch.as_tensor")
    passes = observed(student, inputs, role="student"), observed(teacher, inputs, role="teacher")
    found = find_logits((student, teacher), passes, inputs, asked=logits)
    places_s, places_t = (one.maps for one in passes)
    if found is not None:  # the logits have a term of their own, also before they are pooled or resized
        places_s, places_t = (
            [made for made in places if made.answer != found.key and made.channels != found.classes] or places
            for places in (places_s, places_t)
        )
    pairs, words = _pairs(places_s, places_t)
    taps = [(Tap(s.outlet, t.outlet), f"Tap({s.code}, {t.code})") for s, t in pairs]
    mask = _mask(inputs, [s.size for s, _ in pairs])
    tokens, values = any(s.tokens for s, _ in pairs), values_key(passes)
    terms = _terms([tap.label for tap, _ in taps], found, values=values, tokens=tokens)
    if found is not None and found.taps is not None:
        own, other = found.taps
        paths = f'"{own}"' if own == other else f'"{own}", "{other}"'
        taps.append(
            (Tap(own, other, adapter="identity", name="logits"), f'Tap({paths}, adapter="identity", name="logits")')
        )
    if not terms:
        raise InputError(
            "distil: expected maps B x C x H x W, tokens B x N x C or class logits of one shape in both networks, got "
            "none: write the Distiller by hand, with Outlet(path, view=...), call= where a module runs several times"
        )
    distiller = Distiller(
        student, teacher, taps=[tap for tap, _ in taps], terms={name: chosen.term for name, chosen in terms.items()}
    )
    distiller.materialize(*inputs.args, **inputs.keywords)
    words += [f"term {name}: {chosen.words}" for name, chosen in terms.items()]
    if mask:
        words.append(f'mask: the batch\'s "{mask}", 0 where a token is padding')
    code = _code([line for _, line in taps], {name: chosen.code for name, chosen in terms.items()})
    return Proposal(distiller, tuple(words), f"{code}\n# in each step: out = {_call(batch, mask)}")


def _mask(inputs: Inputs, sizes: Sequence[tuple[int, ...]]) -> str | None:
    """The key of a padding mask that fits the tokens of all taps."""
    mask = inputs.keywords.get("attention_mask")
    fits = isinstance(mask, Tensor) and mask.ndim == 2 and sizes and {mask.shape[1:]} == set(sizes)
    return "attention_mask" if fits else None


def _call(batch: Any, mask: str | None) -> str:
    """How the distiller is called with such a batch."""
    stars = "**" if isinstance(batch, Mapping) else "*" if isinstance(batch, tuple) else ""
    return f"distiller({stars}batch" + (f', mask=batch["{mask}"])' if mask else ")")


class Chosen(NamedTuple):
    """A term, the code that makes it and the reason for it."""

    term: Term
    code: str
    words: str


def _terms(taps: Sequence[str], logits: Logits | None, *, values: str | None, tokens: bool) -> dict[str, Chosen]:
    """Two terms, of what there is: taps, class logits, or other values of one shape under a key."""
    terms: dict[str, Chosen] = {}
    apart = logits is not None and logits.taps is not None  # the logits are a tap as well
    on_taps: dict[str, Any] = {"taps": list(taps)} if apart else {}
    if tokens:
        on_taps["resize"] = "none"

    def add(name: str, loss: nn.Module, loss_code: str, words: str, **options: Any) -> None:
        given = "".join(f", {option}={value!r}" for option, value in options.items())
        code = f"Term({loss_code}{given})".replace("'", '"') if options else loss_code
        terms[name] = Chosen(Term(loss, **options), code, words)

    if taps:
        add("rank", SpearmanLoss(), "SpearmanLoss()", "SpearmanLoss, the order of the values at the taps", **on_taps)
    key = values if logits is None else logits.key
    outputs: dict[str, Any] = {"between": "output", "masked": False} | ({"key": key} if key else {})
    if logits is not None:
        words = "LogitLoss, since both seem to return class logits of one shape" + (f' under "{key}"' if key else "")
        words += "; if they do not: distil(..., logits=False)"
        if logits.taps is not None and not logits.taps[0].startswith(":"):
            words += f'. Tapped at "{logits.taps[0]}", since the student returns something else in training'
        own = {"taps": ["logits"]} if apart else outputs
        add("logits", LogitLoss(temperature=4.0), "LogitLoss(temperature=4.0)", words, **own)
    elif taps:
        words = "AffinityLoss, how places relate, since the outputs do not seem to be class logits of one shape; "
        words += "if they are: distil(..., logits=True)"
        add("affinity", AffinityLoss(), "AffinityLoss()", words, **on_taps)
    elif key is not None:
        words = "BoxLoss, the difference of the outputs, which do not seem to be class logits"
        add("outputs", BoxLoss(), "BoxLoss()", words, **outputs)
    if terms and not taps and not apart:
        words = "RelationalLoss on the outputs, since no maps were found"
        add("relations", RelationalLoss(), "RelationalLoss()", words, **outputs)
    return terms


def _by_size(candidates: Sequence[CandidateMap]) -> dict[tuple[int, ...], CandidateMap]:
    """For each size the outermost module's map, the last of several."""
    chosen: dict[tuple[int, ...], CandidateMap] = {}
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
    common = sorted(last_s.keys() & last_t.keys(), key=math.prod)[:MOST_TAPS]
    grids_s, grids_t = ([made for made in candidates if not made.tokens] for candidates in (students, teachers))
    if common:
        pairs = [(last_s[size], last_t[size]) for size in reversed(common)]
        reason = "outermost and last of a size that both networks have"
    elif grids_s and grids_t:
        pairs = [(grids_s[-1], grids_t[-1])]
        reason = "the last map of each, since no size is common; the finer one is resized"
    else:
        return [], []
    words = [f"tap {s} beside {t}: {reason}" for s, t in pairs]
    for s, t in pairs:
        change = f"1 x 1, {s.channels} to {t.channels} channels"
        words.append(f'adapter of "{s.path}": {"none, channels agree" if s.channels == t.channels else change}')
    return pairs, words


def _code(taps: Sequence[str], terms: Mapping[str, str]) -> str:
    """The lines that make the same distiller by hand."""
    body = "".join(f"        {line},\n" for line in taps)
    listed = f"    taps=[\n{body}    ],\n" if taps else ""
    body = "".join(f'        "{name}": {line},\n' for name, line in terms.items())
    names = set(re.findall(r"\b([A-Z]\w+)\(|view=([a-z]\w+)", listed + body))
    known = sorted({name for pair in names for name in pair if name} | {"Distiller"})
    return (
        f"from monoskd.distill import {', '.join(known)}\n\n"
        f"distiller = Distiller(\n    student,\n    teacher,\n{listed}    terms={{\n{body}    }},\n)"
    )
