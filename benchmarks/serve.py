"""Load on `monoskd serve`: many good and bad requests at a time, and a worker that is killed in between.

    python benchmarks/serve.py [--model model.safetensors] [--requests 200] [--rounds 3] [--workers 1]

Every client sends one request and, where the server is full, comes back when `Retry-After` says so. Counts the answers
that are lost or differ from what the same request gets alone, and measures the memory of all processes of the server.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

KILL_AFTER = 0.3  # of a round's answers, a worker is killed
CLIENT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Request:
    """One kind of request and the status that it must get."""

    name: str
    picture: bytes
    status: int
    fields: dict[str, str] = field(default_factory=lambda: {"hfov_deg": "80", "score": "0"})


@dataclass
class Result:
    """What became of one round. wrong: answers that are not those of the same request alone; lost: no answer at all."""

    statuses: Counter[int] = field(default_factory=Counter)
    retries: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def encoded(image: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


@cache
def kinds() -> list[Request]:
    """Good pictures of several sizes, and bad requests of every sort."""
    rng = np.random.default_rng(0)
    noise = [
        Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for w, h in ((620, 188), (416, 128), (300, 400))
    ]
    good = encoded(noise[0], "JPEG")
    camera = {"hfov_deg": "80", "score": "0"}
    return [
        Request("jpeg", good, 200),
        Request("png", encoded(noise[1], "PNG"), 200),
        Request("tall, turned camera", encoded(noise[2], "JPEG"), 200, camera | {"pitch_deg": "3"}),
        Request("cut off", good[: len(good) // 2], 422),
        Request("words", b"no picture", 422),
        Request("bomb", encoded(Image.new("1", (8_000, 8_000)), "PNG"), 422),
        Request("too large", b"x" * (21 * 2**20), 413),
        Request("bad camera", good, 422, {"hfov_deg": "500"}),
        Request("no camera", good, 422, {}),
    ]


async def send(client: httpx2.AsyncClient, request: Request, result: Result) -> tuple[int, Any]:
    """The answer, after as many attempts as it takes."""
    while True:
        answer = await client.post("/predict", files={"picture": ("a.jpg", request.picture)}, data=request.fields)
        if answer.status_code != 503:
            return answer.status_code, answer.json()
        result.retries += 1
        await asyncio.sleep(int(answer.headers["retry-after"]))


async def load(address: str, *, requests: int, pid: int | None) -> Result:
    """One round. pid: of the server, one of whose workers is killed in between; None: none is."""
    result, killed = Result(), pid is None
    limits = httpx2.Limits(max_connections=requests)
    async with httpx2.AsyncClient(base_url=address, timeout=CLIENT_TIMEOUT_S, limits=limits) as client:
        wanted = {request.name: await send(client, request, result) for request in kinds()}
        for request in kinds():
            if wanted[request.name][0] != request.status:
                result.wrong.append(f"{request.name}: {wanted[request.name]}")

        async def one(request: Request) -> None:
            nonlocal killed
            begin = time.perf_counter()
            try:
                answer = await send(client, request, result)
            except httpx2.HTTPError as error:
                result.lost.append(f"{request.name}: {error!r}")
                return
            result.seconds.append(time.perf_counter() - begin)
            result.statuses[answer[0]] += 1
            if answer != wanted[request.name]:
                result.wrong.append(f"{request.name}: {str(answer)[:200]}")
            if not killed and len(result.seconds) > KILL_AFTER * requests:
                killed = True
                os.kill(workers_of(pid)[0], signal.SIGKILL)

        all_kinds = kinds()
        await asyncio.gather(*(one(all_kinds[index % len(all_kinds)]) for index in range(requests)))
    return result


def workers_of(pid: int | None) -> list[int]:
    """The processes that a process has started with `spawn`, without Python's resource tracker."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # of each thread
    children = [child for path in lists for child in path.read_text().split()]
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory of the server and of its workers."""

    def resident(process: int) -> float:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    return {"server": resident(pid), "workers": sum(map(resident, workers_of(pid)))}


@contextmanager
def server(model: Path, *words: str) -> Iterator[tuple[str, int]]:
    """The address and the process number of a server."""
    command = [sys.executable, "-m", "monoskd", "serve", "--model", str(model), "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split(" at ")[1].split()[0], process.pid
    finally:
        process.terminate()
        process.wait(20)


def untrained(path: Path) -> Path:
    """A model file of the demo's student without training."""
    from monoskd.models import DidM3D, DidM3DConfig
    from monoskd.models.weights import save_model

    narrow = {"channels": [4, 4, 8, 16, 32, 64]}
    config = DidM3DConfig(pretrained=False, backbone_arguments=narrow, head_width=32, input_size=(320, 96))
    save_model(DidM3D(config), path, provenance={})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="model file; without it, an untrained one")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or untrained(Path(folder) / "model.safetensors")
        with server(model, "--workers", str(options.workers)) as (address, pid):
            for number in range(options.rounds):
                begin = time.perf_counter()
                kill = pid if number == 1 else None  # in the second round
                result = asyncio.run(load(address, requests=options.requests, pid=kill))
                row = {
                    "round": number + 1,
                    "killed": kill is not None,
                    "seconds": round(time.perf_counter() - begin, 1),
                    "statuses": dict(sorted(result.statuses.items())),
                    "retries after 503": result.retries,
                    "lost": len(result.lost),
                    "wrong": len(result.wrong),
                    "answer_s_median_max": [round(float(f(result.seconds)), 2) for f in (np.median, np.max)],
                    "memory_mb": {name: round(value) for name, value in memory_mb(pid).items()},
                }
                print(json.dumps(row), flush=True)
                for line in (result.lost + result.wrong)[:5]:
                    print(f"  {line}")


if __name__ == "__main__":
    main()
