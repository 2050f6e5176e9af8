"""One call for the common case: which maps of two networks to compare, found by running both once."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from monoskd.distill.candidates import CandidateMap, candidate_maps
from monoskd.distill.distiller import Distiller
from monoskd.distill.losses import AffinityLoss, SpearmanLoss
from monoskd.distill.probes import pick
from monoskd.distill.relations import RelationalLoss
from monoskd.distill.response import LogitLoss
from monoskd.distill.taps import Tap
from monoskd.distill.teachers import Inputs, as_inputs
from monoskd.distill.terms import Term
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


def distil(student: nn.Module, teacher: nn.Module, batch: Any) -> Proposal:
    """Propose a distiller for two networks and a batch that both take.

    batch: a tensor, a tuple of positional inputs or a dict of keyword inputs.

    Both networks run once in eval mode. Taps: for each size of map, grid of patches or row of tokens that both have,
    the outermost module that makes it, and of several the last; the two coarsest sizes. Where no size agrees, the last
    map of each. The adapter is "auto". Terms: `SpearmanLoss` on the taps, and `LogitLoss` on the outputs where both are
    class logits of one shape, else `AffinityLoss` on the taps. Networks without maps are compared by `LogitLoss` and
    `RelationalLoss` on their outputs. An `attention_mask` of the tokens goes to the terms, too: see the last line of
    `code`. Raises InputError where nothing can be compared.
    """
    inputs = as_inputs(batch)
    (places_s, output_s), (places_t, output_t) = (
        candidate_maps(network, inputs, role=role) for network, role in ((student, "student"), (teacher, "teacher"))
    )
    key, dense = _logits_key(output_s, output_t)
    if key is not None:  # the logits have a term of their own
        places_s, places_t = (
            [made for made in places if made.answer != key] or places for places in (places_s, places_t)
        )
    pairs, words = _pairs(places_s, places_t)
    taps = [(Tap(s.outlet, t.outlet), f"Tap({s.code}, {t.code})") for s, t in pairs]
    mask = _mask(inputs, [s.size for s, _ in pairs])
    terms = _terms([tap.label for tap, _ in taps], key, dense=dense, tokens=any(s.tokens for s, _ in pairs))
    if dense:
        options = 'adapter="identity", name="logits"'
        taps.append((Tap(f":{key}", adapter="identity", name="logits"), f'Tap(":{key}", {options})'))
    if not terms:
        raise InputError(
            "distil: expected maps B x C x H x W, tokens B x N x C or class logits of one shape in both networks, got "
            "none: write the Distiller by hand, with Outlet(path, view=...)"
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


def _terms(taps: Sequence[str], key: str | None, *, dense: bool, tokens: bool) -> dict[str, Chosen]:
    """Two terms, of what there is: taps, and class logits under a key. dense: logits of each token, which are a tap."""
    terms: dict[str, Chosen] = {}
    options: dict[str, Any] = {"taps": list(taps)} if dense else {}
    if tokens:
        options["resize"] = "none"

    def add(name: str, loss: nn.Module, loss_code: str, words: str, **options: Any) -> None:
        given = "".join(f", {option}={value!r}" for option, value in options.items())
        code = f"Term({loss_code}{given})".replace("'", '"') if options else loss_code
        terms[name] = Chosen(Term(loss, **options), code, words)

    if taps:
        add("rank", SpearmanLoss(), "SpearmanLoss()", "SpearmanLoss, the order of the values at the taps", **options)
    if key is not None:
        words = "LogitLoss, since both return class logits of one shape" + (f' under "{key}"' if key else "")
        outputs: dict[str, Any] = {"between": "output", "masked": False} | ({"key": key} if key else {})
        own = {"taps": ["logits"]} if dense else outputs
        add("logits", LogitLoss(temperature=4.0), "LogitLoss(temperature=4.0)", words, **own)
        if not taps and not dense:
            words = "RelationalLoss on the outputs, since no maps were found"
            add("relations", RelationalLoss(), "RelationalLoss()", words, **outputs)
    elif taps:
        words = "AffinityLoss, how places relate, since the outputs are no class logits of one shape"
        add("affinity", AffinityLoss(), "AffinityLoss()", words, **options)
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


def _logits_key(student: Any, teacher: Any) -> tuple[str | None, bool]:
    """The key under which both outputs hold class logits of one shape, "" where they are such; else None.

    And whether they are logits of each token, B x N x classes.
    """
    for key in ("", "logits", "out", "0"):
        logits = [x for x in (_part(output, key) for output in (student, teacher)) if isinstance(x, Tensor)]
        if len(logits) == 2 and logits[0].shape == logits[1].shape:
            dense = logits[0].ndim == 3 and key == "logits"
            flat = logits[0].ndim == 2 or (logits[0].ndim == 4 and key != "0")
            if (dense and logits[0].shape[2] > 1) or (flat and logits[0].shape[1] > 1):
                return key, dense
    return None, False


def _part(output: Any, key: str) -> Any:
    """What a term with this key sees of an output; None where there is no such part."""
    try:
        return pick(output, key, where="distil") if key else output
    except InputError:
        return None


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
