"""What can be wrong with taps and terms before the first image."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import nn

from monoskd.distill.taps import Tap
from monoskd.distill.terms import Term
from monoskd.errors import InputError


def named_taps(taps: Sequence[Tap]) -> dict[str, Tap]:
    """Taps by label. Raises InputError where two share one."""
    named: dict[str, Tap] = {}
    for tap in taps:
        if not isinstance(tap, Tap):
            raise InputError(f'taps: expected a list of Tap, got "{tap}" in it: Tap("{tap}")')
        if tap.label in named:
            raise InputError(f'two taps are called "{tap.label}": tell them apart with Tap(..., name=...)')
        named[tap.label] = tap
    return named


def check_terms(terms: Mapping[str, Term], taps: Mapping[str, Tap], teachers: Sequence[str]) -> None:
    """Raise InputError where a term cannot work with these taps and teachers."""
    if not terms:
        raise InputError("a distiller needs at least one term, got none: terms={'rank': SpearmanLoss()}")
    for name, term in terms.items():
        used = hasattr(nn.ModuleDict(), name) or (term.uncertainty and hasattr(nn.ParameterDict(), name))
        if not name or "." in name or used:
            raise InputError(f'terms: "{name}" cannot be a name: expected one without dots that no ModuleDict uses')
        term.check(name, list(taps))
        if term.between == "output" or term.of is not None:
            check_teachers(term.of, teachers, where=f'term "{name}"')
    for name, tap in taps.items():
        check_teachers(tap.of, teachers, where=f'tap "{name}"')


def check_teachers(of: str | Sequence[str] | None, teachers: Sequence[str], *, where: str) -> None:
    """Raise InputError where `of` names no teacher, or is missing with several."""
    if of is None and len(teachers) > 1:
        raise InputError(f"{where}: there are several teachers: expected of=, one or a list of {', '.join(teachers)}")
    if of is not None and not of:
        raise InputError(f"{where}: of: expected names of teachers ({', '.join(teachers)}), got none")
    for name in teacher_names(of, teachers):
        if name not in teachers:
            nearest = ", ".join(f'"{known}"' for known in get_close_matches(name, teachers, cutoff=0.3) or teachers)
            raise InputError(f'{where}: of: there is no teacher "{name}"; nearest: {nearest}')


def teacher_names(of: str | Sequence[str] | None, teachers: Sequence[str]) -> list[str]:
    """The teachers that `of` names; without it the only one."""
    if of is None:
        return list(teachers)
    return [of] if isinstance(of, str) else list(of)
