"""Objects beside the road without labels: houses, trees, hedges, poles, signs, fences."""

from dataclasses import replace
from functools import cache

import numpy as np
from numpy.random import Generator

from monoskd.synthetic.meshes import Colour, Floats, Material, Mesh, cuboid, ellipsoid, polygon, tube
from monoskd.synthetic.street import KERB_M, Street

FAR_M = 110.0
_PLASTER: tuple[Colour, ...] = (
    (0.62, 0.58, 0.50),
    (0.66, 0.64, 0.60),
    (0.55, 0.45, 0.30),
    (0.48, 0.30, 0.22),
    (0.40, 0.40, 0.39),
    (0.60, 0.50, 0.42),
    (0.30, 0.16, 0.11),
)
_ROOFS: tuple[Colour, ...] = ((0.22, 0.07, 0.045), (0.16, 0.06, 0.04), (0.08, 0.08, 0.09), (0.20, 0.11, 0.07))
_LEAVES: tuple[Colour, ...] = (
    (0.045, 0.10, 0.022),
    (0.06, 0.12, 0.03),
    (0.035, 0.08, 0.025),
    (0.10, 0.13, 0.03),
    (0.13, 0.10, 0.03),
)
_BARK: Colour = (0.09, 0.07, 0.05)
_STEEL: Colour = (0.30, 0.31, 0.32)
_PLANTS = 8  # models of each kind


def sample_surroundings(rng: Generator, street: Street) -> list[Mesh]:
    """Both sides of the street up to `FAR_M`, from the kerb outward."""
    parts: list[Mesh] = []
    for side in (-1, 1):
        parts += _houses(rng, street, side)
        parts += _trees(rng, street, side)
        parts += _furniture(rng, street, side)
    return parts


def _houses(rng: Generator, street: Street, side: int) -> list[Mesh]:
    parts = []
    setback = street.edge + rng.uniform(0.2, 1.0) + rng.uniform(2, 6) * (street.verge == "grass")
    s = -rng.uniform(2, 12)
    while s < FAR_M:
        length, depth = rng.uniform(9, 24), rng.uniform(8, 13)
        middle = s + length / 2
        free = street.crossing is None or abs(middle - street.crossing) > length / 2 + 6
        if rng.random() < street.built and free:
            base = street.position(side * (setback + depth / 2 + rng.uniform(0, 1.5)), middle)
            parts.append(
                _house(rng, length, depth, urban=street.kind in ("urban", "plaza")).placed(base, yaw=street.yaw(middle))
            )
        s += length + (rng.uniform(0, 0.5) if street.kind == "urban" else rng.uniform(0.5, 9))
    return parts


def _house(rng: Generator, length: float, depth: float, *, urban: bool) -> Mesh:
    storeys = int(rng.integers(3, 6) if urban else rng.integers(1, 4))
    height = storeys * 2.9 + 0.6
    wall = np.array(_PLASTER[rng.integers(len(_PLASTER))]) * rng.uniform(0.8, 1.15)
    ribbon = rng.random() < 0.15
    material = Material.RIBBON if ribbon else Material.FACADE
    body = cuboid((-length / 2, -height, -depth / 2), (length / 2, 0.6, depth / 2), wall, material)
    cell = np.array([rng.uniform(2.2, 3.4), 2.9])
    body = Mesh(body.corners, body.normals, (body.uv - [0, 0.9]) / cell, body.colour, body.material, body.owner)
    if ribbon or (urban and rng.random() < 0.3):
        return body
    colour = np.array(_ROOFS[rng.integers(len(_ROOFS))]) * rng.uniform(0.8, 1.2)
    rise, over = depth * rng.uniform(0.22, 0.45), 0.35
    half, reach, top = depth / 2, length / 2, -height - rise
    roof = []
    for sign in (-1, 1):
        eave = -height + over * rise / half
        slope = [(-reach - over, eave, sign * (half + over)), (reach + over, eave, sign * (half + over))]
        ridge = [(reach + over, top, 0), (-reach - over, top, 0)]
        roof.append(polygon(slope + ridge, colour, facing=(0, -1, sign)))
        gable = [(sign * reach, -height, -half), (sign * reach, -height, half), (sign * reach, top, 0)]
        roof.append(polygon(gable, wall, facing=(sign, 0, 0)))
    x = rng.uniform(-0.3, 0.3) * length
    roof.append(cuboid((x - 0.35, top - 0.7, -0.35), (x + 0.35, top + 0.8, 0.35), (0.2, 0.1, 0.08)))
    return Mesh.join([body, *roof])


