"""A request's body becomes a question. It is held in memory only, and is never larger than the limit."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from monoskd.files import as_number, is_whole_number
from monoskd.geometry.camera import is_rectified
from monoskd.inference.cameras import LEAST_HFOV_DEG, LONGEST_FOCAL_PX, MOST_HFOV_DEG, MOST_TILT_DEG
from monoskd.serve.limits import Limits
from monoskd.serve.question import Question

_DRAINED = 8  # bodies of this many times the limit are read to their end and dropped, so that the answer is read
_LONGEST_NAME = 100
_FIELD_BYTES = 2000


class RefusedError(Exception):
    """A request that is not answered. status: the HTTP status; the message is one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class Options(BaseModel):
    """The fields of a request beside its picture."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    focal_px: float | None = Field(None, ge=1, le=LONGEST_FOCAL_PX, description="focal length [px]")
    hfov_deg: float | None = Field(
        None, ge=LEAST_HFOV_DEG, le=MOST_HFOV_DEG, description="or the horizontal field of view [degrees]"
    )
    projection: str | None = Field(
        None, max_length=1000, description="or the 12 numbers of a 3 x 4 projection, row by row, as KITTI's P2"
    )
    assumed_hfov_deg: float | None = Field(
        None,
        ge=LEAST_HFOV_DEG,
        le=MOST_HFOV_DEG,
        description="field of view where none of these is given and EXIF names none",
    )
    pitch_deg: float = Field(
        0.0, ge=-MOST_TILT_DEG, le=MOST_TILT_DEG, description="how far the camera looks down [degrees]"
    )
    roll_deg: float = Field(
        0.0, ge=-MOST_TILT_DEG, le=MOST_TILT_DEG, description="how far it is turned clockwise [degrees]"
    )
    score: float | None = Field(None, ge=0, le=1, description="least score; by default the model's, see `GET /about`")
    ticket: str = Field("", pattern="^[A-Za-z0-9-]{0,64}$", description="a name for `GET /line/{ticket}`")


def body_schema() -> dict[str, Any]:
    """The OpenAPI description of the request's body."""
    schema = Options.model_json_schema()
    picture = {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"}
    schema["properties"] = {"picture": picture, **schema["properties"]}
    schema["required"] = ["picture"]
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


async def read_question(request: Request, limits: Limits) -> tuple[Question, str]:
    """The question in a request, and its ticket. Raises RefusedError where there is none."""
    form = await _form(request, limits)
    try:
        fields = form.multi_items()
        repeated = sorted({name for name, _ in fields if len(form.getlist(name)) > 1})
        if repeated:
            raise RefusedError(422, f"{repeated[0][:40]}: expected it once, got several: leave out the others")
        picture = form.get("picture")
        if not isinstance(picture, UploadFile):
            raise RefusedError(422, "picture: expected a file, got none: send it as the field `picture`")
        options = _options({name: value for name, value in fields if name != "picture" and value != ""})
        return _question(options, name=picture.filename or "", data=await picture.read()), options.ticket
    finally:
        await form.close()


async def _form(request: Request, limits: Limits) -> FormData:
    """The fields of the body."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise RefusedError(415, f"body: expected multipart/form-data, got '{kind[:60]}': send the field `picture`")
    parser = MultiPartParser(
        request.headers, _limited(request, limits.upload_bytes), max_files=1, max_fields=16, max_part_size=_FIELD_BYTES
    )
    parser.spool_max_size = limits.upload_bytes  # a body is never larger: nothing is written to a temporary file
    try:
        async with asyncio.timeout(limits.upload_s):
            return await parser.parse()
    except TimeoutError as error:
        raise RefusedError(408, f"body: expected it within {limits.upload_s:g} s: send a smaller picture") from error
    except (MultiPartException, ValueError) as error:
        reason = getattr(error, "message", "") or "a damaged one"
        raise RefusedError(400, f"body: expected multipart/form-data with one picture, got: {reason}") from error


def _options(fields: dict[str, Any]) -> Options:
    try:
        options = Options.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:40]
        if first["type"] == "extra_forbidden":
            raise RefusedError(422, f"{where}: expected one of {', '.join(Options.model_fields)}") from error
        expected = first["msg"].replace("Input should be", "expected").replace("String should", "expected to")
        raise RefusedError(422, f"{where}: {expected}, got '{str(first['input'])[:40]}': correct it") from error
    given = [name for name in ("focal_px", "hfov_deg", "projection") if getattr(options, name) is not None]
    if len(given) > 1:
        raise RefusedError(422, f"camera: expected one of {' and '.join(given)}, got both: leave out one")
    return options


def _question(options: Options, *, name: str, data: bytes) -> Question:
    values = options.model_dump(exclude={"ticket", "projection"})
    projection = None if options.projection is None else _projection(options.projection)
    return Question(name=_stem(name), data=data, projection=projection, **values)


def _projection(text: str) -> tuple[float, ...]:
    """12 numbers of a rectified camera: focal lengths of 1 px or more, no skew, last row 0 0 1."""
    numbers = tuple(as_number(word) for word in text.replace(",", " ").split())
    if len(numbers) != 12 or not all(abs(number) < 1e6 for number in numbers):
        raise RefusedError(422, f"projection: expected 12 numbers below 1e6, got '{text[:40]}': correct it")
    if min(numbers[0], numbers[5]) < 1 or not is_rectified(np.array(numbers).reshape(3, 4)):
        raise RefusedError(
            422, "projection: expected fx 0 cx x 0 fy cy y 0 0 1 z with focal lengths of at least 1 px: correct it"
        )
    return numbers


def _stem(name: str) -> str:
    """The name of the picture in the answer: words only, no path is ever made of it."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return "".join(letter for letter in stem if letter.isprintable())[:_LONGEST_NAME] or "picture"


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body, as far as it is within the limit."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if is_whole_number(declared) else 0
    if size <= most:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                break
            yield chunk
    if size > most:
        raise RefusedError(413, f"body: expected at most {most / 2**20:g} MiB, got more: send a smaller picture")


async def drain(request: Request, limits: Limits) -> None:
    """Read what is left of a refused request, within reason: a client that still sends reads no answer."""
    stream, size = request.stream(), 0
    try:
        while size <= _DRAINED * limits.upload_bytes:
            size += len(await asyncio.wait_for(anext(stream), limits.upload_s))
    except (TimeoutError, StopAsyncIteration, ClientDisconnect, RuntimeError):  # RuntimeError: it was read before
        return
