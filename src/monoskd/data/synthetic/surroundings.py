"""What stands beside the road and has no label: houses, trees, hedges, poles, signs, fences."""

import numpy as np
from numpy.random import Generator

from monoskd.data.synthetic.meshes import Colour, Floats, Material, Mesh, cuboid, ellipsoid, polygon, tube
from monoskd.data.synthetic.street import KERB_M, Street

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
    parts = []
    s = rng.uniform(2, 14)
    row = street.edge - 0.6 if street.kind == "avenue" else street.edge + 1.0
    while s < FAR_M:
        if rng.random() < street.planted and (street.crossing is None or abs(s - street.crossing) > 7):
            d = side * (
                row
                + (rng.uniform(0, 9) if street.verge == "grass" and street.kind != "avenue" else rng.uniform(0, 0.4))
            )
            if rng.random() < (0.35 if street.verge == "grass" else 0.08):
                parts.append(_bush(rng, rng.uniform(0.8, 2.6)).placed(street.position(d, s), yaw=street.yaw(s)))
            else:
                parts.append(_tree(rng, rng.uniform(5, 11)).placed(street.position(d, s), yaw=0.0))
        s += rng.uniform(3.5, 12)
    if street.kind in ("country", "avenue"):
        distance = street.edge + rng.uniform(10, 18)
        for s in np.arange(rng.uniform(0, 8), FAR_M, 9.0):
            d = side * (distance + rng.uniform(0, 4))
            parts.append(_tree(rng, rng.uniform(7, 12), leaves=90).placed(street.position(d, s), yaw=0.0))
    return parts


def _tree(rng: Generator, height: float, leaves: int = 150) -> Mesh:
    spread = height * rng.uniform(0.20, 0.32)
    green = np.array(_LEAVES[rng.integers(len(_LEAVES))]) * rng.uniform(0.8, 1.25)
    trunk = rng.uniform(0.25, 0.38) * height
    parts = [
        tube(
            [(0, 0.2, 0), (0, -trunk, 0), (0, -0.7 * height, 0)],
            [0.022 * height, 0.016 * height, 0.005 * height],
            _BARK,
        )
    ]
    middle, rise = -(trunk + height) / 2, (height - trunk) / 2
    for _ in range(4):
        shift = rng.normal(0, 0.32, 3) * [spread, rise, spread]
        size = rng.uniform(0.52, 0.72)
        parts.append(
            _crown(rng, np.array([0, middle, 0]) + shift, np.array([spread, rise, spread]) * size, green, leaves // 4)
        )
    return Mesh.join(parts)


def _bush(rng: Generator, height: float) -> Mesh:
    green = np.array(_LEAVES[rng.integers(len(_LEAVES))]) * rng.uniform(0.7, 1.2)
    length = rng.uniform(0.8, 3.0)
    radii = np.array([length, 0.62 * height, 0.5 * height])
    return _crown(rng, np.array([0, -0.45 * height, 0]), radii, green, 70)


def _crown(rng: Generator, centre: Floats, radii: Floats, green: Floats, leaves: int) -> Mesh:
    """A dark ball wrapped in tufts of leaves: triangles near its surface, lit as the ball is."""
    core = ellipsoid(centre, 0.88 * radii, 0.75 * green, Material.FOLIAGE)
    out = rng.normal(size=(leaves, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    at = centre + out * radii * rng.uniform(0.80, 1.12, (leaves, 1))
    tuft = 0.26 * radii.mean() * rng.uniform(0.6, 1.3, (leaves, 1, 1))
    corners = at[:, None] + rng.normal(0, 1.0, (leaves, 3, 3)) * tuft
    normals = np.repeat((0.8 * out + 0.2 * rng.normal(size=out.shape))[:, None], 3, 1)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    colour = green * rng.uniform(0.65, 1.5, (leaves, 1)) * rng.uniform(0.9, 1.1, (leaves, 3))
    tufts = Mesh(
        corners, normals, np.zeros((leaves, 3, 2)), colour, np.full(leaves, Material.FOLIAGE), np.full(leaves, -1)
    )
    return Mesh.join([core, tufts])


def _furniture(rng: Generator, street: Street, side: int) -> list[Mesh]:
    parts = []
    line = side * (street.half_width + KERB_M + 0.45)
    lamps, start = rng.uniform(22, 38), rng.uniform(4, 25)
    for s in np.arange(start, FAR_M, lamps):
        parts.append(_lamp(rng.uniform(5, 8), reach=-side * 1.4).placed(street.position(line, s), yaw=street.yaw(s)))
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


def _lamp(height: float, reach: float) -> Mesh:
    pole = tube([(0, 0.2, 0), (0, -height, 0)], [0.075, 0.05], _STEEL)
    arm = tube([(0, -height, 0), (0, -height - 0.15, reach)], [0.04, 0.04], _STEEL, sides=4)
    return Mesh.join(
        [pole, arm, cuboid((-0.12, -height - 0.25, reach - 0.3), (0.12, -height - 0.1, reach + 0.3), (0.4, 0.4, 0.38))]
    )


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
        parts.append(tube([a + [0, 0.2, 0], a - [0, top, 0]], [0.07, 0.07], colour, sides=4))
    return Mesh.join(parts)
