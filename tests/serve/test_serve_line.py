"""The line, with workers that answer when the test says so; and the process behind a worker."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="no fastapi: pip install 'monoskd[serve]'")

from monoskd.errors import InputError
from monoskd.serve.limits import Limits
from monoskd.serve.line import FullError, Line
from monoskd.serve.question import Answer, Model, Question
from monoskd.serve.worker import Worker

QUESTION = Question("a", b"")


class Held:
    """A worker that answers once it is released, with the names of the questions so far."""

    def __init__(self) -> None:
        self.release = asyncio.Semaphore(0)
        self.asked: list[str] = []

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question.name)
        await self.release.acquire()
        return Answer(200, question.name.encode())


def test_requests_are_answered_in_their_order_and_told_where_they_stand() -> None:
    async def story() -> None:
        worker = Held()
        line = Line([worker], Limits())
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(line.ask(Question(name, b""), ticket=name)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [line.position(ticket) for ticket in ("a", "b", "c", "d")] == [0, 1, 2, None]
        assert line.waiting == 2
        worker.release.release()
        await tasks[0]
        await asyncio.sleep(0)
        assert [line.position(ticket) for ticket in ("a", "b", "c")] == [None, 0, 1]
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)
        assert line.position("c") is None
        worker.release.release()
        assert await tasks[1] == Answer(200, b"b")
        assert worker.asked == ["a", "b"]
        assert line.waiting == 0

    asyncio.run(story())


def test_who_is_gone_is_not_served() -> None:
    async def gone() -> bool:
        return True

    async def story() -> None:
        worker = Held()
        assert await Line([worker], Limits()).ask(QUESTION, is_gone=gone) is None
        assert worker.asked == []

    asyncio.run(story())


def test_beyond_the_limit_a_request_is_told_when_to_come_back() -> None:
    async def story() -> None:
        line = Line([Held(), Held()], Limits(requests=3))
        line.seconds = 4.0
        with line.place(), line.place(), line.place():
            with pytest.raises(FullError, match="3 are here already: try again in 6 s") as caught, line.place():
                pass
            assert caught.value.retry_after_s == 6
        with line.place():
            assert line.requests == 1

    asyncio.run(story())


# --- the process ---


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    """Makes workers that do what the name of the picture says, and starts them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "detectors"))
    from told import Told

    workers = []

    def start(path: str = "good", answer_s: float = 20.0) -> Worker:
        workers.append(Worker(Model(Path(path)), Limits(answer_s=answer_s), load=Told))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


def ask(worker: Worker, name: str) -> Answer:
    return asyncio.run(worker.ask(Question(name, b"")))


def said(name: str) -> Answer:
    return Answer(200, json.dumps({"said": name}).encode())


def test_a_process_answers_and_says_what_it_finds(started: Callable[..., Worker]) -> None:
    worker = started()
    assert worker.classes == ("Car",)
    assert ask(worker, "a") == said("a")
    assert ask(worker, "bad") == Answer(422, b'{"detail": "picture: expected a good one"}')


@pytest.mark.parametrize(
    ("path", "expected"),
    [("bad", "bad: expected a model"), ("dies", "dies: expected a model that loads, got a process")],
)
def test_a_worker_that_cannot_start_says_so(started: Callable[..., Worker], path: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        started(path)


def test_a_fault_of_ours_is_told_to_who_runs_the_server_alone(
    started: Callable[..., Worker], capfd: pytest.CaptureFixture[str]
) -> None:
    worker = started()
    answer = ask(worker, "fail")
    assert answer.status == 500
    assert b"fault of ours" not in answer.body
    assert "RuntimeError: a fault of ours" in capfd.readouterr().err
    assert ask(worker, "a") == said("a")
    assert worker.replaced == 0


def test_a_picture_that_kills_its_process_is_refused_and_the_next_is_answered(started: Callable[..., Worker]) -> None:
    worker = started()
    answer = ask(worker, "die")
    assert answer.status == 500
    assert b"the worker died twice" in answer.body
    assert ask(worker, "a") == said("a")
    assert worker.replaced == 2


def test_a_question_whose_process_is_killed_is_answered_by_the_next(started: Callable[..., Worker]) -> None:
    worker = started()
    first = worker.pid
    assert first is not None

    async def story() -> None:
        os.kill(first, signal.SIGSTOP)  # it cannot answer before it is killed
        asking = asyncio.create_task(worker.ask(Question("a", b"")))
        await asyncio.sleep(0.1)
        os.kill(first, signal.SIGKILL)
        assert await asking == said("a")

    asyncio.run(story())
    assert worker.pid != first
    assert worker.replaced == 1
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_picture_that_takes_too_long_is_refused_and_the_next_is_answered(started: Callable[..., Worker]) -> None:
    worker = started(answer_s=0.5)
    begin = time.monotonic()
    answer = ask(worker, "sleep")
    assert time.monotonic() - begin < 10
    assert answer.status == 504
    assert b"within 0.5 s" in answer.body
    assert ask(worker, "a") == said("a")


def test_who_stops_waiting_does_not_leave_an_answer_to_the_next(started: Callable[..., Worker]) -> None:
    worker = started()

    async def story() -> None:
        asking = asyncio.create_task(worker.ask(Question("sleep", b"")))
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await worker.ask(Question("b", b"")) == said("b")

    asyncio.run(story())


def test_a_process_ends_when_the_server_is_gone(started: Callable[..., Worker]) -> None:
    worker = started()
    process = worker._process
    assert process is not None
    worker._pipe = None  # the last end of the pipe, as when the server is killed
    process.join(10)
    assert process.exitcode == 0
