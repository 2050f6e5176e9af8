"""Pictures of objects: 3D boxes on the photograph, the street from above, and both side by side.

Numpy RGB in, numpy RGB out; the inputs are not changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.frames import Pixels
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.inference.canvas import (
    INK,
    TEACHER_COLOUR,
    TRUTH_COLOUR,
    Colour,
    Word,
    class_colour,
    clip_planes,
    fill,
    stroke,
    visible_polygon,
    visible_segments,
    write,
)
from monoskd.objects import Objects

NEAR_M = 0.1  # boxes are cut off nearer to the camera's plane than this
HORIZON_COLOUR: Colour = (255, 255, 255)
_LEAST_SCENE_HEIGHT = 480  # of the photograph beside the street from above
_BENT_STEPS = 16  # straight pieces that a bent line is made of

# Corners of `Boxes3D.corners` around each face, the front first; and the ends of the twelve edges.
_FACES = np.array([[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [0, 1, 2, 3], [4, 5, 6, 7]])
_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])
_FACES_OF_EDGE = np.array([[face for face in range(6) if {*edge} <= {*_FACES[face]}] for edge in _EDGES.tolist()])


@dataclass(frozen=True)
class Bend:
    """What a lens does to the lines of a pinhole camera's picture of `size` (width, height) [px].

    function: pixels n x 2 of that picture to pixels of the photograph, NaN outside the lens's view.
    """

    function: Callable[[NDArray[Any]], NDArray[Any]]
    size: tuple[float, float]

    def enlarged(self, zoom: float) -> "Bend":
        """The same between enlarged pictures."""
        return Bend(lambda uv: self.function(uv / zoom) * zoom, (self.size[0] * zoom, self.size[1] * zoom))

    def lines(self, lines: NDArray[Any]) -> list[NDArray[Any]]:
        """Segments, m x 2 x 2, as bent lines."""
        steps = np.linspace(0, 1, _BENT_STEPS + 1)[:, None]
        bent = [self.function(start + steps * (end - start)) for start, end in lines]
        return [line[np.isfinite(line).all(1)] for line in bent]

    def polygon(self, corners: NDArray[Any]) -> NDArray[Any]:
        """A polygon, k x 2, with bent sides."""
        sides = self.lines(np.stack([corners, np.roll(corners, -1, 0)], 1))
        return np.concatenate(sides) if sides else corners


@dataclass(frozen=True)
class Look:
    """How boxes are drawn.

    colour: one for all boxes, or None for the colour of each class; filled: whether faces are tinted; words: whether
    class, score and distance are written at each box.
    """

    colour: Colour | None = None
    filled: bool = True
    words: bool = True


PLAIN = Look()
TRUTH = Look(colour=TRUTH_COLOUR, filled=False, words=False)
TEACHER = Look(colour=TEACHER_COLOUR, filled=False, words=False)


def draw_boxes(
    image: Pixels, objects: Objects, camera: Camera, *, look: Look = PLAIN, bend: Bend | None = None
) -> Pixels:
    """The photograph with 3D boxes, the nearest on top.

    The front of a box is tinted; edges that the box itself hides are thin. Parts behind the camera are cut off.
    camera: projects to the photograph's pixels or, with `bend`, to those of the pinhole picture that the lens bends.
    """
    canvas, P = image.copy(), np.asarray(camera.P)
    objects = _solid(objects)
    objects = objects[np.argsort(-objects.bottom[:, 2], kind="stable")]
    words = []
    for i, corners in enumerate(objects.boxes_3d.corners()):
        colour = look.colour or class_colour(str(objects.names[i]))
        outline = _draw_box(canvas, corners, P, colour=colour, filled=look.filled, bend=bend)
        if len(outline) and look.words:
            left, top = outline.min(0).tolist()
            words.append(Word(_caption(objects[i : i + 1]), (left, top - 2), chip=colour))
    return write(canvas, words[::-1], height=max(11, canvas.shape[1] // 100))


def _draw_box(
    canvas: Pixels, corners: NDArray[Any], P: NDArray[Any], *, colour: Colour, filled: bool, bend: Bend | None
) -> NDArray[Any]:
    """Draw one box (8 x 3 [m]); returns points of its visible edges, m x 2 pixels."""
    width, height = (canvas.shape[1], canvas.shape[0]) if bend is None else bend.size
    planes = clip_planes(width=width, height=height, near=NEAR_M)
    homogeneous = corners @ P[:, :3].T + P[:, 3]
    eye = -np.linalg.solve(P[:, :3], P[:, 3])
    faces = corners[_FACES].mean(1)
    towards = ((faces - corners.mean(0)) * (eye - faces)).sum(-1) > 0
    if filled:
        for face in np.flatnonzero(towards):
            polygon = visible_polygon(homogeneous[_FACES[face]], planes)
            polygon = polygon if bend is None else bend.polygon(polygon)
            fill(canvas, polygon, colour, opacity=0.38 if face == 0 else 0.1)
    shown = towards[_FACES_OF_EDGE].any(1)
    line_ahead = np.stack([homogeneous[:4].mean(0), homogeneous[:2].mean(0)])[None]
    hidden, seen, ahead = (
        _bent(visible_segments(segments, planes), bend)
        for segments in (homogeneous[_EDGES[~shown]], homogeneous[_EDGES[shown]], line_ahead)
    )
    thick = max(1, round(width / 640) - (not filled))
    red, green, blue = colour
    stroke(canvas, hidden, (red * 3 // 5, green * 3 // 5, blue * 3 // 5), width=1)
    stroke(canvas, seen, INK, width=thick + 2)
    stroke(canvas, [*seen, *ahead], colour, width=thick)
    return np.concatenate([np.zeros((0, 2)), *hidden, *seen])


def _bent(lines: NDArray[Any], bend: Bend | None) -> list[NDArray[Any]]:
    return list(lines) if bend is None else bend.lines(lines)


def draw_horizon(canvas: Pixels, camera: Camera, *, bend: Bend | None = None) -> None:
    """Draw, in place, the line of points as high as the camera: it shows a wrong pitch or roll."""
    width = canvas.shape[1] if bend is None else bend.size[0]
    row = float(np.asarray(camera.P)[1, 2])
    for line in _bent(np.array([[[0.0, row], [width, row]]]), bend):
        stroke(canvas, [line], INK, width=3)
        stroke(canvas, [line], HORIZON_COLOUR, width=1)


def draw_birds_eye(
    detections: Objects,
    ground_truth: Objects | None = None,
    *,
    teacher: Objects | None = None,
    field_of_view: tuple[float, float] | None = None,
    range_m: float | None = None,
    size: tuple[int, int] = (440, 480),
) -> Pixels:
    """The street from above: x to the right, z up, the camera at the bottom in the middle.

    Detections are filled in the colour of their class; the ground truth is outlined in white, the teacher's detections
    in magenta. A box's front is its thick side. field_of_view: x / z of the photograph's left and right edge (see
    `edge_slopes`); range_m: distance of the furthest ring, by default just beyond the furthest object, 30 to 80 m;
    size: (width, height) [px].
    """
    layers = [_Layer("detections", _solid(detections), None)]
    if teacher is not None:
        layers.append(_Layer("teacher", _solid(teacher), TEACHER_COLOUR))
    if ground_truth is not None:
        layers.append(_Layer("ground truth", _solid(ground_truth), TRUTH_COLOUR))
    if range_m is None:
        furthest = max(layer.objects.bottom[:, 2].max(initial=0) for layer in layers)
        range_m = float(np.clip(np.ceil(furthest / 10 + 0.2) * 10, 30, 80))
    canvas = np.full((size[1], size[0], 3), INK, np.uint8)
    origin, scale = np.array([size[0] / 2, 0.92 * size[1]]), 0.87 * size[1] / range_m
    words = _draw_ground(canvas, origin=origin, scale=scale, range_m=range_m, field_of_view=field_of_view)
    height = max(10, size[1] // 40)
    for row, layer in enumerate(reversed(layers)):
        corner = (height / 3, size[1] - height * (0.3 + 1.4 * row))
        words.append(Word(layer.title, corner, ink=layer.colour or class_colour("Car")))
    for layer in layers:
        _draw_layer(canvas, layer, origin=origin, scale=scale)
    return write(canvas, words, height=height)


@dataclass(frozen=True)
class _Layer:
    """Boxes of one source, seen from above. colour: None fills each box with the colour of its class."""

    title: str
    objects: Objects
    colour: Colour | None


def _draw_layer(canvas: Pixels, layer: _Layer, *, origin: NDArray[Any], scale: float) -> None:
    thick = max(1, round(canvas.shape[0] / 420))
    for name, corners in zip(layer.objects.names, layer.objects.boxes_3d.corners()[:, :4], strict=True):
        outline = origin + scale * corners[:, [0, 2]] * (1, -1)
        colour = layer.colour or class_colour(str(name))
        if layer.colour is None:
            fill(canvas, outline, colour, opacity=0.55)
        stroke(canvas, [outline], colour, width=thick, closed=True)
        stroke(canvas, [outline[:2]], colour, width=2 * thick + 1)


def _draw_ground(
    canvas: Pixels, *, origin: NDArray[Any], scale: float, range_m: float, field_of_view: tuple[float, float] | None
) -> list[Word]:
    """Rings of distance, the field of view and the camera's own car; returns the rings' words."""
    if field_of_view is not None:
        edges = np.array([[0, 0], *([slope, 1] for slope in field_of_view)]) * 2 * range_m
        fill(canvas, origin + scale * edges * (1, -1), (120, 140, 170), opacity=0.16)
    step = 10 if range_m <= 100 else 50
    turn = np.linspace(0, np.pi, 181)
    words = []
    for distance in np.arange(step, range_m + 1, step):
        ring = origin + scale * distance * np.stack([np.cos(turn), -np.sin(turn)], -1)
        stroke(canvas, [ring], (62, 70, 84), width=1)
        aside = min(0.72, np.arcsin(min(1.0, (origin[0] - 40) / (scale * distance))))
        at = origin + scale * distance * np.array([np.sin(aside), -np.cos(aside)])
        words.append(Word(f"{distance:.0f} m", (float(at[0]), float(at[1])), ink=(128, 138, 154)))
    car = np.array([[-0.9, 0.4], [0, 1.3], [0.9, 0.4], [0.9, -3.2], [-0.9, -3.2]])
    fill(canvas, origin + scale * car * (1, -1), (205, 212, 222), opacity=1.0)
    return words


def edge_slopes(camera: Camera, *, width: int) -> tuple[float, float]:
    """x / z of the viewing directions at the left and the right edge of a photograph of this width."""
    P = np.asarray(camera.P)
    return float(-P[0, 2] / P[0, 0]), float((width - P[0, 2]) / P[0, 0])


def draw_scene(
    image: Pixels,
    *,
    camera: Camera,
    detections: Objects,
    ground_truth: Objects | None = None,
    teacher: Objects | None = None,
    bend: Bend | None = None,
    horizon: bool = False,
) -> Pixels:
    """The photograph with its boxes and, to its right, the same from above. Low photographs are enlarged first.

    bend: see `draw_boxes`; horizon: also draw the horizon that the camera implies. `scene_size` tells its size.
    """
    zoom = _scene_zoom(image.shape[0])
    canvas = _enlarge(image, zoom)
    enlarged = Letterbox(np.float64(zoom), np.zeros(2), (0, 0)).camera(camera)
    bent = None if bend is None else bend.enlarged(zoom)
    if horizon:
        draw_horizon(canvas, enlarged, bend=bent)
    for objects, look in ((ground_truth, TRUTH), (teacher, TEACHER), (detections, PLAIN)):
        if objects is not None:
            canvas = draw_boxes(canvas, objects, enlarged, look=look, bend=bent)
    above = draw_birds_eye(
        detections,
        ground_truth,
        teacher=teacher,
        field_of_view=edge_slopes(camera, width=image.shape[1] if bend is None else round(bend.size[0])),
        size=(_street_width(canvas.shape[0]), canvas.shape[0]),
    )
    return np.hstack([canvas, above])


def scene_size(*, width: int, height: int) -> tuple[int, int]:
    """(width, height) of `draw_scene`'s picture for a photograph of this size."""
    zoom = _scene_zoom(height)
    return round(width * zoom) + _street_width(round(height * zoom)), round(height * zoom)


def _scene_zoom(height: int) -> float:
    return max(1.0, _LEAST_SCENE_HEIGHT / height)


def _street_width(height: int) -> int:
    return height * 9 // 10


def _solid(objects: Objects) -> Objects:
    """The objects that have a 3D box: not `DontCare`, no unknown dimensions."""
    return objects[(objects.dimensions > 0).all(-1)]


def _caption(row: Objects) -> str:
    score = "" if row.scores is None else f" {row.scores[0]:.2f}"
    return f"{row.names[0]}{score} · {row.bottom[0, 2]:.0f} m"


def _enlarge(image: Pixels, zoom: float) -> Pixels:
    if zoom == 1:
        return image.copy()
    size = (round(image.shape[1] * zoom), round(image.shape[0] * zoom))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