def _trees(rng: Generator, street: Street, side: int) -> list[Mesh]:
    """A row or scattered trees and bushes; wide open streets have a belt of woods behind."""
    parts = []
    avenue, lawn = street.kind == "avenue", street.verge == "grass"
    s = rng.uniform(2, 14)
    while s < FAR_M:
        if rng.random() < street.planted and (street.crossing is None or abs(s - street.crossing) > 7):
            scatter = rng.uniform(0, 9) if lawn and not avenue else rng.uniform(0, 0.4)
            base = street.position(side * (street.edge + (-0.6 if avenue else 1.0) + scatter), s)
            if rng.random() < (0.35 if lawn else 0.08):
                parts.append(_grown(rng, "bush", rng.uniform(0.8, 1.8), base))
            else:
                parts.append(_grown(rng, "tree", rng.uniform(5, 11), base))
        s += rng.uniform(3.5, 12)
    if street.kind in ("country", "avenue"):
        distance = street.edge + rng.uniform(9, 18)
        for s in np.arange(rng.uniform(4, 10), FAR_M, 5.0):
            base = street.position(side * (distance + rng.uniform(0, 4)), s)
            bush = rng.random() < 0.45
            parts.append(
                _grown(rng, "bush" if bush else "tree", rng.uniform(2, 4) if bush else rng.uniform(6, 11), base)
            )
    return parts


def _grown(rng: Generator, kind: str, height: float, base: Floats) -> Mesh:
    """A plant of the nursery, this high [m], at `base`; the nearer, the more leaves."""
    detail = int(np.searchsorted([16.0, 38.0], base[2]))
    model = _plant_model(kind, int(rng.integers(_PLANTS)), detail)
    green = np.array(_LEAVES[rng.integers(len(_LEAVES))]) * rng.uniform(0.75, 1.25)
    size = height * np.array([rng.uniform(0.85, 1.15), 1.0, rng.uniform(0.85, 1.15)])
    leaves = (model.material == Material.FOLIAGE)[:, None]
    grown = replace(model, corners=model.corners * size, colour=np.where(leaves, model.colour * green, model.colour))
    return grown.placed(base, yaw=rng.uniform(0, 2 * np.pi))


@cache
def _plant_model(kind: str, variant: int, detail: int) -> Mesh:
    """A tree or bush 1 m high with white leaves; detail 0 is the finest."""
    rng = np.random.default_rng(variant)
    leaves, sides, balls = ((240, 10, 5), (60, 8, 5), (14, 6, 3))[detail]
    if kind == "bush":
        sizes = rng.uniform(0.34, 0.5, (balls, 3))
        middles = rng.normal(0, 1, (balls, 3)) * [0.4, 0, 0.18] - sizes * [0, 0.8, 0]
        crowns = zip(middles, sizes, strict=True)
        return Mesh.join([_crown(rng, centre, radii, leaves=leaves, sides=sides) for centre, radii in crowns])
    spread, trunk = rng.uniform(0.20, 0.30), rng.uniform(0.22, 0.34)
    reach = np.array([spread, (1 - trunk) / 2, spread])
    spine = [(0, 0.03, 0), (0, -trunk, 0), (rng.normal(0, 0.02), -0.7, 0)]
    parts = [tube(spine, [0.022, 0.015, 0.005], _BARK)]
    for _ in range(balls):
        centre = rng.normal(0, 0.36, 3).clip(-0.55, 0.55) * reach - [0, (1 + trunk) / 2, 0]
        parts.append(_crown(rng, centre, reach * rng.uniform(0.46, 0.66), leaves=leaves, sides=sides))
    return Mesh.join(parts)


