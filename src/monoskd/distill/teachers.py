"""The networks that do not learn: how they are kept, what they are given and how they run."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from monoskd.distill.ema import EmaTeacher, bare
from monoskd.distill.probes import Probe
from monoskd.distill.traps import copied, tensors
from monoskd.errors import InputError

ONLY = "teacher"  # the name of a teacher that came without one

_TRAINING = itemgetter("training")

T = TypeVar("T")
PerTeacher: TypeAlias = T | Mapping[str, T] | None


class Inputs(NamedTuple):
    """What a network is called with."""

    args: tuple[Any, ...]
    keywords: dict[str, Any]


class Teachers:
    """Frozen networks by name.

    Not a module, so that a module that holds it has their weights in neither `parameters()` nor `state_dict()`.

    networks: by name. dtypes: autocast of a teacher's pass in this type; float32 switches autocast off. devices: where
    a teacher stays, whatever `.to()` is called on. batch_statistics: see `Distiller`.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        dtypes: PerTeacher[torch.dtype] = None,
        devices: PerTeacher[str | torch.device] = None,
        batch_statistics: bool = False,
    ) -> None:
        self.networks = dict(networks)
        self.roles = {name: "teacher" if name == ONLY else f'teacher "{name}"' for name in networks}  # for errors
        self.dtypes = _by_name("teacher_dtype", dtypes, self.networks)
        self.devices = {
            name: torch.device(device)  # type: ignore[call-overload]
            for name, device in _by_name("teacher_device", devices, self.networks).items()
        }
        for name, dtype in self.dtypes.items():
            if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
                raise InputError(f"teacher_dtype: {name}: expected a type such as torch.bfloat16, got {dtype!r}")
        for name, device in self.devices.items():
            self.networks[name].to(device)
        self.batch_statistics = batch_statistics
        self._modes = [_Modes(network) for network in self.networks.values()]
        self.freeze()

    @property
    def averages(self) -> dict[str, EmaTeacher]:
        """Those that follow the student."""
        return {name: network for name, network in self.networks.items() if isinstance(network, EmaTeacher)}

    def freeze(self) -> None:
        """Eval mode, whatever was called on the teachers since."""
        for modes in self._modes:
            if modes.any_training():  # to look is far cheaper than to set
                modes.network.eval()
            if self.batch_statistics:
                for module in modes.network.modules():
                    if isinstance(module, _BatchNorm):
                        module.train()

    def apply(self, fn: Callable[[Tensor], Tensor], recurse: bool) -> None:
        """Let `.to()` and the like reach the teachers that have no device of their own."""
        for name, network in self.networks.items():
            if name not in self.devices:
                network._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _inputs(self, name: str, student: Inputs, given: Any) -> Inputs:
        """What a teacher is called with where `given` says so (see `Distiller`)."""
        if isinstance(given, Mapping) and set(given) & set(self.networks) and ONLY not in self.networks:
            if unknown := set(given) - set(self.networks):
                raise InputError(
                    f"teacher_inputs: expected inputs by teacher ({', '.join(self.networks)}), got "
                    f"{', '.join(sorted(map(str, unknown)))} as well"
                )
            return as_inputs(given[name]) if name in given else student
        return as_inputs(given)

    def ask(self, name: str, given: Any, *, student: Inputs, probes: Sequence[Probe]) -> Any:
        """One teacher's pass, without gradient, its maps left in `probes`; on another device, the output comes back.

        given: `teacher_inputs` of `Distiller`; without them the teacher sees what the student sees.
        """
        network, device, role = self.networks[name], self.devices.get(name), self.roles[name]
        inputs = student if given is None else self._inputs(name, student, given)
        with torch.no_grad():
            args, keywords = inputs if device is None else moved(inputs, device)
            own = Inputs(tuple(map(copied, args)), dict(zip(keywords, map(copied, keywords.values()), strict=True)))
            if name in self.dtypes:
                with self._autocast(name):
                    output = called(network, own, role=role, probes=probes)
            else:
                output = called(network, own, role=role, probes=probes)
        return output if device is None else moved(output, home(student))

    def _autocast(self, name: str) -> torch.autocast:
        """Autocast in the type that the teacher has of its own; float32 switches it off."""
        device, dtype = self.devices.get(name) or _device(self.networks[name]), self.dtypes[name]
        return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


