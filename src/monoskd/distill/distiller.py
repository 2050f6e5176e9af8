"""Distil any network from any other: taps say where to look, terms say what should agree.

distiller = Distiller(student, teacher, taps=[Tap("layer3", "layer4")], terms={"rank": SpearmanLoss()})
out = distiller(images)
loss = cross_entropy(out.student, labels) + out.total
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from monoskd.distill.adapters import Adapter, make_adapter
from monoskd.distill.center import RunningMean
from monoskd.distill.checks import check_terms, named_taps, teacher_names
from monoskd.distill.config import parts_from_config
from monoskd.distill.maps import MapLoss, static_prior
from monoskd.distill.probes import Caught, Probe, find_module
from monoskd.distill.seen import Distilled as Distilled
from monoskd.distill.seen import Seen, mean, modes_of, restore
from monoskd.distill.taps import Tap
from monoskd.distill.teachers import ONLY, Inputs, PerTeacher, Teachers, called, teachers_by_name
from monoskd.distill.terms import Loss, Tapped, Term, resized
from monoskd.distill.traps import check_apart
from monoskd.distill.weights import Balance
from monoskd.errors import InputError


class Distiller(nn.Module):
    """A student that learns, one or several teachers that do not, and what should agree between them.

    student: trained; its class, modes, hooks and outputs stay as they are. It is a submodule: `parameters()` and
        `state_dict()` hold the student, the adapters and whatever the losses learn.
    teacher: in eval mode and without gradient whatever happens to the distiller; follows `.to()`; is in neither
        `parameters()` nor `state_dict()`. An `EmaTeacher` is in the state dict, too.
    teachers: several teachers by name, in place of `teacher`; taps and terms choose with `of=`.
    taps: where maps are taken. terms: a `Term`, or just a loss, by name.
    fusion: a module applied to the list of the student's maps before the adapters (MonoDistill); it returns a list.
    teacher_batch_statistics: the teacher's BatchNorm layers normalise by the batch at hand and let their running
        statistics drift, as in the published MonoSKD. Not for other uses.
    teacher_dtype: the teacher's pass runs under autocast in this type, the student's does not; `torch.float32` switches
        autocast off for the teacher. Its weights keep their type.
    teacher_device: the teacher stays on this device; its inputs, outputs and maps are moved. Both options take a value
        for each teacher by name, too.

    Adapters take their shape on first use. An optimiser may be made before. `materialize` gives the shapes earlier, for
    DistributedDataParallel, FSDP, weight averaging or counting parameters.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        teachers: Mapping[str, nn.Module] | None = None,
        taps: Sequence[Tap] = (),
        terms: Mapping[str, Term | Loss],
        fusion: nn.Module | None = None,
        teacher_batch_statistics: bool = False,
        teacher_dtype: PerTeacher[torch.dtype] = None,
        teacher_device: PerTeacher[str | torch.device] = None,
    ) -> None:
        super().__init__()
        networks = teachers_by_name(teacher, teachers)
        for name, network in networks.items():
            check_apart(student, network, role="teacher" if name == ONLY else f'teacher "{name}"')
        self.student = student
        self._teachers = Teachers(
            networks, dtypes=teacher_dtype, devices=teacher_device, batch_statistics=teacher_batch_statistics
        )
        self.taps = named_taps(taps)
        self.terms = {name: term if isinstance(term, Term) else Term(term) for name, term in terms.items()}
        check_terms(self.terms, self.taps, list(networks))
        self._taps_of_term = {name: self._make_taps_of(term) for name, term in self.terms.items()}
        self._teachers_of_tap = {name: teacher_names(tap.of, list(networks)) for name, tap in self.taps.items()}
        self._teachers_of_term = {name: self._make_teachers_of(name, term) for name, term in self.terms.items()}
        self.fusion = fusion
        read = {tap for taps in self._taps_of_term.values() for tap in taps}  # the others need no adapter
        self.adapters = nn.ModuleList(make_adapter(tap.adapter, used=name in read) for name, tap in self.taps.items())
        losses = {name: term.loss for name, term in self.terms.items()}
        self.losses = nn.ModuleDict({name: loss for name, loss in losses.items() if isinstance(loss, nn.Module)})
        self.balance = Balance(self.terms)
        self._asked: dict[str, list[Probe]] = {name: [] for name in self._make_asked()}
        self._student_probes, self._teacher_probes = self._make_probes()
        self._progress = 0.0

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, student: nn.Module, teacher: nn.Module | Mapping[str, nn.Module]
    ) -> Self:
        """A distiller from plain values, such as a parsed YAML file.

            {"taps": [{"student": "layer3", "teacher": "layer4", "adapter": "conv"}],
             "terms": {"rank": {"loss": {"class_path": "monoskd.distill.SpearmanLoss"}, "weight": 2.0}}}

        Keys are the arguments of `Distiller`, `Tap`, `Outlet` and `Term`. Modules are `class_path` and `init_args`.
        teacher: the network, or several by name. Raises InputError with all faults, each with its place.
        """
        parts = parts_from_config(config)
        if isinstance(teacher, Mapping):
            return cls(student, teachers=teacher, **parts)
        return cls(student, teacher, **parts)

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher, where there is one."""
        if len(self.teachers) > 1:
            raise InputError(f"there are several teachers: expected distiller.teachers[name], of {list(self.teachers)}")
        return next(iter(self.teachers.values()))

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """The frozen teachers by name; "teacher" where there is one without a name."""
        return self._teachers.networks

    @property
    def teacher_batch_statistics(self) -> bool:
        """Whether the teachers normalise by the batch at hand."""
        return self._teachers.batch_statistics

    @property
    def progress(self) -> float:
        """The part of the training that is done, in [0, 1], which schedules depend on. The training loop sets it."""
        return self._progress

    @progress.setter
    def progress(self, share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise InputError(f"progress is a share of the training, expected 0 to 1, got {share}")
        self._progress = share

    # Hooks come and go here, which is not for torch.compile; the networks inside are compiled all the same.
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator, no-untyped-call]
    def forward(
        self, *inputs: Any, teacher_inputs: Any = None, mask: Any = None, targets: Any = None, **keywords: Any
    ) -> Distilled:
        """Run the networks and compare them.

        inputs, keywords: the student's, and the teacher's unless `teacher_inputs` says otherwise: a tuple of positional
        inputs, a dict of keyword inputs, or the one input. Several teachers: a dict by teacher of such values; a
        teacher that is not in it sees what the student sees.
        mask: where to look (the losses say how it is shaped), targets: what the labels say; both go to the losses that
        ask for them.
        """
        if mask is not None and not any(term.takes_mask for term in self.terms.values()):
            raise InputError(f"a mask was given and none of the terms takes one: {', '.join(self.terms)}")
        balance = self.balance
        if balance.shares and self.training and torch.is_grad_enabled():
            balance.check_readings()
        hints = {"mask": mask, "targets": targets, "teacher_inputs": teacher_inputs}
        seen = self._forward(Inputs(inputs, keywords), teacher_inputs, hints=hints)
        terms = self._evaluated(seen)
        weights = balance.weights(self._progress)
        total = balance.total(terms, weights, self._progress)
        return Distilled(seen.student, seen.teacher, seen.maps, seen.hints, terms, weights, total)

    @torch.no_grad()
    def materialize(self, *inputs: Any, teacher_inputs: Any = None, targets: Any = None, **keywords: Any) -> Self:
        """Give adapters and losses their shapes by one pass that learns nothing: no gradient, no running statistics.

        targets: as in a pass, where a loss that has no shape yet asks for them.
        """
        modes, drifting = modes_of(self), self.teacher_batch_statistics
        self.eval()
        self._teachers.batch_statistics = False
        try:
            hints = {"targets": targets, "teacher_inputs": teacher_inputs}
            seen = self._forward(Inputs(inputs, keywords), teacher_inputs, hints=hints)
            for name, loss in self.losses.items():
                if _takes_shapes(loss):
                    self._evaluate(name, self.terms[name], seen)
        finally:
            restore(modes)
            self._teachers.batch_statistics = drifting
        return self

    def update_teachers(self) -> None:
        """Let every `EmaTeacher` follow the student. To be called after each step of the optimiser."""
        averages = self._teachers.averages
        if not averages:
            raise InputError("update_teachers: expected an EmaTeacher among the teachers, got none")
        for teacher in averages.values():
            teacher.update(self.student, progress=self.progress)

    @torch.no_grad()
    def floor(self, seen: Seen) -> dict[str, Tensor]:
        """The value of each term on taps for a student that knows the teacher's mean map and nothing of the image.

        Its maps are the means of the teacher's maps of the *other* images of the batch; a student has learned something
        about images only as far as its loss lies below. Empty for a batch of one image.
        """
        terms = {name: term for name, term in self.terms.items() if term.between == "taps"}
        if any(len(tapped.teacher) < 2 for tapped in seen.maps.values()):
            return {}
        modes = modes_of(self.losses)
        self.losses.eval()  # running means must not learn from maps that no student made
        try:
            return {name: self._floor(name, term, seen) for name, term in terms.items()}
        finally:
            restore(modes)

    def maps(self, name: str, seen: Seen) -> tuple[list[Tensor], list[Tensor]]:
        """The student's and the teacher's maps as the term of that name compares them: adapted and resized."""
        tapped = [seen.maps[tap] for tap in self._taps_of_term[name]]
        return resized(tapped, policy=self.terms[name].resize, where=f'term "{name}"')

    def _forward(self, inputs: Inputs, teacher_inputs: Any, *, hints: dict[str, Any]) -> Seen:
        """One pass of the student and of the teachers that a term asks for."""
        self._teachers.freeze()
        outputs: dict[str, Any] = {}
        try:
            for name, probes in self._asked.items():
                outputs[name] = self._teachers.ask(name, teacher_inputs, student=inputs, probes=probes)
            student = called(self.student, inputs, role="student", probes=self._student_probes)
            teacher = outputs.get(ONLY) if ONLY in self._teachers.networks else outputs
            return Seen(student, teacher, self._tapped(), hints)
        except BaseException:
            for probe in (*self._student_probes, *chain.from_iterable(self._teacher_probes)):
                probe.caught = []  # which would keep the graph
            raise

    def _tapped(self) -> dict[str, Tapped]:
        """The maps of this pass, the student's fused and adapted."""
        caught = [probe.take() for probe in self._student_probes]
        if self.fusion is not None and self._asked:
            caught = _fused(self.fusion, caught)
        tapped: dict[str, Tapped] = {}
        taps = zip(self.taps, caught, self.adapters, self._teacher_probes, strict=True)
        for name, (x, grid, calls), adapter, probes in taps:
            if not probes:  # no term asks
                tapped[name] = Tapped(calls, x, x.new_empty(0), grid)
                continue
            goal, goal_grid, _ = probes[0].take() if len(probes) == 1 else _mean_map(probes, x.device, name)
            if goal.device != x.device:
                goal = goal.to(x.device)
            if isinstance(adapter, Adapter):
                x = adapter.bring(x, channels=goal.shape[1], grid=grid, where=f'tap "{name}"')
            else:
                x = adapter(x)
            tapped[name] = Tapped(calls, x, goal, grid and goal_grid)
        return tapped

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # tracing a soft rank takes minutes and gains nothing
    def _evaluated(self, seen: Seen) -> dict[str, Tensor]:
        """Every term's value."""
        return {name: self._evaluate(name, term, seen) for name, term in self.terms.items()}

    def _evaluate(self, name: str, term: Term, seen: Seen) -> Float[Tensor, ""]:
        """One term's value."""
        student: Any
        teacher: Any = None
        if term.between == "taps":
            student, teacher = self.maps(name, seen)
        else:
            student = term.picked(name, seen.student, role="student")
            if term.between == "output":
                teacher = self._answer(name, term, seen)
        hints = self._hints(name, term, seen) if term.asks else {}
        return term.value(name, student=student, teacher=teacher, hints=hints)

    def _answer(self, name: str, term: Term, seen: Seen) -> Any:
        """The output of the term's teacher, or the mean of its teachers' outputs."""
        roles, chosen = self._teachers.roles, self._teachers_of_term[name]
        if ONLY in roles:
            return term.picked(name, seen.teacher, role=roles[ONLY])
        answers = [term.picked(name, seen.teacher[teacher], role=roles[teacher]) for teacher in chosen]
        return mean(answers, where=f'term "{name}"')

    def _hints(self, name: str, term: Term, seen: Seen) -> dict[str, Any]:
        """Mask, targets, and the output of the term's teacher; of its teachers by name where it has several."""
        if "teacher_output" not in term.asks:
            return seen.hints
        chosen = self._teachers_of_term[name]
        output = seen.teacher[chosen[0]] if ONLY not in self._teachers.networks and len(chosen) == 1 else seen.teacher
        return {**seen.hints, "teacher_output": output}

    def _floor(self, name: str, term: Term, seen: Seen) -> Float[Tensor, ""]:
        """One term's floor: as its loss defines it, else the loss with the mean maps for a student."""
        _, teachers = self.maps(name, seen)
        hints = self._hints(name, term, seen)
        if isinstance(term.loss, MapLoss):
            return term.loss.floor(teacher=teachers, mask=term.hints(name, hints).get("mask"))
        priors = [static_prior(goal) for goal in teachers]
        return term.value(name, student=priors, teacher=teachers, hints=hints)

    def _make_taps_of(self, term: Term) -> list[str]:
        """The taps that a term looks at."""
        if term.between != "taps":
            return []
        return list(self.taps if term.taps is None else term.taps)

    def _make_teachers_of(self, name: str, term: Term) -> list[str]:
        """The teachers that a term looks at, those of its taps among them."""
        if term.between != "taps":
            return teacher_names(term.of, list(self.teachers))
        return list({name: None for tap in self._taps_of_term[name] for name in self._teachers_of_tap[tap]})

    def _make_asked(self) -> list[str]:
        """The teachers that a term looks at; the pass of any other is saved."""
        looking = [name for name, term in self.terms.items() if term.between != "targets"]
        asked = {teacher for name in looking for teacher in self._teachers_of_term[name]}
        return [name for name in self.teachers if name in asked]

    def _make_probes(self) -> tuple[list[Probe], list[list[Probe]]]:
        """Hooks for each tap: one for the student, and those for its teachers, if terms ask for all of them.

        Unknown paths are an error, also where nobody asks.
        """
        of_student, of_teachers = [], []
        for name, tap in self.taps.items():
            find_module(self.student, tap.student_outlet.module, role="student")
            of_student.append(Probe(tap.student_outlet, role="student"))
            probes = {}
            for teacher in self._teachers_of_tap[name]:
                role = self._teachers.roles[teacher]
                find_module(self.teachers[teacher], tap.teacher_outlet.module, role=role)
                probes[teacher] = Probe(tap.teacher_outlet, role=role)
            if not set(probes).issubset(self._asked):
                probes = {}
            for teacher, probe in probes.items():
                self._asked[teacher].append(probe)
            of_teachers.append(list(probes.values()))
        return of_student, of_teachers

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """`.to()`, `.half()` and the like reach the teachers too."""
        self._teachers.apply(fn, recurse)
        applied: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return applied

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """As always, and the teachers that follow the student."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, teacher in self._teachers.averages.items():
            teacher.state_dict(destination=destination, prefix=f"{prefix}ema.{name}.", keep_vars=keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        *lists: Any,
    ) -> None:
        """As always, and the teachers that follow the student."""
        own = dict(state_dict)
        for name, teacher in self._teachers.averages.items():
            start = f"{prefix}ema.{name}."
            stored = {key.removeprefix(start): own.pop(key) for key in state_dict if key.startswith(start)}
            keys = teacher.load_state_dict(stored, strict=False)
            missing.extend(start + key for key in keys.missing_keys)
            lists[0].extend(start + key for key in keys.unexpected_keys)
        super()._load_from_state_dict(own, prefix, metadata, strict, missing, *lists)


def _fused(fusion: nn.Module, caught: Sequence[Caught]) -> list[Caught]:
    """The student's maps after fusion."""
    maps = list(fusion([x for x, _, _ in caught]))
    if len(maps) != len(caught):
        raise InputError(f"fusion: expected a map for each of the {len(caught)} taps, got {len(maps)}")
    return [(x, grid, calls) for x, (_, grid, calls) in zip(maps, caught, strict=True)]


def _mean_map(probes: Sequence[Probe], device: torch.device, tap: str) -> Caught:
    """The mean of several teachers' maps, on the student's device."""
    maps, grids, _ = zip(*(probe.take() for probe in probes), strict=True)
    return mean([x.to(device) for x in maps], where=f'tap "{tap}"'), all(grids), ()


def _takes_shapes(loss: nn.Module) -> bool:
    """Whether a loss has parameters or running means that take their shapes from the first maps that it sees."""
    return any(map(is_lazy, loss.parameters())) or any(isinstance(part, RunningMean) for part in loss.modules())
