"""The one exception that the user can correct."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class InputError(ValueError):
    """Bad input: one line that says what, where, what was expected, what was found and what to do.

    The command line prints it and exits with 2; every other exception is a fault of this library.
    """


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line; its type where it says nothing.

    >>> first_line(RuntimeError("no such device\\nat line 3")), first_line(AssertionError())
    ('no such device', 'AssertionError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Complaints:
    """Collects the errors of several checks, so that all of them are said at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The result of a check, or None where it raises an InputError."""
        try:
            return check(*args, **kwargs)
        except InputError as error:
            self.lines.append(str(error))
            return None

    def raise_any(self) -> None:
        """Raise one InputError with every complaint, numbered if there are several."""
        if len(self.lines) == 1:
            raise InputError(self.lines[0])
        if self.lines:
            raise InputError(" ".join(f"({number}) {line}" for number, line in enumerate(self.lines, start=1)))
