"""The web application: one page, `POST /predict` and what the two need."""

import asyncio
from collections.abc import Collection
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from monoskd import __version__
from monoskd.inference.canvas import class_colour
from monoskd.report.style import COLOURS, PAGE
from monoskd.serve.document import About, Document, Health, Place, Problem
from monoskd.serve.example import example
from monoskd.serve.guard import Guard
from monoskd.serve.limits import Limits
from monoskd.serve.line import FullError, Line
from monoskd.serve.request import RefusedError, body_schema, drain, read_question
from monoskd.serve.worker import Worker

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_RETRY = {"Retry-After": "10"}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "no whole multipart body",
        403: "asked by another web site, or under another host name",
        408: "the body took too long",
        413: "the body is too large",
        415: "the body is of another type",
        422: "no picture, a bad one, or a bad camera",
        500: "a fault of the server",
        503: "too many requests at a time; `Retry-After` says when to come back",
        504: "the picture took too long",
    }.items()
}


def create_app(workers: list[Worker], limits: Limits | None = None, *, hosts: Collection[str] | None = None) -> FastAPI:
    """The application on workers that are started. hosts: see `Guard`."""
    limits = limits or Limits()
    line = Line(workers, limits)
    app = FastAPI(
        title="monoskd",
        version=__version__,
        description="3D boxes in a picture.",
        docs_url=None,  # both load scripts of other hosts
        redoc_url=None,
    )
    app.add_middleware(Guard, hosts=hosts)
    app.state.line = line
    _add_predict(app, line, limits)
    _add_facts(app, line, workers, limits)
    _add_page(app)
    return app


def _add_predict(app: FastAPI, line: Line, limits: Limits) -> None:
    @app.post(
        "/predict",
        responses={200: {"model": Document, "description": "The detections"}, **_REFUSALS},
        openapi_extra={"requestBody": body_schema()},
        response_class=Response,
    )
    async def predict(request: Request) -> Response:
        """3D boxes in one picture. Its camera is named by the fields, or by the picture's EXIF."""
        try:
            with line.place():
                question, ticket = await read_question(request, limits)
                answer = await line.ask(question, ticket=ticket, is_gone=request.is_disconnected)
        except FullError as error:
            await drain(request, limits)
            # Closed, as one that is kept may end at the moment when the client comes back on it.
            return _problem(503, str(error), {"Retry-After": str(error.retry_after_s), "Connection": "close"})
        except RefusedError as error:
            await drain(request, limits)
            return _problem(error.status, str(error), {"Connection": "close"})
        except ClientDisconnect:
            answer = None
        except asyncio.CancelledError:
            return _problem(503, "server: expected to answer, but it is being stopped: ask again", _RETRY)
        if answer is None:
            return Response(status_code=499)  # nobody reads it
        headers = _RETRY if answer.status == 503 else {}
        return Response(answer.body, answer.status, headers, media_type="application/json")


def _add_facts(app: FastAPI, line: Line, workers: list[Worker], limits: Limits) -> None:
    @app.get("/healthz")
    async def healthz() -> Health:
        """Whether the server answers, and how busy it is."""
        replaced = sum(worker.replaced for worker in workers)
        return Health(
            status="ok", workers=len(workers), requests=line.requests, waiting=line.waiting, replaced=replaced
        )

    @app.get("/line/{ticket}", responses={404: {"model": Problem, "description": "no such request is here"}})
    async def position(ticket: str) -> Place:
        """Where the request stands that was sent with this ticket."""
        place = line.position(ticket)
        if place is None:
            raise HTTPException(404, "ticket: expected one of a request that waits, got another")
        return Place(position=place)

    @app.get("/about")
    async def about() -> About:
        """What the page has to know."""
        colours = {name: "#{:02x}{:02x}{:02x}".format(*class_colour(name)) for name in workers[0].classes}
        return About(
            version=__version__,
            classes=colours,
            score=workers[0].score,
            upload_bytes=limits.upload_bytes,
            pixels=limits.pixels,
        )


def _add_page(app: FastAPI) -> None:
    folder = files("monoskd.serve") / "page"
    contents = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    contents["house.css"] = (COLOURS + PAGE).encode()

    def answer(name: str) -> Response:
        """A file of the page. The name is looked up among those that were read at the start."""
        if name not in contents:
            return _problem(404, "page: expected one of its files, got another name")
        kind = next((kind for suffix, kind in _KINDS.items() if name.endswith(suffix)), "application/octet-stream")
        return Response(contents[name], media_type=kind)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return answer("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return answer(name)

    @app.get("/example.jpg", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    def picture() -> Response:
        """A rendered picture to try."""
        return Response(example().jpeg, media_type="image/jpeg")

    @app.get("/example.json")
    def camera() -> dict[str, list[float]]:
        """Its camera: the field `projection` of `POST /predict`."""
        return {"projection": list(example().projection)}


def _problem(status: int, line: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": line}, status, headers)
