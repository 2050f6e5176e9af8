"""What two networks return that can be compared: class logits or values; a guess, since a tensor does not say which."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from monoskd.distill.candidates import Pass, image_size, text_lengths, training_output
from monoskd.distill.ema import bare
from monoskd.distill.layouts import named
from monoskd.distill.probes import pick
from monoskd.distill.teachers import Inputs
from monoskd.distill.traps import tensors
from monoskd.errors import InputError

KEYS = ("", "logits", "out", "0")  # the output itself, Hugging Face, torchvision's segmentation, a tuple

_IMAGE = 3  # channels, at most
# Hugging Face's names for logits that no softmax belongs to.
_OTHER_PROBLEMS = ("regression", "multi_label_classification")
# In the names of outputs that are features.
_FEATURES = re.compile("hidden|feat|embed|state|pooler")
# Where networks and their configs say how many classes they know.
_COUNTS = ("num_classes", "num_labels", "vocab_size")


@dataclass(frozen=True)
class Answer:
    """What both networks return in one shape, and a term can compare.

    key: where in the outputs. shape: the student's. logits: whether these are class logits. taps: the paths at which
    they are tapped, student's and teacher's, where a term between outputs would not see them: rows of tokens, which a
    mask belongs to, and a student whose output differs in training. also: further outputs of the same kind and shape,
    such as the logits of an answer's last token beside those of its first.
    """

    key: str
    shape: tuple[int, ...]
    logits: bool
    taps: tuple[str, str] | None = None
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What its tap and term are called."""
        return "logits" if self.logits else "outputs"

    def each(self) -> "list[Answer]":
        """This answer and the further ones."""
        return [replace(self, key=key, also=()) for key in (self.key, *self.also)]

    @property
    def tokens(self) -> int | None:
        """The number of rows for each image or text; None where there are none."""
        return self.shape[1] if len(self.shape) == 3 else None

    @property
    def channels(self) -> int | None:
        """How many, if these are logits, or values of places. Tokens are chosen with one channel for each answer."""
        if self.also:
            return 1 + len(self.also)
        if self.tokens is not None:
            return self.shape[2] if self.logits else None
        return self.shape[1] if len(self.shape) == 4 or self.logits else None


def find_answer(
    networks: tuple[nn.Module, nn.Module], passes: tuple[Pass, Pass], inputs: Inputs, *, asked: bool | None
) -> Answer | None:
    """Class logits, else values that linear layers or convolutions make, else None.

    asked: whether the outputs are class logits, where the user says so.
    """
    answers = _answers(passes)
    unlikely = any(one.drawn for one in passes) or any(map(_other_problem, networks))
    if asked or (asked is None and not unlikely):
        logits = [x for x in answers if asked or _are_logits(*x, networks, passes, inputs)]
        if (found := _first_in_training(logits, networks[0], passes, inputs, logits=True)) is not None:
            chosen = [key for key, x in logits if _choose_a_token(key, x, inputs)]
            return replace(found, also=tuple(chosen[1:])) if found.key in chosen[:1] else found
    if asked:
        raise InputError(
            "distil: logits=True: expected both networks to return tensors of one shape, the student in training, too, "
            f"directly or under {', '.join(filter(None, KEYS))}: write the Distiller by hand, Term(..., key=...)"
        )
    values = [(key, x) for key, x in answers if _are_values(key, x, passes, inputs)]
    return _first_in_training(values, networks[0], passes, inputs, logits=False)


def find_vectors(student: nn.Module, passes: tuple[Pass, Pass], inputs: Inputs) -> Answer | None:
    """Vectors of one shape in both outputs, whatever made them; None where there are none."""
    vectors = [(key, x) for key, x in _answers(passes) if x.ndim < 3]
    return _first_in_training(vectors, student, passes, inputs, logits=False)


def part(output: Any, key: str) -> Any:
    """What a term with this key sees of an output; None where there is no such part."""
    try:
        for name in key.split(":") if key else ():
            output = pick(output, name, where="distil")
    except InputError:
        return None
    return output


def _answers(passes: tuple[Pass, Pass]) -> list[tuple[str, Tensor]]:
    """The student's floats that the teacher returns in one shape under the same key, the likeliest logits first."""
    keys = [path.removeprefix(":") for path, _ in named("", passes[0].output, deep=True)]
    keys.sort(key=lambda key: not _last(key).endswith("logits"))
    pairs = [(key, [part(one.output, key) for one in passes]) for key in dict.fromkeys((*KEYS, *keys))]
    return [
        (key, pair[0])
        for key, pair in pairs
        if all(isinstance(x, Tensor) and x.is_floating_point() and 0 < x.ndim < 5 for x in pair)
        and pair[0].shape == pair[1].shape
    ]


