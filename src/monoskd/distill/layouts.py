"""How the tensors that a network makes are laid out, and which of them are features of a place."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monoskd.distill.teachers import Inputs
from monoskd.distill.traps import tensors

# What follows a layer of this kind is B x C x L, or B x N x C.
_SIGNAL = (nn.Conv1d, nn.ConvTranspose1d)
_TOKENS = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase)


@dataclass(frozen=True)
class Made:
    """A tensor that a module returned: the path that picks it, and torch's count of the writes to it at that time.

    signal: whether three axes are B x C x L, else tokens B x N x C. steps_first: tokens are N x B x C.
    """

    path: str
    tensor: Tensor
    version: int
    signal: bool
    steps_first: bool = False

    @property
    def untouched(self) -> bool:
        """Whether no later module wrote into it."""
        return self.tensor._version == self.version

    @property
    def batch(self) -> int:
        """The number of images, texts and so on that it holds."""
        return self.tensor.shape[1 if self.steps_first else 0]

    @property
    def tokens(self) -> int | None:
        """The number of tokens, if these are tokens."""
        return self.tensor.shape[0 if self.steps_first else 1] if self.tensor.ndim == 3 else None


class Layout:
    """Whether tensors of three axes are signals B x C x L at this point of a pass, else tokens B x N x C.

    Layers tell; what stands between them may transpose, which shows in the strides.
    """

    def __init__(self) -> None:
        self._signal = self._transposed = False

    def is_signal(self, module: nn.Module, x: Tensor) -> bool:
        """Whether `x`, which this module returned, is a signal, if it has three axes."""
        transposed = x.ndim == 3 and x.stride(1) < x.stride(2)
        if isinstance(module, _SIGNAL + _TOKENS):
            self._signal, self._transposed = isinstance(module, _SIGNAL), transposed
        return self._signal != (x.ndim == 3 and transposed != self._transposed)


def named(path: str, made: Any, *, deep: bool = False) -> list[tuple[str, Tensor]]:
    """The dense tensors in what a module returned, with the path that picks each; `deep`: also in what lies inside."""
    if isinstance(made, Tensor):
        return [(path, made)] if made.layout is torch.strided and not made.is_nested else []
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(made, Mapping):
        items = list(made.items())
    elif deep and hasattr(made, "_fields"):  # a named tuple
        items = list(zip(made._fields, made, strict=True))
    elif isinstance(made, tuple | list):
        items = list(enumerate(made))
    elif is_dataclass(made):
        items = list(vars(made).items())
    inside = [(f"{path}:{key}", x) for key, x in items]
    return [pair for at, x in inside if deep or isinstance(x, Tensor) for pair in named(at, x, deep=deep)]


def steps_lead(network: nn.Module) -> bool:
    """Whether a layer of the network takes N x B x C, as torch's recurrent and attention layers do by default."""
    return any(getattr(module, "batch_first", True) is False for module in network.modules())


def batch_size(inputs: Inputs, answers: Sequence[Tensor], *, steps_first: bool) -> int | None:
    """The number of images, texts and so on in a batch: the first axis of the first input, or the length of a list.

    steps_first: the first axis of sequences may count steps. Then it is the axis that the answers begin with, too.
    """
    first = next(iter((*inputs.args, *inputs.keywords.values())), None)
    if isinstance(first, list) and first and isinstance(first[0], Tensor):
        return len(first)
    x = next((x for x in tensors(inputs) if x.ndim), None)
    if x is None or not steps_first or x.ndim not in (2, 3):
        return None if x is None else x.shape[0]
    begins = {answer.shape[0] for answer in answers if answer.ndim and answer.is_floating_point()}
    return x.shape[0] if x.shape[0] in begins and x.shape[1] not in begins else x.shape[1]


def features(made: Sequence[Made], batch: int | None, *, steps_first: bool) -> list[Made]:
    """What was made once, is as it was, and holds features of the batch: no attention weights, no folded batch.

    Where nothing has the size of the batch, what has the most frequent size instead.
    """
    paths = Counter(one.path for one in made)
    attention = _attention(made)
    once = [
        one
        for one in made
        if one.tensor.ndim > 2 and paths[one.path] == 1 and one.untouched and one.path not in attention
    ]
    if steps_first:
        once = [_turned(one, batch) for one in once]
    sizes = [one.batch for one in once]
    if sizes and batch not in sizes:
        batch = Counter(sizes).most_common(1)[0][0]
    return [one for one in once if one.batch == batch]


def _turned(one: Made, batch: int | None) -> Made:
    """The same, tokens N x B x C noted as such."""
    steps = one.tensor.ndim == 3 and not one.signal and one.tensor.shape[1] == batch
    return Made(one.path, one.tensor, one.version, one.signal, steps_first=steps)


def _attention(made: Sequence[Made]) -> set[str]:
    """The paths of attention weights: N x N beside tokens of that number N, from the same module or the one around."""
    tokens: dict[str, set[int]] = {}
    for one in made:
        if one.tensor.ndim == 3:
            tokens.setdefault(one.path.partition(":")[0], set()).add(one.tensor.shape[1])
    found = set()
    for one in made:
        path = one.path.partition(":")[0]
        counts = tokens.get(path, set()) | tokens.get(path.rpartition(".")[0], set())
        if one.tensor.ndim == 4 and any((n, n) in (one.tensor.shape[1:3], one.tensor.shape[2:]) for n in counts):
            found.add(one.path)
    return found
