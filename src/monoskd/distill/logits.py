"""Where two networks return class logits that can be compared; a guess, since a tensor does not say what it holds."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from monoskd.distill.candidates import Pass, image_size, training_output
from monoskd.distill.probes import bare, pick
from monoskd.distill.teachers import Inputs
from monoskd.errors import InputError

KEYS = ("", "logits", "out", "0")  # the output itself, Hugging Face, torchvision's segmentation, a tuple

# Hugging Face's names for logits that no softmax belongs to.
_OTHER_PROBLEMS = ("regression", "multi_label_classification")


@dataclass(frozen=True)
class Logits:
    """Class logits that both networks return.

    key: where in the outputs. classes: how many. taps: the paths at which they are tapped, student's and teacher's,
    where a term between outputs would not see them: logits of each token, and a student whose output differs in
    training.
    """

    key: str
    classes: int
    taps: tuple[str, str] | None = None


def find_logits(
    networks: tuple[nn.Module, nn.Module], passes: tuple[Pass, Pass], inputs: Inputs, *, asked: bool | None
) -> Logits | None:
    """The logits, or None. asked: whether the outputs are class logits, where the user says so."""
    if asked is False or (asked is None and any(_other_problem(network) for network in networks)):
        return None
    for key in KEYS:
        pair = [part(one.output, key) for one in passes]
        if not all(isinstance(x, Tensor) for x in pair) or pair[0].shape != pair[1].shape:
            continue
        if asked or _are_logits(key, pair[0], passes, inputs):
            dense = pair[0].ndim == 3
            own = Logits(key, pair[0].shape[2 if dense else 1], (f":{key}", f":{key}") if dense else None)
            if (found := _in_training(own, networks[0], passes, inputs)) is not None:
                return found
    if asked:
        raise InputError(
            "distil: logits=True: expected both networks to return tensors of one shape, the student in training, too, "
            f"directly or under {', '.join(filter(None, KEYS))}: write the Distiller by hand, Term(..., key=...)"
        )
    return None


def part(output: Any, key: str) -> Any:
    """What a term with this key sees of an output; None where there is no such part."""
    try:
        return pick(output, key, where="distil") if key else output
    except InputError:
        return None


def _are_logits(key: str, x: Tensor, passes: tuple[Pass, Pass], inputs: Inputs) -> bool:
    """Whether outputs of the shape of `x` may be class logits."""
    from_layers = all(key in one.heads for one in passes)
    if not x.is_floating_point() or x.ndim not in (2, 3, 4) or x.shape[-1 if x.ndim == 3 else 1] < 2:
        return False
    if x.ndim == 3:
        return key == "logits" and not any(x.shape[1] in one.queries for one in passes)
    if key == "logits" or (key == "out" and x.ndim == 4):
        return True
    if x.ndim == 2:
        return from_layers  # pooled features come from a pooling, a norm or an activation
    image = image_size(inputs)
    return key != "0" and x.shape[1] not in (1, 3) and (from_layers or x.shape[2:] == image)


def _other_problem(network: nn.Module) -> bool:
    return getattr(getattr(bare(network), "config", None), "problem_type", None) in _OTHER_PROBLEMS


def _in_training(found: Logits, student: nn.Module, passes: tuple[Pass, Pass], inputs: Inputs) -> Logits | None:
    """The logits where a student in training mode has them: at the layers that make them, if its output differs."""
    output = training_output(student, inputs)
    if output is None or isinstance(part(output, found.key), Tensor):
        return found
    if all(found.key in one.heads for one in passes):
        return replace(found, taps=(passes[0].heads[found.key], passes[1].heads[found.key]))
    return None


def values_key(passes: tuple[Pass, Pass]) -> str | None:
    """The key under which both outputs hold vectors of one shape; None where they do not."""
    for key in KEYS:
        pair = [part(one.output, key) for one in passes]
        vectors = all(isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point() for x in pair)
        if vectors and pair[0].shape == pair[1].shape:
            return key
    return None
