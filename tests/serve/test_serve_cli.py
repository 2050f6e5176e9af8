"""`monoskd serve` as a command, and the line that the demo ends with."""

import http.client
import shlex
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from monoskd.cli import build_parser, main
from monoskd.demo import story
from monoskd.demo.report import DRAWN


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("serve", "required: --model"),
        ("serve --model m --port 70000", "expected a port from 0 to 65535, got '70000'"),
        ("serve --model m --port ²", "expected a port from 0 to 65535, got '²'"),
        ("serve --model m --workers 0", "expected a whole number of at least 1"),
        (
            "serve --model m --host no.such.host.invalid",
            "--host, --port: expected an address to listen to, got no.such",
        ),
    ],
)
def test_bad_words_are_one_line(words: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "--host" in words:
        pytest.importorskip("fastapi", reason="no fastapi: pip install 'monoskd[serve]'")
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi", reason="no fastapi: pip install 'monoskd[serve]'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", "m", "--port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"got 127.0.0.1:{port} ('Address already in use" in line


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from monoskd.cli import serve

    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["serve", "--model", "m"]) == 2
    assert "missing fastapi, uvicorn, python_multipart: pip install 'monoskd[serve]'" in capsys.readouterr().err


def test_the_demo_ends_with_the_line_that_serves_its_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finished(out: Path, **options: object) -> Path:
        return out / "report.html"

    monkeypatch.setattr(story, "demo", finished)
    assert main(["demo", "--out", str(tmp_path / "my demo")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(line.partition(": ")[2])
    assert words[0] == "monoskd"
    assert build_parser().parse_args(words[1:]).model == tmp_path / "my demo" / "runs" / DRAWN / "model.safetensors"


def test_a_load_of_good_and_bad_requests_is_answered_whole(address: str) -> None:
    pytest.importorskip("httpx2", reason="no httpx2: pip install httpx2")
    import asyncio

    from serve import load

    result = asyncio.run(load(address, requests=45, pid=None))
    assert (result.lost, result.wrong) == ([], [])
    assert sum(result.statuses.values()) == 45
    assert set(result.statuses) == {200, 413, 422}


def test_the_server_is_asked_by_its_own_page_only(address: str, start_server: Callable[..., str]) -> None:
    httpx2 = pytest.importorskip("httpx2", reason="no httpx2: pip install httpx2")
    assert httpx2.get(f"{address}/healthz").json()["status"] == "ok"
    assert httpx2.get(f"{address}/healthz", headers={"host": "evil.example"}).status_code == 403


def test_a_connection_outlives_a_pause_after_which_clients_end_it(address: str) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"))
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    sock = connection.sock
    time.sleep(5.5)  # uvicorn's own limit is 5 s, as httpx' is
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    assert connection.sock is sock
    connection.close()
