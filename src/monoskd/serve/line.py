"""Requests wait in line for a worker: first come, first served, and no more than there is room for."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from monoskd.serve.limits import Limits
from monoskd.serve.question import Answer, Question

_SECONDS_AT_FIRST = 1.0  # that a picture takes, before one was measured
_NEWEST = 0.2  # weight of the newest measurement


class Answering(Protocol):
    """What answers one question at a time; `Worker` does."""

    async def ask(self, question: Question) -> Answer:
        """The answer."""
        ...


class FullError(Exception):
    """There is no room in the line. retry_after_s: when there may be."""

    def __init__(self, *, requests: int, retry_after_s: int) -> None:
        super().__init__(
            f"server: expected fewer requests at a time, {requests} are here already: try again in {retry_after_s} s"
        )
        self.retry_after_s = retry_after_s


class Line:
    """The requests that are in the house. Used from one event loop.

    seconds: that a picture takes, a running mean.
    """

    def __init__(self, workers: Sequence[Answering], limits: Limits) -> None:
        self.workers, self.limits = workers, limits
        self.requests = 0
        self.seconds = _SECONDS_AT_FIRST
        self._waiting: dict[object, str] = {}  # in the order in which they came
        self._running: set[str] = set()
        self._free: asyncio.Queue[Answering] = asyncio.Queue()
        for worker in workers:
            self._free.put_nowait(worker)

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return len(self._waiting)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the house for one request, before its body is read. Raises FullError where there is none."""
        if self.requests >= self.limits.requests:
            seconds = self.seconds * self.requests / max(len(self.workers), 1)
            raise FullError(requests=self.requests, retry_after_s=min(max(math.ceil(seconds), 1), 3600))
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def position(self, ticket: str) -> int | None:
        """Where the request with this ticket stands: 1 is the next, 0 while it runs; None for one that is not here."""
        if ticket in self._running:
            return 0
        tickets = list(self._waiting.values())
        return tickets.index(ticket) + 1 if ticket in tickets else None

    async def ask(
        self, question: Question, *, ticket: str = "", is_gone: Callable[[], Awaitable[bool]] | None = None
    ) -> Answer | None:
        """The answer of the first worker that is free; None if nobody waits for it any more by then."""
        worker = await self._worker(ticket)
        try:
            if is_gone is not None and await is_gone():
                return None
            begin = time.monotonic()
            self._running.add(ticket)
            answer = await worker.ask(question)
            if answer.status == 200:
                self.seconds += _NEWEST * (time.monotonic() - begin - self.seconds)
            return answer
        finally:
            self._running.discard(ticket)
            self._free.put_nowait(worker)

    async def _worker(self, ticket: str) -> Answering:
        """Wait for a free worker."""
        key = object()
        self._waiting[key] = ticket
        try:
            return await self._free.get()  # asyncio serves those that wait in their order
        finally:
            del self._waiting[key]
