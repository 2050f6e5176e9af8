"""Where maps are taken: any module of any network, named by its dotted path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from monoskd.errors import InputError

AdapterKind: TypeAlias = Literal["auto", "conv", "linear", "identity", "none"]


@dataclass(frozen=True)
class Outlet:
    """One place in a network where a map is taken.

    path: the module's dotted path as `named_modules` spells it ("" is the whole network). Where the module returns a
        tuple, dict or object, `:key` picks from it, as often as needed: "backbone.fpn:0", "backbone:features:p3".
    view: what was picked -> the tensor to distil, for instance `TokensAsMap()`. Applied inside the forward pass.
    call: which call of a module that runs more than once in a forward pass (0 first, -1 last), or "all": the maps of
        all calls, stacked along the batch axis, those of the first call first.
    side: "output", or "input": what the module is called with. There a first key picks an argument by position or by
        name ("decoder:memory"); without one it is the first positional argument, or the only keyword.
    """

    path: str
    view: Callable[[Any], Tensor] | None = None
    call: int | Literal["all"] | None = None
    side: Literal["output", "input"] = "output"

    def __post_init__(self) -> None:
        if self.side not in ("output", "input"):
            raise InputError(f'Outlet("{self.path}"): side: expected "output" or "input", got {self.side!r}')
        if self.call not in (None, "all") and (isinstance(self.call, bool) or not isinstance(self.call, int)):
            raise InputError(f'Outlet("{self.path}"): call: expected a number or "all", got {self.call!r}')

    @property
    def module(self) -> str:
        """The dotted path alone."""
        return self.path.partition(":")[0]

    @property
    def keys(self) -> list[str]:
        """What to pick from what the module returns or is given, outermost first."""
        return self.path.split(":")[1:]


@dataclass(frozen=True)
class Tap:
    """A map of the student beside the map of the teacher that it should resemble.

    student, teacher: an `Outlet` or its path; without `teacher`, the same path as the student's.
    adapter: a small network on the student's map, trained along and thrown away afterwards.
        "auto": a 1 x 1 convolution where the channels differ, nothing where they agree;
        "conv": 3 x 3 convolution, ReLU, 1 x 1 convolution (MonoSKD); "linear": a 1 x 1 convolution;
        "identity": nothing, and the channels have to agree; "none": nothing, and the channels may differ (affinity);
        or a module of your own.
    name: what terms, logs and the result call this tap; by default the student's path.
    of: which of several teachers, by name; for several names the mean of their maps, which must have one shape.
    """

    student: str | Outlet
    teacher: str | Outlet | None = None
    adapter: AdapterKind | nn.Module = "auto"
    name: str | None = None
    of: str | Sequence[str] | None = None

    @property
    def label(self) -> str:
        """The name by which terms and results know this tap."""
        return self.name or self.student_outlet.path

    @property
    def student_outlet(self) -> Outlet:
        """Where the student's map is taken."""
        return self.student if isinstance(self.student, Outlet) else Outlet(self.student)

    @property
    def teacher_outlet(self) -> Outlet:
        """Where the teacher's map is taken."""
        if self.teacher is None:
            return self.student_outlet
        return self.teacher if isinstance(self.teacher, Outlet) else Outlet(self.teacher)


@dataclass(frozen=True)
class TokensAsMap:
    """A view that arranges the tokens of a vision transformer as the map of patches that they come from.

    prefix: leading tokens that belong to no place (class and register tokens). height: rows of patches; without it
    the map is square.
    """

    prefix: int = 0
    height: int | None = None

    def __call__(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b c h w"]:
        """B x (prefix + h w) x C -> B x C x h x w."""
        count = tokens.shape[1] - self.prefix
        height = self.height or round(max(count, 0) ** 0.5)
        if count <= 0 or count % height or (self.height is None and height * height != count):
            raise InputError(
                f"TokensAsMap(prefix={self.prefix}, height={self.height}): {tokens.shape[1]} tokens do not fill such "
                "a map; give the number of prefix tokens and, unless the map is square, its height"
            )
        return tokens[:, self.prefix :].transpose(1, 2).reshape(len(tokens), -1, height, count // height)


def channels_first(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """A view for networks that keep channels last, as Swin does."""
    return x.permute(0, 3, 1, 2)


def as_tokens(x: Float[Tensor, "b c *places"]) -> Float[Tensor, "b n c"]:
    """A view for signals B x C x L and volumes B x C x D x H x W: one token for each place."""
    return x.flatten(2).transpose(1, 2)


def last_as_tokens(x: Float[Tensor, "b *places c"]) -> Float[Tensor, "b n c"]:
    """As `as_tokens`, for volumes B x D x H x W x C, as Swin3D makes them."""
    return x.flatten(1, -2)


def batch_first(x: Float[Tensor, "n b c"]) -> Float[Tensor, "b n c"]:
    """A view for networks that keep the steps of a sequence first, as torch's recurrent layers do by default."""
    return x.transpose(0, 1)
