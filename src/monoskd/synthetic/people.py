"""Pedestrians and cyclists: tubes for limbs, an oval for the head, two rings for a bicycle's wheels."""

import numpy as np
from numpy.random import Generator

from monoskd.synthetic.meshes import Colour, Floats, Material, Mesh, ellipsoid, surface, tube

_SKIN: tuple[Colour, ...] = ((0.55, 0.33, 0.24), (0.45, 0.26, 0.17), (0.20, 0.11, 0.07))
_HAIR: tuple[Colour, ...] = ((0.02, 0.015, 0.01), (0.10, 0.06, 0.03), (0.32, 0.24, 0.12), (0.25, 0.25, 0.25))
_CLOTHES: tuple[Colour, ...] = (
    (0.02, 0.02, 0.025),
    (0.03, 0.05, 0.13),
    (0.10, 0.10, 0.11),
    (0.55, 0.54, 0.52),
    (0.30, 0.03, 0.03),
    (0.05, 0.12, 0.25),
    (0.20, 0.16, 0.09),
    (0.06, 0.14, 0.06),
    (0.45, 0.32, 0.05),
)
_STEEL: Colour = (0.05, 0.05, 0.055)


def pedestrian(rng: Generator, dimensions: Floats) -> Mesh:
    """A pedestrian who walks or stands and fills the box (h, w, l) [m] exactly; the stride is as long as the box."""
    height, width, length = dimensions
    jacket, trousers = _pick(rng, _CLOTHES), _pick(rng, _CLOTHES)
    hip, shoulder = -0.50 * height, -0.81 * height
    step, swing = 0.42 * length, 0.40 * length
    parts = []
    for side in (-1, 1):
        z, x = side * 0.17 * width, side * step
        knee = (0.35 * x + 0.04, 0.5 * hip, z)
        parts.append(tube([(0, hip, z), knee, (x, -0.03 * height, z)], [0.085, 0.065, 0.045], trousers))
        parts.append(ellipsoid((x + 0.06, -0.03 * height, z), (0.13, 0.05, 0.05), _STEEL, sides=6))
        arm = [(0, shoulder, side * 0.36 * width), (-0.6 * side * swing, 0.5 * (hip + shoulder), side * 0.45 * width)]
        parts.append(tube([*arm, (-side * swing + 0.05, hip, side * 0.44 * width)], [0.055, 0.05, 0.04], jacket))
    parts += _torso((0, hip, 0), (0.02, shoulder, 0), half_width=0.36 * width, colour=jacket)
    parts += _head(rng, (0.03, -0.925 * height, 0), size=0.075 * height)
    return Mesh.join(parts).fitted(dimensions)


def cyclist(rng: Generator, dimensions: Floats) -> Mesh:
    """A cyclist with the bicycle, together in the box (h, w, l) [m]."""
    height, width, length = dimensions
    jacket, trousers, frame = (_pick(rng, _CLOTHES) for _ in range(3))
    radius = 0.19 * length
    rear, front = np.array([-0.5 * length + radius, -radius, 0]), np.array([0.5 * length - radius, -radius, 0])
    saddle, bars, crank = (
        np.array([-0.16 * length, -0.53 * height, 0]),
        np.array([0.24 * length, -0.58 * height, 0]),
        np.array([-0.04 * length, -radius, 0]),
    )
    handle = np.array([0, 0, 0.42 * width])
    parts = [_ring(wheel, radius) for wheel in (rear, front)]
    for a, b in ((rear, saddle), (rear, crank), (crank, saddle), (crank, bars), (saddle, bars), (bars, front)):
        parts.append(tube([a, b], [0.022, 0.022], frame, Material.PAINT, sides=4))
    parts.append(tube([bars - handle, bars + handle], [0.02, 0.02], _STEEL, sides=4))
    hip, shoulder = saddle - [0, 0.04 * height, 0], np.array([0.06 * length, -0.82 * height, 0])
    for side in (-1, 1):
        out = np.array([0, 0, side * 0.16 * width])
        foot = crank + out + [0.09 * side, 0.09 * side + 0.02, 0]
        knee = 0.5 * (hip + foot) + [0.16, -0.06, 0] + 0.5 * out
        parts.append(tube([hip + out, knee], [0.085, 0.065], trousers))
        parts.append(tube([knee, foot], [0.062, 0.045], trousers))
        arm = np.array([0, 0, side * 0.36 * width])
        parts.append(tube([shoulder + arm, bars + 1.15 * arm], [0.052, 0.04], jacket))
    parts += _torso(hip, shoulder, half_width=0.34 * width, colour=jacket)
    parts += _head(rng, shoulder + np.array([0.09, -0.105 * height, 0]), size=0.072 * height)
    return Mesh.join(parts).fitted(dimensions)


def _torso(
    hip: Floats | tuple[float, ...], shoulder: Floats | tuple[float, ...], *, half_width: float, colour: Floats
) -> list[Mesh]:
    hip, shoulder = np.asarray(hip), np.asarray(shoulder)
    spine = [hip + share * (shoulder - hip) for share in (-0.08, 0.3, 0.8, 1.0, 1.12)]
    oval = [(0.11, 0.62), (0.105, 0.66), (0.13, 0.92), (0.11, 0.9), (0.03, 0.2)]
    return [tube(spine, [(thick, share * half_width) for thick, share in oval], colour, sides=8)]


def _head(rng: Generator, centre: Floats | tuple[float, ...], *, size: float) -> list[Mesh]:
    centre = np.asarray(centre)
    face, hair = _pick(rng, _SKIN), _pick(rng, _HAIR)
    return [
        ellipsoid(centre, (0.8 * size, size, 0.72 * size), face),
        ellipsoid(centre - np.array([0.18 * size, 0.22 * size, 0]), (0.78 * size, 0.9 * size, 0.78 * size), hair),
    ]


def _ring(centre: Floats, radius: float, *, sides: int = 12) -> Mesh:
    """A tyre: an upright ring of square section."""
    turn = np.linspace(0, 2 * np.pi, sides + 1)
    rim = np.stack([np.cos(turn), np.sin(turn), 0 * turn], -1)
    section = [(1.0, -0.02), (1.0, 0.02), (0.86, 0.02), (0.86, -0.02), (1.0, -0.02)]
    rings = [centre + radius * share * rim + [0, 0, offset] for share, offset in section]
    return surface(np.stack(rings), (0.02, 0.02, 0.02), smooth=False)


def _pick(rng: Generator, colours: tuple[Colour, ...]) -> Floats:
    return np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.75, 1.25)
