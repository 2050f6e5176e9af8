"""Distil any network from any other: taps say where to look, terms say what should agree.

distiller = Distiller(student, teacher, taps=[Tap("layer3", "layer4")], terms={"rank": SpearmanLoss()})
out = distiller(images)
loss = cross_entropy(out.student, labels) + out.total
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from monoskd.distill.adapters import Adapter, make_adapter
from monoskd.distill.maps import MapLoss, static_prior
from monoskd.distill.taps import Probe, Tap, find_module, watched
from monoskd.distill.terms import Loss, Tapped, Term, resized
from monoskd.errors import InputError


@dataclass(frozen=True)
class Seen:
    """What a forward pass of both networks showed.

    student, teacher: what the two return, untouched; no teacher's where no term asks for it. maps: what each tap gave,
    by name. hints: the mask and targets that came along, and the teacher's output.
    """

    student: Any
    teacher: Any
    maps: dict[str, Tapped] = field(repr=False)
    hints: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Distilled(Seen):
    """What a distilling forward pass gives besides.

    terms: each term's scalar, unweighted. weights: their factors at this point of the training. total: the weighted
    sum, to be added to the task loss.
    """

    terms: dict[str, Tensor]
    weights: dict[str, float]
    total: Float[Tensor, ""]


class Distiller(nn.Module):
    """A student that learns, a teacher that does not, and what should agree between them.

    student: trained; its class, modes, hooks and outputs stay as they are. It is a submodule: `parameters()` and
        `state_dict()` hold the student, the adapters and whatever the losses learn.
    teacher: in eval mode and without gradient whatever happens to the distiller; follows `.to()`; is in neither
        `parameters()` nor `state_dict()`.
    taps: where maps are taken. terms: a `Term`, or just a loss, by name.
    fusion: a module applied to the list of the student's maps before the adapters (MonoDistill); it returns a list.
    teacher_batch_statistics: the teacher's BatchNorm layers normalise by the batch at hand and let their running
        statistics drift, as in the published MonoSKD. Never what you want otherwise.

    Adapters take their shape on first use. An optimiser may be made before; `materialize` is for whoever needs the
    shapes earlier: DistributedDataParallel, weight averaging, counting parameters.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        taps: Sequence[Tap] = (),
        terms: Mapping[str, Term | Loss],
        fusion: nn.Module | None = None,
        teacher_batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        if not set(student.modules()).isdisjoint(teacher.modules()):
            raise InputError("student and teacher share modules: give the teacher its own with copy.deepcopy")
        self.student = student
        self._frozen = (teacher,)  # in a tuple, so that it is no submodule: neither parameters() nor state_dict()
        self.teacher_batch_statistics = teacher_batch_statistics
        self.taps = _named_taps(taps)
        self.terms = {name: term if isinstance(term, Term) else Term(term) for name, term in terms.items()}
        self._check()
        self.fusion = fusion
        self.adapters = nn.ModuleList(
            make_adapter(tap.adapter, used=name in self._read()) for name, tap in self.taps.items()
        )
        losses = {name: term.loss for name, term in self.terms.items()}
        self.losses = nn.ModuleDict({name: loss for name, loss in losses.items() if isinstance(loss, nn.Module)})
        self._student_probes = [Probe(tap.student_outlet, role="student") for tap in self.taps.values()]
        self._teacher_probes = [Probe(tap.teacher_outlet, role="teacher") for tap in self.taps.values()]
        self._progress = 0.0
        self._freeze()

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher."""
        return self._frozen[0]

    @property
    def progress(self) -> float:
        """How much of the training is done, in [0, 1]: what schedules go by. To be set by the training loop."""
        return self._progress

    @progress.setter
    def progress(self, share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise InputError(f"progress is a share of the training, expected 0 to 1, got {share}")
        self._progress = share

    # Hooks come and go here, which is not for torch.compile; the networks inside are compiled all the same.
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator, no-untyped-call]
    def forward(self, *inputs: Any, teacher_inputs: Any = None, mask: Any = None, targets: Any = None) -> Distilled:
        """Run both networks and compare them.

        inputs: the student's, and the teacher's unless `teacher_inputs` (a tuple, or the one input) says otherwise.
        mask: where to look (the losses say how it is shaped), targets: what the labels say; both go to the losses that
        ask for them.
        """
        if mask is not None and not any(term.takes_mask for term in self.terms.values()):
            raise InputError(f"a mask was given and none of the terms takes one: {', '.join(self.terms)}")
        seen = self._look(inputs, teacher_inputs, hints={"mask": mask, "targets": targets})
        terms = {name: self._evaluate(name, term, seen) for name, term in self.terms.items()}
        weights = {name: term.factor(self.progress) for name, term in self.terms.items()}
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return Distilled(**vars(seen), terms=terms, weights=weights, total=total)

    @torch.no_grad()
    def materialize(self, *inputs: Any, teacher_inputs: Any = None) -> Self:
        """Give the adapters their shapes by one pass that learns nothing: no gradient, no running statistics."""
        modes, drifting = _modes(self), self.teacher_batch_statistics
        self.eval()
        self.teacher_batch_statistics = False
        try:
            self._look(inputs, teacher_inputs, hints={})
        finally:
            _restore(modes)
            self.teacher_batch_statistics = drifting
        return self

    @torch.no_grad()
    def floor(self, seen: Seen) -> dict[str, Tensor]:
        """What each term on taps would be for a student that knows the teacher's habits and nothing of the image.

        Its maps are the means of the teacher's maps of the *other* images of the batch; a student has learned something
        about images only as far as its loss lies below. Empty for a batch of one image.
        """
        terms = {name: term for name, term in self.terms.items() if term.between == "taps"}
        if any(len(one.teacher) < 2 for one in seen.maps.values()):
            return {}
        modes = _modes(self.losses)
        self.losses.eval()  # running means must not learn from what no student said
        try:
            return {name: self._floor(name, term, seen) for name, term in terms.items()}
        finally:
            _restore(modes)

    def maps(self, name: str, seen: Seen) -> tuple[list[Tensor], list[Tensor]]:
        """The student's and the teacher's maps as the term of that name compares them: adapted and resized."""
        term = self.terms[name]
        return resized([seen.maps[tap] for tap in self._taps_of(term)], policy=term.resize, where=f'term "{name}"')

    def _look(self, inputs: tuple[Any, ...], teacher_inputs: Any, *, hints: dict[str, Any]) -> Seen:
        """One pass of both networks."""
        self._freeze()
        shown = inputs if teacher_inputs is None else teacher_inputs
        teacher = None
        try:
            if self._asks_teacher:
                with torch.no_grad(), watched(self.teacher, self._teacher_probes, role="teacher"):
                    teacher = self.teacher(*(shown if isinstance(shown, tuple) else (shown,)))
            with watched(self.student, self._student_probes, role="student"):
                student = self.student(*inputs)
            return Seen(student, teacher, self._tapped(), {**hints, "teacher_output": teacher})
        finally:
            for probe in (*self._student_probes, *self._teacher_probes):
                probe.caught = []  # after an error, too: it would keep the graph

    @property
    def _asks_teacher(self) -> bool:
        """Whether any term looks at the teacher; a pass of it that nobody looks at is saved."""
        return any(term.between != "targets" for term in self.terms.values())

    def _tapped(self) -> dict[str, Tapped]:
        """What the probes caught in this pass, the student's maps fused and adapted."""
        caught = [probe.take() for probe in self._student_probes]
        if not self._asks_teacher:
            return {
                name: Tapped(one.source, one.map, one.map.new_empty(0), grid=one.grid, edge=one.edge)
                for name, one in zip(self.taps, caught, strict=True)
            }
        goals = [probe.take() for probe in self._teacher_probes]
        maps = [one.map for one in caught] if self.fusion is None else self.fusion([one.map for one in caught])
        tapped = {}
        for name, one, x, goal, adapter in zip(self.taps, caught, maps, goals, self.adapters, strict=True):
            if isinstance(adapter, Adapter):
                adapter.fit(x, channels=goal.map.shape[1], grid=one.grid, where=f'tap "{name}"')
            tapped[name] = Tapped(one.source, adapter(x), goal.map, grid=one.grid and goal.grid, edge=one.edge)
        return tapped

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # tracing a soft rank takes minutes and gains nothing
    def _evaluate(self, name: str, term: Term, seen: Seen) -> Float[Tensor, ""]:
        """One term's value."""
        student, teacher = self.maps(name, seen) if term.between == "taps" else (seen.student, seen.teacher)
        return term.value(name, student=student, teacher=teacher, hints=seen.hints)

    def _floor(self, name: str, term: Term, seen: Seen) -> Float[Tensor, ""]:
        """One term's floor: as its loss defines it, else the loss with the mean maps for a student."""
        _, teachers = self.maps(name, seen)
        if isinstance(term.loss, MapLoss):
            return term.loss.floor(teacher=teachers, mask=term.hints(name, seen.hints).get("mask"))
        priors = [static_prior(goal) for goal in teachers]
        return term.value(name, student=priors, teacher=teachers, hints=seen.hints)

    def _taps_of(self, term: Term) -> list[str]:
        return list(self.taps) if term.taps is None else list(term.taps)

    def _read(self) -> set[str]:
        """Taps that some term looks at; the others need no adapter."""
        return {tap for term in self.terms.values() if term.between == "taps" for tap in self._taps_of(term)}

    def _freeze(self) -> None:
        """The teacher's modes, whatever was done to it since."""
        self.teacher.eval()
        if self.teacher_batch_statistics:
            for module in self.teacher.modules():
                if isinstance(module, _BatchNorm):
                    module.train()

    def _check(self) -> None:
        """Everything that can be wrong before the first image."""
        if not self.terms:
            raise InputError("a distiller needs at least one term, got none: terms={'rank': SpearmanLoss()}")
        for name, term in self.terms.items():
            if not name or "." in name or hasattr(nn.ModuleDict(), name):
                raise InputError(f'terms: "{name}" cannot be a name: expected one without dots that no ModuleDict uses')
            term.check(name, list(self.taps))
        for tap in self.taps.values():
            find_module(self.student, tap.student_outlet.module, role="student")
            find_module(self.teacher, tap.teacher_outlet.module, role="teacher")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """`.to()`, `.half()` and their kin reach the teacher too."""
        self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved


def _named_taps(taps: Sequence[Tap]) -> dict[str, Tap]:
    """Taps by label. Raises InputError where two share one."""
    named: dict[str, Tap] = {}
    for tap in taps:
        if not isinstance(tap, Tap):
            raise InputError(f'taps: expected a list of Tap, got "{tap}" in it: Tap("{tap}")')
        if tap.label in named:
            raise InputError(f'two taps are called "{tap.label}": tell them apart with Tap(..., name=...)')
        named[tap.label] = tap
    return named


def _modes(module: nn.Module) -> dict[nn.Module, bool]:
    return {each: each.training for each in module.modules()}


def _restore(modes: dict[nn.Module, bool]) -> None:
    for module, training in modes.items():
        module.training = training
