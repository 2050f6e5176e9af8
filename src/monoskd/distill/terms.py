"""What student and teacher should agree on, how much it counts and when."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from monoskd.distill.probes import Call, Origin, describe, pick
from monoskd.errors import InputError

Resize: TypeAlias = Literal["coarsest", "teacher", "student", "none"]
Loss: TypeAlias = nn.Module | Callable[..., Tensor]
Size: TypeAlias = tuple[int, ...]

# What a loss is given besides the two networks' maps or outputs, if its signature names it.
HINTS = ("mask", "targets", "teacher_output", "teacher_inputs")


@dataclass(frozen=True)
class Ramp:
    """A schedule: the factor goes from `first` to `last`, linearly, while progress goes from `start` to `end`."""

    start: float = 0.0
    end: float = 1.0
    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.end <= 1.0:
            raise InputError(f"Ramp: expected 0 <= start < end <= 1, got start={self.start}, end={self.end}")

    def __call__(self, progress: float) -> float:
        """The factor at this share of the training."""
        done = min(max((progress - self.start) / (self.end - self.start), 0.0), 1.0)
        return self.first + (self.last - self.first) * done


@dataclass(frozen=True)
class Term:
    """One thing that student and teacher should agree on.

    Args:
        loss: called as `loss(student=..., teacher=...)`, returns a scalar; is given `mask=`, `targets=`,
            `teacher_output=` (what the teacher returned) and `teacher_inputs=` (what the pass was given under that
            name) as well where its signature names them. Maps are
            B x C x H x W: one if the term looks at one tap, else a list.
        weight: its factor in the total.
        taps: names of the taps it looks at; None for all.
        each: call the loss on every tap by itself and add up: for a loss that takes no lists.
        resize: where sizes differ, bilinear to the "coarsest" map of all its taps, or tap by tap to the "teacher" or
            the "student"; with "none" the loss sees the sizes as they are.
        between: "taps", or "output": the loss sees what the two networks return; or "targets": it sees what the student
            returns and the targets, which a teacher has made, and is called as `loss(student=..., targets=...)`.
        schedule: progress of the training in [0, 1] -> one more factor, such as `Ramp(end=0.1)`.
        masked: False keeps the mask from this term.
        key: what the loss sees of the outputs, as in a tap's path: "logits", "hidden_states:-1". Not between taps.
        of: between outputs, which of several teachers, by name; for several names the mean of their outputs.
        share: in place of a weight, the part of all gradient norms at the tapped maps that this term should have, in
            (0, 1). A `FlightRecorder` measures the norms; see `Balance`.
        uncertainty: the weight is learned along with the student; see `Balance`.
    """

    loss: Loss
    weight: float = 1.0
    taps: Sequence[str] | None = None
    each: bool = False
    resize: Resize = "coarsest"
    between: Literal["taps", "output", "targets"] = "taps"
    schedule: Ramp | Callable[[float], float] | None = None
    masked: bool = True
    key: str | None = None
    of: str | Sequence[str] | None = None
    share: float | None = None
    uncertainty: bool = False

    def check(self, name: str, taps: Sequence[str]) -> None:
        """Raise InputError where the loss has another signature or a tap does not exist."""
        wanted = ("student", "targets" if self.between == "targets" else "teacher")
        parameters = _parameters(self.loss)
        named = set(parameters)
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            named |= {"student", "teacher"}
        if not set(wanted) <= named:
            raise InputError(
                f'term "{name}": expected a loss called with {wanted[0]}= and {wanted[1]}=, got {_signature(self)}'
            )
        self._check_weight(name)
        for choice, value, choices in (
            ("resize", self.resize, ("coarsest", "teacher", "student", "none")),
            ("between", self.between, ("taps", "output", "targets")),
        ):
            if value not in choices:
                raise InputError(f'term "{name}": {choice}: expected one of {", ".join(choices)}, got {value!r}')
        if self.between == "taps" and not taps:
            raise InputError(f'term "{name}" compares taps and there are none: give taps=[...], or between="output"')
        if self.between == "taps" and (self.key is not None or self.of is not None):
            raise InputError(
                f'term "{name}" compares taps: key and of belong to Tap(..., of=...) and its paths, got '
                f"key={self.key!r}, of={self.of!r}"
            )
        if isinstance(self.taps, str):
            raise InputError(
                f'term "{name}": taps: expected a list of names, got {self.taps!r}: write taps=[{self.taps!r}]'
            )
        for tap in self.taps or ():
            if tap not in taps:
                nearest = ", ".join(f'"{known}"' for known in get_close_matches(tap, taps, cutoff=0.3) or taps)
                raise InputError(f'term "{name}" looks at "{tap}", which is no tap; nearest: {nearest}')

    def _check_weight(self, name: str) -> None:
        """Raise InputError where the weight is no number, or where it is given twice."""
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float) or not math.isfinite(self.weight):
            raise InputError(f'term "{name}": weight: expected a finite number, got {self.weight!r}')
        if self.share is None:
            return
        if not 0 < self.share < 1:
            raise InputError(f'term "{name}": share: expected more than 0 and less than 1, got {self.share}')
        if self.weight != 1.0 or self.uncertainty:
            raise InputError(f'term "{name}": share sets the weight: drop weight={self.weight} and uncertainty')

    def factor(self, progress: float) -> float:
        """The weight at this share of the training; without `Balance`."""
        return self.weight * (1.0 if self.schedule is None else self.schedule(progress))

    def picked(self, name: str, output: Any, *, role: str) -> Any:
        """What the loss sees of a network's output."""
        if not self.key:
            return output
        for key in self.key.split(":"):
            output = pick(output, key, where=f'term "{name}": output of the {role}')
        return output

    @property
    def takes_mask(self) -> bool:
        """Whether a mask would reach the loss."""
        return self.masked and "mask" in self.asks

    @cached_property
    def asks(self) -> dict[str, bool]:
        """The hints that the loss names, and whether it cannot do without."""
        parameters = _parameters(self.loss)
        return {hint: parameters[hint].default is inspect.Parameter.empty for hint in HINTS if hint in parameters}

    def value(self, name: str, *, student: Any, teacher: Any, hints: Mapping[str, Any]) -> Float[Tensor, ""]:
        """The loss of two outputs, of two lists of maps, or of the student's output alone."""
        wanted = self.hints(name, hints) if self.asks else {}
        try:
            if self.between == "targets":
                values = [self.loss(student=student, **wanted)]
            elif self.between == "taps" and (self.each or len(student) == 1):
                values = [self.loss(student=s, teacher=t, **wanted) for s, t in zip(student, teacher, strict=True)]
            else:
                values = [self.loss(student=student, teacher=teacher, **wanted)]
        except (AttributeError, TypeError) as error:
            if self.between == "taps" or isinstance(student, Tensor):
                raise
            raise InputError(
                f'term "{name}": the student returns {describe(student)}, which {_name(self.loss)} does not '
                f'take: choose a part with key="..." ({" ".join(str(error).split())})'
            ) from error
        for value in values:
            if not isinstance(value, Tensor) or value.ndim:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(f'term "{name}": expected a loss that returns a scalar tensor, got {shape}')
        return sum(values[1:], values[0])

    def hints(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The mask, targets and so on that the loss asks for. Raises InputError where a required one is missing."""
        chosen = {}
        for hint, required in self.asks.items():
            if given.get(hint) is not None and (hint != "mask" or self.masked):
                chosen[hint] = given[hint]
            elif required:
                raise InputError(f'term "{name}" needs {hint}: expected distiller(..., {hint}=...), got none')
        return chosen


@dataclass(slots=True)
class Tapped:
    """What one tap gave.

    calls: of the student's module: one, or each with `call="all"`. student: the map after fusion and adapter. teacher:
    the teacher's map; an empty one where no term asks a teacher. grid: rows and columns are places, which may be
    resized; not so for tokens and vectors.
    """

    calls: Sequence[Call]
    student: Float[Tensor, "b c h w"]
    teacher: Float[Tensor, "b k i j"] | Float[Tensor, "0"]
    grid: bool
    _sized: dict[tuple[bool, Size], Tensor] = field(default_factory=dict, repr=False)

    def sized(self, size: Size, *, of_teacher: bool) -> Tensor:
        """One of the two maps brought to a (height, width), bilinearly: once, however many terms ask."""
        x = self.teacher if of_teacher else self.student
        if x.shape[2:] == size:
            return x
        if (of_teacher, size) not in self._sized:
            self._sized[of_teacher, size] = interpolate(x, size=size, mode="bilinear", align_corners=False)
        return self._sized[of_teacher, size]

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The student's tensors as they left their module, part of the graph of its output: one for each call."""
        return tuple(Origin(*call[:3]) for call in self.calls)

    @property
    def source(self) -> Tensor:
        """The student's tensor as it left its module; a later module may have written into it."""
        return self.calls[0][0]


def resized(seen: Sequence[Tapped], *, policy: Resize, where: str) -> tuple[list[Tensor], list[Tensor]]:
    """Student and teacher maps at the sizes that the policy asks for (see `Term`)."""
    students, teachers = [tapped.student for tapped in seen], [tapped.teacher for tapped in seen]
    if policy == "none" or len({x.shape[2:] for x in students + teachers}) == 1:
        return students, teachers
    coarsest = min((x.shape[2:] for x in students + teachers), key=lambda size: size.numel())
    sizes = {
        "coarsest": [coarsest] * len(seen),
        "teacher": [x.shape[2:] for x in teachers],
        "student": [x.shape[2:] for x in students],
    }[policy]
    for one, size in zip(seen, sizes, strict=True):
        if not one.grid and {one.student.shape[2:], one.teacher.shape[2:]} != {size}:
            sizes_now = " and ".join(f"{tuple(x.shape[2:])}" for x in (one.student, one.teacher))
            raise InputError(
                f"{where}: tokens and vectors cannot be resized, got {sizes_now} places: "
                'make maps of them with Outlet(path, view=TokensAsMap()), or use Term(..., resize="none")'
            )
    at = [*zip(seen, sizes, strict=True)]
    return [one.sized(size, of_teacher=False) for one, size in at], [
        one.sized(size, of_teacher=True) for one, size in at
    ]


def _parameters(loss: Loss) -> Mapping[str, inspect.Parameter]:
    """The loss's parameters by name; none where Python cannot know them, as for some of torch's own functions."""
    loss = getattr(loss, "_orig_mod", loss)  # torch.compile's wrapper has (*args, **kwargs)
    try:
        return inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
    except ValueError:
        return {}


def _signature(term: Term) -> str:
    return f"{_name(term.loss)}({', '.join(_parameters(term.loss))})"


def _name(loss: Loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
