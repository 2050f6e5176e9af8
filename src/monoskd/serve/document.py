"""What the server answers, as types for its OpenAPI description. `monoskd.inference.outputs` writes the documents."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]
Four = Annotated[list[float], Field(min_length=4, max_length=4)]
Rotation = Annotated[list[Triple], Field(min_length=3, max_length=3)]


class Detection(BaseModel):
    """One object, in the units of the documentation: pixels, metres, radians."""

    model_config = ConfigDict(extra="forbid")

    class_: str = Field(alias="class")
    score: float
    box_2d_px: Four
    bottom_centre_m: Triple
    height_width_length_m: Triple
    yaw_rad: float
    alpha_rad: float
    depth_m: float
    depth_std_m: float | None
    corners_m: Annotated[list[Triple], Field(min_length=8, max_length=8)]


class PictureCamera(BaseModel):
    """The camera that was used, and where it is from."""

    model_config = ConfigDict(extra="forbid")

    source: str
    width: int
    height: int
    focal_px: Pair
    principal_point_px: Pair
    projection: Annotated[list[Four], Field(min_length=3, max_length=3)]
    rotation_to_level: Rotation | None = None
    distortion: list[float] | None = None
    distortion_model: str | None = None


class PictureEntry(BaseModel):
    """A picture, its camera and what was detected, best first."""

    model_config = ConfigDict(extra="forbid")

    image: str
    camera: PictureCamera
    detections: list[Detection]


class Document(BaseModel):
    """The document that `monoskd predict` writes as `detections.json`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal["monoskd/detections/1"] = Field(alias="schema")
    images: Annotated[list[PictureEntry], Field(min_length=1, max_length=1)]


class Health(BaseModel):
    """How the server is. replaced: processes that died or took too long, since the start."""

    status: Literal["ok"]
    workers: int
    requests: int
    waiting: int
    replaced: int


class Place(BaseModel):
    """Where a request stands: 1 is the next, 0 is being predicted."""

    position: int


class About(BaseModel):
    """What the page has to know. classes: the colour of each; score: the least that is shown at first."""

    version: str
    classes: dict[str, str]
    score: float
    upload_bytes: int
    pixels: int


class Problem(BaseModel):
    """What is wrong, in one line."""

    detail: str
