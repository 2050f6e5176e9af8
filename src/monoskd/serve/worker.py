"""A process that answers. One that dies or takes too long is replaced, and the server goes on."""

import asyncio
import json
import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol, TypeAlias

from monoskd.errors import InputError
from monoskd.serve.limits import Limits
from monoskd.serve.question import Answer, Model, Question

ATTEMPTS = 2  # a question whose process dies is asked once more
_SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
_SECONDS_TO_END = 5.0


class Answerer(Protocol):
    """What answers questions with documents; raises InputError for bad ones."""

    classes: tuple[str, ...]
    score: float

    def __call__(self, question: Question) -> dict[str, Any]:
        """The document."""
        ...


Load: TypeAlias = Callable[[Model, Limits], Answerer]


def load_answerer(model: Model, limits: Limits) -> Answerer:
    """Load a model file. Raises InputError where it cannot be."""
    from monoskd.serve import answer

    return answer.Answerer(model, limits)


def problem(line: str, status: int) -> Answer:
    """An answer that says in one line what is wrong."""
    return Answer(status, json.dumps({"detail": " ".join(line.split())}).encode())


class Worker:
    """One process with the model loaded.

    load: makes, in the process, what answers there. classes: what the model finds; score: the least that is worth
    showing; replaced: how many processes died or took too long.
    """

    def __init__(self, model: Model, limits: Limits, *, load: Load = load_answerer) -> None:
        self.model, self.limits, self.load = model, limits, load
        self.classes: tuple[str, ...] = ()
        self.score = 0.0
        self.replaced = 0
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._reviving = threading.Lock()
        self._threads = ThreadPoolExecutor(2)  # one may still wait for a process that is being killed

    @property
    def pid(self) -> int | None:
        """The number of the process, None before `start` and after `stop`."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process and wait until its model is loaded. Raises InputError where it cannot be."""
        self._pipe, theirs = _SPAWN.Pipe()
        words = (theirs, self.load, self.model, self.limits)
        self._process = _SPAWN.Process(target=_answer_all, args=words, daemon=True)
        self._process.start()
        theirs.close()
        try:
            ready = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            self._end()
            raise InputError(f"{self.model.path}: expected a model that loads, got a process that died") from error
        if "error" in ready:
            self._end()
            raise InputError(ready["error"])
        self.classes, self.score = tuple(ready["classes"]), ready["score"]

    def stop(self) -> None:
        """End the process."""
        self._end()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, question: Question) -> Answer:
        """The answer to one question. A process that takes longer than the limit is killed, and 504 is the answer."""
        loop = asyncio.get_running_loop()
        for _ in range(ATTEMPTS):
            try:
                await loop.run_in_executor(self._threads, self._revive)
            except InputError as error:
                return problem(f"worker: expected to start again, got '{error}'", 503)
            try:
                exchange = loop.run_in_executor(self._threads, self._exchange, question)
                return await asyncio.wait_for(exchange, self.limits.answer_s)
            except TimeoutError:
                self._end()
                return problem(
                    f"picture: expected one that is predicted within {self.limits.answer_s:g} s, got one that takes "
                    "longer: send a smaller one",
                    504,
                )
            except (EOFError, OSError):  # it died
                self._end()
            except BaseException:  # nobody waits for the answer any more, which would be taken for that of the next
                self._end()
                raise
        return problem("picture: expected an answer, but the worker died twice: send another picture", 500)

    def _revive(self) -> None:
        with self._reviving:
            if self._process is None or not self._process.is_alive():
                self._end()
                self.replaced += 1
                self.start()

    def _exchange(self, question: Question) -> Answer:
        pipe = self._pipe
        if pipe is None:
            raise EOFError
        pipe.send(question)
        reply = pipe.recv_bytes()
        return Answer(int(reply[:3]), reply[3:])

    def _end(self) -> None:
        """Kill the process; a thread that waits for it is told by the end of its pipe."""
        process, self._process, self._pipe = self._process, None, None
        if process is not None:
            process.kill()
            process.join(_SECONDS_TO_END)


def _answer_all(pipe: Connection, load: Load, model: Model, limits: Limits) -> None:
    """What the process does until the server closes the pipe or is gone."""
    for name in ("SIGINT", "SIGHUP"):  # these reach all processes of a terminal, and the server ends this one
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        answerer = load(model, limits)
    except InputError as error:
        pipe.send_bytes(json.dumps({"error": str(error)}).encode())
        return
    pipe.send_bytes(json.dumps({"classes": answerer.classes, "score": answerer.score}).encode())
    with suppress(EOFError, OSError):
        while True:
            question: Any = pipe.recv()
            try:
                answer = Answer(200, json.dumps(answerer(question), allow_nan=False).encode())
            except InputError as error:
                answer = problem(str(error), 422)
            except Exception:  # a fault of ours: the trace is for whoever runs the server, not for the client
                sys.stderr.write(traceback.format_exc())
                answer = problem("server: expected to predict, but failed: its log says why", 500)
            pipe.send_bytes(b"%d" % answer.status + answer.body)