class _Modes:
    """Whether a module of the network is in training mode.

    Each step asks. So the network is walked through only where its modules are not those of the last walk.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._walk()

    def _walk(self) -> None:
        modules = list(self.network.modules())
        self._children = [module._modules for module in modules]
        self._known = [dict(children.items()) for children in self._children]
        self._states = [vars(module) for module in modules if "training" in vars(module)]
        self._others = [module for module in modules if "training" not in vars(module)]  # a ScriptModule

    def any_training(self) -> bool:
        """Whether one is."""
        if self._children != self._known:
            self._walk()
        training = True in map(_TRAINING, self._states)
        return training or (bool(self._others) and any(module.training for module in self._others))

    def __reduce__(self) -> Any:
        return _Modes, (self.network,)  # a copy watches its own network


def teachers_by_name(teacher: nn.Module | None, teachers: Mapping[str, nn.Module] | None) -> dict[str, nn.Module]:
    """One teacher without a name, or several with names. Raises InputError where both or none is given."""
    if (teacher is None) == (not teachers):
        raise InputError('expected either a teacher or teachers={"name": network, ...}, got both or none')
    networks = dict(teachers) if teachers else {ONLY: teacher}
    for name, network in networks.items():
        if not isinstance(network, nn.Module) or not isinstance(name, str) or not name or "." in name:
            raise InputError(
                f"teachers: expected modules by names without dots, got {name!r}: {type(network).__name__}"
            )
    if teachers and ONLY in networks and len(networks) > 1:
        raise InputError(f'teachers: "{ONLY}" cannot be the name of one of several')
    return networks  # type: ignore[return-value]


def moved(tree: T, device: torch.device | None) -> T:
    """`tree` with its tensors on `device`."""
    if device is None:
        return tree
    result: T = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, tree)
    return result


def home(student: Inputs) -> torch.device | None:
    """The device of the student's inputs, where terms are evaluated."""
    given = tensors(student)
    return given[0].device if given else None


def _device(network: nn.Module) -> torch.device:
    return next((x.device for x in network.parameters()), torch.device("cpu"))


def as_inputs(given: Any) -> Inputs:
    """A tuple holds positional inputs, a mapping keyword inputs; anything else is the one input."""
    if isinstance(given, Mapping):
        return Inputs((), {str(key): value for key, value in given.items()})
    return Inputs(given if isinstance(given, tuple) else (given,), {})


def called(network: nn.Module, inputs: Inputs, *, role: str, probes: Sequence[Probe] = ()) -> Any:
    """What the network returns, its maps left in `probes`. Raises InputError where it does not take these inputs.

    The probes are hooks of the network for the length of the call, also where that ends in an error.
    """
    inner, learns = bare(network), role == "student" and torch.is_grad_enabled()
    try:
        for probe in probes:
            probe.attach(inner, learns=learns)
        return network(*inputs.args, **inputs.keywords)
    except TypeError as error:
        signature = _signature(network)
        if signature is None or (refusal := _refusal(signature, inputs, error)) is None:
            raise
        given = [type(value).__name__ for value in inputs.args] + list(inputs.keywords)
        raise InputError(
            f"the {role} ({type(bare(network)).__name__}) does not take this batch ({refusal}): expected "
            f"{', '.join(signature.parameters)}, got {', '.join(given)}: drop keys from the batch, give the teacher "
            "inputs of its own with teacher_inputs=..., or write (batch,) where the dict itself is the one input"
        ) from error
    finally:
        for probe in probes:
            probe.detach()


def _signature(network: nn.Module) -> inspect.Signature | None:
    try:
        return inspect.signature(bare(network).forward)
    except ValueError:  # of a ScriptModule
        return None


def _refusal(signature: inspect.Signature, inputs: Inputs, error: TypeError) -> str | None:
    """Why the network does not take these inputs; None where the error has another cause."""
    try:
        signature.bind(*inputs.args, **inputs.keywords)
    except TypeError as refusal:
        return str(refusal)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))  # raised further inside
    return unknown[0] if unknown and unknown[1] in inputs.keywords else None


def _by_name(option: str, value: PerTeacher[T], networks: Mapping[str, nn.Module]) -> dict[str, T]:
    """An option of the teachers: one value for all, or values by name."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return dict.fromkeys(networks, value)
    if unknown := [name for name in value if name not in networks]:
        raise InputError(f"{option}: expected names of teachers ({', '.join(networks)}), got {', '.join(unknown)}")
    return dict(value)