def _crown(rng: Generator, centre: Floats, radii: Floats, *, leaves: int, sides: int) -> Mesh:
    """A dark ball wrapped in tufts of leaves: triangles near its surface, lit as the ball is."""
    core = ellipsoid(centre, 0.85 * radii, (0.7, 0.7, 0.7), Material.FOLIAGE, sides=sides)
    out = rng.normal(size=(leaves, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    at = centre + out * radii * rng.uniform(0.80, 1.10, (leaves, 1))
    tuft = min(1.4 / np.sqrt(leaves), 0.13) * radii.mean() * rng.uniform(0.6, 1.3, (leaves, 1, 1))
    corners = at[:, None] + rng.normal(0, 1.0, (leaves, 3, 3)).clip(-1.5, 1.5) * tuft
    normals = np.repeat((0.8 * out + 0.2 * rng.normal(size=out.shape))[:, None], 3, 1)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    colour = rng.uniform(0.65, 1.5, (leaves, 1)) * rng.uniform(0.9, 1.1, (leaves, 3))
    tufts = Mesh(
        corners, normals, np.zeros((leaves, 3, 2)), colour, np.full(leaves, Material.FOLIAGE), np.full(leaves, -1)
    )
    return Mesh.join([core, tufts])


def _furniture(rng: Generator, street: Street, side: int) -> list[Mesh]:
    parts = []
    line = side * (street.half_width + KERB_M + 0.45)
    lamps, start = rng.uniform(22, 38), rng.uniform(4, 25)
    size = rng.uniform(5, 8) / 6
    for s in np.arange(start, FAR_M, lamps):
        lamp = _lamp_model(-side)
        parts.append(replace(lamp, corners=lamp.corners * size).placed(street.position(line, s), yaw=street.yaw(s)))
    for _ in range(rng.poisson(1.6)):
        s = rng.uniform(6, 60)
        parts.append(_sign(rng).placed(street.position(line, s), yaw=street.yaw(s)))
    if rng.random() < (0.45 if street.kind == "country" else 0.25 if street.verge == "grass" else 0.05):
        s0 = rng.uniform(3, 20)
        parts.append(_fence(rng, street, side * (street.edge + 0.3), s0, s0 + rng.uniform(15, 60)))
    for _ in range(rng.poisson(0.8) if street.kind != "country" else 0):
        s = rng.uniform(5, 40)
        bin_ = cuboid(
            (-0.3, -1.05, -0.28), (0.3, 0, 0.28), (0.03, 0.05, 0.04) if rng.random() < 0.6 else (0.05, 0.06, 0.12)
        )
        parts.append(bin_.placed(street.position(side * (street.edge - 0.4), s), yaw=street.yaw(s)))
    return parts


@cache
def _lamp_model(side: int) -> Mesh:
    """A street lamp 6 m high whose arm reaches to `side` (z)."""
    pole = tube([(0, 0.2, 0), (0, -6, 0)], [0.07, 0.045], _STEEL)
    arm = tube([(0, -6, 0), (0, -6.15, 1.3 * side)], [0.04, 0.04], _STEEL, sides=4)
    head = cuboid((-0.12, -6.25, 1.3 * side - 0.3), (0.12, -6.1, 1.3 * side + 0.3), (0.4, 0.4, 0.38))
    return Mesh.join([pole, arm, head])


def _sign(rng: Generator) -> Mesh:
    """A traffic sign that faces the camera's traffic (its back is grey), on a pole."""
    height = rng.uniform(2.2, 2.8)
    pole = tube([(0, 0.2, 0), (0, -height - 0.3, 0)], [0.035, 0.035], _STEEL, sides=5)
    sides = int(rng.choice([3, 4, 12]))
    turn = (np.arange(sides) + (0.5 if sides == 4 and rng.random() < 0.5 else 0.0)) * 2 * np.pi / sides
    colours: tuple[tuple[Colour, Colour], ...] = (
        ((0.45, 0.02, 0.02), (0.75, 0.75, 0.72)),
        ((0.02, 0.08, 0.40), (0.05, 0.16, 0.55)),
        ((0.72, 0.72, 0.70), (0.75, 0.55, 0.02)),
    )
    rim, face = colours[rng.integers(len(colours))]
    parts = [pole]
    for x, size, colour, facing in ((-0.05, 0.38, rim, -1), (-0.055, 0.28, face, -1), (-0.04, 0.38, _STEEL, 1)):
        ring = np.stack([np.full(sides, x), -height - size * np.cos(turn), size * np.sin(turn)], -1)
        parts.append(polygon(ring, colour, facing=(facing, 0, 0)))
    return Mesh.join(parts)


def _fence(rng: Generator, street: Street, d: float, s0: float, s1: float) -> Mesh:
    """A guard rail in the country, a hedge-high wall or wooden fence in town."""
    rail = street.kind == "country"
    top, low = (0.75, 0.42) if rail else (rng.uniform(0.7, 1.7), -0.3)
    colour: Colour = _STEEL if rail else ((0.14, 0.09, 0.05) if rng.random() < 0.5 else (0.38, 0.36, 0.33))
    parts = []
    for s in np.arange(s0, s1, 4.0):
        a, b = street.position(d, s), street.position(d, s + 4.0)
        parts.append(
            polygon([a - [0, low, 0], b - [0, low, 0], b - [0, top, 0], a - [0, top, 0]], colour, facing=(-d, 0, 0))
        )
        parts.append(tube([a - [0, -0.2, 0], a - [0, top, 0]], [0.07, 0.07], colour, sides=4))
    return Mesh.join(parts)