def _are_logits(key: str, x: Tensor, networks: Sequence[nn.Module], passes: tuple[Pass, Pass], inputs: Inputs) -> bool:
    """Whether outputs of the shape of `x` may be class logits."""
    classes = x.shape[-1] if x.ndim == 3 else x.shape[min(1, x.ndim - 1)]
    if x.ndim < 2 or classes < 2:
        return False
    told = all(classes in _counts(network) for network in networks)
    if x.ndim == 3:
        configured = any(hasattr(bare(network), "config") for network in networks)
        return _last(key).endswith("logits") and not _of_queries(x, passes) and (told or not configured)
    if _last(key) == "logits" or (key == "out" and x.ndim == 4) or _choose_a_token(key, x, inputs):
        return True
    if x.ndim == 2:
        images = any(given.ndim > 3 for given in tensors(inputs)) or image_size(inputs) is not None
        pairs = zip(networks, passes, strict=True)
        return key in KEYS and all(_is_classifier(key, *pair, classes=classes, images=images) for pair in pairs)
    resized = x.shape[2:] == image_size(inputs)
    return key in ("", "out") and classes != 3 and (_from_layers(key, passes) or resized)


def _choose_a_token(key: str, x: Tensor, inputs: Inputs) -> bool:
    """Whether these are logits of the tokens of a text: at which one an answer begins or ends (`start_logits`)."""
    return x.ndim == 2 and key.endswith("_logits") and x.shape[1] in text_lengths(inputs)


def _is_classifier(key: str, network: nn.Module, one: Pass, *, classes: int, images: bool) -> bool:
    """Whether a network makes class logits of this part of its output.

    A linear layer does, if the network tells so, the layer's name does, or the inputs are images: of vectors regressors
    are made, too. What follows on it, such as a mean of two heads, does if the network tells so and the values are no
    probabilities.
    """
    told = classes in _counts(network)
    if key in one.heads:
        return told or images or re.search("class|logit", one.heads[key]) is not None
    x = part(one.output, key)
    return told and not bool(((x >= 0) & (x <= 1)).all())


def _are_values(key: str, x: Tensor, passes: tuple[Pass, Pass], inputs: Inputs) -> bool:
    """Whether outputs of the shape of `x` are answers, whose values mean the same in both networks.

    Features are none, nor the rows of a set of objects.
    """
    if any(one.drawn for one in passes) or ":" in key or _of_queries(x, passes) or _FEATURES.search(key):
        return False
    if _from_layers(key, passes):
        return True
    of_pixels = x.ndim > 2 and x.shape[-2:] == image_size(inputs)
    return of_pixels and (key in KEYS or x.ndim == 3 or x.shape[1] <= _IMAGE)


def _from_layers(key: str, passes: tuple[Pass, Pass]) -> bool:
    """Whether linear layers or convolutions make this part of the outputs, and nothing follows."""
    return all(key in one.heads for one in passes)


def _of_queries(x: Tensor, passes: tuple[Pass, Pass]) -> bool:
    return x.ndim == 3 and any(x.shape[1] in one.queries for one in passes)


def _last(key: str) -> str:
    return key.rpartition(":")[2]


def _counts(network: nn.Module) -> set[int]:
    """The numbers of classes or words that a network says it knows."""
    own = bare(network)
    config = getattr(own, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else None
    counts = [getattr(holder, name, None) for holder in (own, config, text) for name in _COUNTS]
    return {count for count in counts if isinstance(count, int)}


def _other_problem(network: nn.Module) -> bool:
    return getattr(getattr(bare(network), "config", None), "problem_type", None) in _OTHER_PROBLEMS


def _first_in_training(
    answers: Sequence[tuple[str, Tensor]],
    student: nn.Module,
    passes: tuple[Pass, Pass],
    inputs: Inputs,
    *,
    logits: bool,
) -> Answer | None:
    """The first that a student in training mode has, too, or that can be tapped at the layers that make it."""
    output = training_output(student, inputs) if answers else None
    for key, x in answers:
        found = Answer(key, tuple(x.shape), logits)
        path = f":{key}" if key else ""
        if output is None or isinstance(part(output, key), Tensor):
            return found if found.tokens is None else replace(found, taps=(path, path))
        if _from_layers(key, passes):
            return replace(found, taps=(passes[0].heads[key], passes[1].heads[key]))
    return None
