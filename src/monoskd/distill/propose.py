"""One call for the common case: which maps of two networks to compare, found by running both once."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from monoskd.distill.answers import Answer, find_answer, find_vectors
from monoskd.distill.candidates import CandidateMap, observed
from monoskd.distill.distiller import Distiller
from monoskd.distill.losses import AffinityLoss, SpearmanLoss
from monoskd.distill.masks import Mask, find_mask
from monoskd.distill.relations import RelationalLoss
from monoskd.distill.response import BoxLoss, LogitLoss
from monoskd.distill.taps import Tap
from monoskd.distill.teachers import as_inputs
from monoskd.distill.terms import Term
from monoskd.distill.traps import check_module, tensors
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


@torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]  # hooks of one pass are not for torch.compile
def distil(student: nn.Module, teacher: nn.Module, batch: Any, *, logits: bool | None = None) -> Proposal:
    """Propose a distiller for two networks and a batch that both take.

    batch: a tensor, a tuple of positional inputs or a dict of keyword inputs.
    logits: whether the outputs are class logits. Without it distil guesses, and says so: it takes for logits what a
    linear layer or a convolution of both gives in one shape for images, what comes under a key such as "logits",
    "prediction_logits" or "out", and dense outputs of the image's size; not images, boxes, features, or a
    `config.problem_type` other than one label. For other inputs a linear layer alone does not tell: a `num_classes`, or
    "class" in the layer's name, does; the first also where the mean of two heads or the like follows on the layer.

    Both networks run once in eval mode, and a copy of the student in training mode. Taps: for each size of map, grid of
    patches or row of tokens that both have, the outermost module that makes it, and of several the last; the two
    coarsest sizes. Where no size agrees, the last map of each. The adapter is "auto". Terms: `SpearmanLoss` on the
    taps, and `LogitLoss` on class logits, or `BoxLoss` on other values that a linear layer or a convolution gives in
    one shape, else `AffinityLoss` on the taps. Networks without maps are compared by `RelationalLoss` and `LogitLoss`
    or `BoxLoss` on their outputs. A padding mask in the batch goes to the terms of the taps that it fits: see the last
    line of `code`. Raises InputError where nothing can be compared.
    """
    inputs = as_inputs(batch)
    for network, role in ((student, "student"), (teacher, "teacher")):
        check_module(network, role=role)
    if not any(x.requires_grad for x in student.parameters()):
        raise InputError(
            "distil: student: expected parameters that learn, got none: is it distil(student, teacher, batch)?"
        )
    if any(isinstance(x, np.ndarray) for x in (*inputs.args, *inputs.keywords.values())):
        raise InputError("distil: batch: expected tensors, got numpy arrays in it: use torch.as_tensor")
    if isinstance(batch, list) and len({x.ndim for x in tensors(batch)}) > 1:
        raise InputError(
            "distil: batch: expected what the networks are called with, got a list such as (images, labels): "
            "give batch[0], or tuple(batch) where they take it all"
        )
    passes = observed(student, inputs, role="student"), observed(teacher, inputs, role="teacher")
    found = find_answer((student, teacher), passes, inputs, asked=logits)
    pairs, words = _pairs(*(_apart(one.maps, found) for one in passes))
    if found is None and not pairs:
        found = find_vectors(student, passes, inputs)
    taps = [(Tap(s.outlet, t.outlet), f"Tap({s.code}, {t.code})") for s, t in pairs]
    places = {tap.label: s for (tap, _), (s, _) in zip(taps, pairs, strict=True)}
    if found is not None and found.taps is not None:
        taps.append(_tap_of(found))
    mask = find_mask(inputs, student, {label: (made.path, made.size) for label, made in places.items()}, found)
    terms = _terms(places, found, mask, asked=logits)
    if not terms:
        raise InputError(
            "distil: expected maps B x C x H x W, tokens B x N x C or outputs of one shape in both networks, got "
            "none: write the Distiller by hand, with Outlet(path, view=...), call= where a module runs several times"
        )
    distiller = Distiller(
        student, teacher, taps=[tap for tap, _ in taps], terms={name: chosen.term for name, chosen in terms.items()}
    )
    distiller.materialize(*inputs.args, **inputs.keywords)
    words += [f"term {name}: {chosen.words}" for name, chosen in terms.items()]
    words += [_drawn(role) for one, role in zip(passes, ("student", "teacher"), strict=True) if one.drawn]
    words += mask.words([tap.label for tap, _ in taps])
    code = _code([line for _, line in taps], {name: chosen.code for name, chosen in terms.items()})
    return Proposal(distiller, tuple(words), f"{code}\n# in each step: out = {_call(batch, mask)}")


def _drawn(role: str) -> str:
    return (
        f"the {role} draws random numbers in eval mode: what it makes after that is not compared; "
        "if the batch can hold them (the noise of a masked autoencoder), put them there"
    )


def _apart(maps: Sequence[CandidateMap], answer: Answer | None) -> list[CandidateMap]:
    """The maps less the answer, which has a term of its own, and less logits before they are pooled or resized."""
    if answer is None:
        return list(maps)
    others = [made for made in maps if made.answer != answer.key]
    return [made for made in others if made.channels != answer.channels] or others or list(maps)


def _tap_of(answer: Answer) -> tuple[Tap, str]:
    """The tap at which an answer is seen, and its code."""
    own, other = answer.taps or ("", "")
    paths, name = f'"{own}"' if own == other else f'"{own}", "{other}"', answer.name
    return (
        Tap(own, other, adapter="identity", name=name),
        f'Tap({paths}, adapter="identity", name="{name}")',
    )


def _call(batch: Any, mask: Mask) -> str:
    """How the distiller is called with such a batch."""
    stars = "**" if isinstance(batch, Mapping) else "*" if isinstance(batch, tuple) else ""
    return f"distiller({stars}batch{mask.argument})"


class Chosen(NamedTuple):
    """A term, the code that makes it and the reason for it."""

    term: Term
    code: str
    words: str


def _chosen(loss: nn.Module, loss_code: str, words: str, **options: Any) -> Chosen:
    given = "".join(f", {option}={value!r}" for option, value in options.items())
    code = f"Term({loss_code}{given})".replace("'", '"') if options else loss_code
    return Chosen(Term(loss, **options), code, words)


def _terms(
    places: Mapping[str, CandidateMap], answer: Answer | None, mask: Mask, *, asked: bool | None
) -> dict[str, Chosen]:
    """Two terms, of what there is: taps, and class logits or other values; those on taps twice where a mask is for some
    of them."""
    terms: dict[str, Chosen] = {}
    if places:
        words = "SpearmanLoss, the order of the values at the taps"
        terms |= _on_taps("rank", SpearmanLoss, words, places, answer, mask)
    if answer is not None:
        for one in answer.each():
            name = one.key if answer.also else one.name
            terms |= _on_outputs(name, one, mask, asked=asked, alone=not places)
    elif places:
        words = "AffinityLoss, how places relate, since the outputs do not seem to be class logits of one shape; "
        words += "if they are: distil(..., logits=True)"
        terms |= _on_taps("affinity", AffinityLoss, words, places, answer, mask)
    return terms


def _on_taps(
    name: str,
    loss: type[nn.Module],
    words: str,
    places: Mapping[str, CandidateMap],
    answer: Answer | None,
    mask: Mask,
) -> dict[str, Chosen]:
    """A term on all taps, or one on those with a mask and another on the rest."""
    inside, outside = ([tap for tap in places if (tap in mask.taps) == masked] for masked in (True, False))
    terms: dict[str, Chosen] = {}
    for taps in filter(None, (inside, outside)):
        options: dict[str, Any] = {}
        if len(taps) < len(places) or (answer is not None and answer.taps is not None):
            options["taps"] = taps
        if any(places[tap].tokens for tap in taps):
            options["resize"] = "none"
        if mask.taps and taps is outside:
            options["masked"] = False
        chosen = _chosen(loss(), f"{loss.__name__}()", words, **options)
        terms[name if not terms else f"{name}_without_mask"] = chosen
    return terms


def _on_outputs(name: str, answer: Answer, mask: Mask, *, asked: bool | None, alone: bool) -> dict[str, Chosen]:
    """A term on the logits or values; where they stand alone, another on how images relate."""
    options: dict[str, Any] = {"between": "output", "masked": False} | ({"key": answer.key} if answer.key else {})
    if answer.taps is not None:
        options = {"taps": [name]} | ({"masked": False} if mask.taps and name not in mask.taps else {})
    where = f' under "{answer.key}"' if answer.key else ""
    if answer.logits:
        words = f"LogitLoss, since both seem to return class logits of one shape{where}"
        words += "" if asked else "; if they do not: distil(..., logits=False)"
    else:
        words = f"BoxLoss, the difference of the outputs of one shape{where}"
        words += (
            "" if asked is False else ", which may be any values; if they are class logits: distil(..., logits=True)"
        )
    if answer.taps is not None and answer.taps[0].lstrip(":") != answer.key:
        words += f'. Tapped at "{answer.taps[0]}", since the student returns something else in training'
    loss, code = (
        (LogitLoss(temperature=4.0), "LogitLoss(temperature=4.0)") if answer.logits else (BoxLoss(), "BoxLoss()")
    )
    terms = {name: _chosen(loss, code, words, **options)}
    if alone and answer.taps is None and len(answer.shape) > 1:
        words = "RelationalLoss on the outputs, since no maps were found"
        terms["relations"] = _chosen(RelationalLoss(), "RelationalLoss()", words, **options)
    return terms


def _by_size(candidates: Sequence[CandidateMap]) -> dict[tuple[int, ...], CandidateMap]:
    """For each size the outermost module's map, the last of several."""
    chosen: dict[tuple[int, ...], CandidateMap] = {}
    for candidate in candidates:
        best = chosen.get(candidate.size)
        if best is None or candidate.depth <= best.depth:
            chosen[candidate.size] = candidate
    return chosen


def _pairs(
    students: list[CandidateMap], teachers: list[CandidateMap]
) -> tuple[list[tuple[CandidateMap, CandidateMap]], list[str]]:
    """The maps to compare, finest first, and the reason in words."""
    if {made.batch for made in students} != {made.batch for made in teachers}:
        return [], []
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
