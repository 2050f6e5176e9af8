"""The server: workers, a socket and the application until somebody ends it."""

import socket
from collections.abc import Callable
from contextlib import ExitStack

import uvicorn

from monoskd.errors import InputError
from monoskd.serve.app import create_app
from monoskd.serve.guard import LOOPBACK
from monoskd.serve.limits import Limits
from monoskd.serve.question import Model
from monoskd.serve.worker import Worker

_SECONDS_TO_END = 5
_IDLE_S = 75  # longer than clients keep an idle connection, httpx 5 s: one that ends as a request comes in loses it


def serve(
    model: Model,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    limits: Limits | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a model until the process is told to stop. port: 0 takes one that is free.

    ready: called with the address once it is served. Raises InputError for an address that cannot be listened to and
    a model that cannot be loaded.
    """
    limits = limits or Limits()
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        processes = [Worker(model, limits) for _ in range(workers)]
        for process in processes:
            stack.callback(process.stop)
            process.start()
        hosts = (*LOOPBACK, host) if host in LOOPBACK else None
        app = create_app(processes, limits, hosts=hosts)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # who asks for what is nobody's business
            server_header=False,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_SECONDS_TO_END,
        )
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--host, --port: expected an address to listen to, got {host}:{port} ('{reason}'): choose another port"
        ) from error
