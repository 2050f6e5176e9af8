"""Cars, vans and trucks: a lofted body, a glass house on it, wheels, lamps and plates."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator

from monoskd.synthetic.meshes import Colour, Floats, Material, Mesh, cuboid, disc, polygon, surface, tube


@dataclass(frozen=True)
class Profile:
    """A car seen from the side, in shares of its length (rear -0.5, front 0.5) and height.

    deck: (x, height of the lower body's top) from rear to front; cabin: x of the rear window's foot, the roof's rear
    and front, and the windscreen's foot; sill: height of the lower edge; closed: the rear side panels are steel, not
    glass.
    """

    deck: tuple[tuple[float, float], ...]
    cabin: tuple[float, float, float, float]
    sill: float = 0.14
    closed: bool = False


_HOOD = ((0.22, 0.62), (0.40, 0.56), (0.48, 0.50), (0.5, 0.44))
PROFILES = {
    "sedan": Profile(((-0.5, 0.56), (-0.48, 0.63), (-0.33, 0.65), *_HOOD), (-0.41, -0.24, 0.03, 0.24)),
    "hatchback": Profile(((-0.5, 0.52), (-0.48, 0.58), (-0.30, 0.62), *_HOOD), (-0.485, -0.37, 0.06, 0.27)),
    "estate": Profile(((-0.5, 0.54), (-0.48, 0.60), (-0.30, 0.63), *_HOOD), (-0.49, -0.43, 0.05, 0.25)),
    "suv": Profile(
        ((-0.5, 0.54), (-0.48, 0.59), (-0.30, 0.61), (0.24, 0.62), (0.44, 0.58), (0.49, 0.53), (0.5, 0.46)),
        (-0.49, -0.43, 0.08, 0.25),
        sill=0.20,
    ),
    "minivan": Profile(
        ((-0.5, 0.46), (-0.485, 0.50), (-0.30, 0.51), (0.34, 0.52), (0.46, 0.45), (0.5, 0.36)),
        (-0.495, -0.46, 0.16, 0.38),
        sill=0.15,
    ),
    "panel_van": Profile(
        ((-0.5, 0.46), (-0.485, 0.50), (-0.30, 0.50), (0.36, 0.50), (0.46, 0.43), (0.5, 0.34)),
        (-0.498, -0.485, 0.24, 0.40),
        sill=0.16,
        closed=True,
    ),
}
CAR_STYLES = ("sedan", "hatchback", "estate", "suv")
VAN_STYLES = ("minivan", "panel_van")

_PAINTS: tuple[Colour, ...] = (
    (0.72, 0.72, 0.72),  # white
    (0.42, 0.43, 0.45),  # silver
    (0.13, 0.135, 0.145),  # grey
    (0.018, 0.018, 0.022),  # black
    (0.025, 0.05, 0.16),  # dark blue
    (0.07, 0.18, 0.42),  # blue
    (0.34, 0.02, 0.025),  # red
    (0.035, 0.10, 0.06),  # green
    (0.40, 0.34, 0.22),  # beige
    (0.55, 0.36, 0.02),  # yellow
    (0.45, 0.13, 0.02),  # orange
)
_PAINT_SHARES = np.array([0.17, 0.24, 0.16, 0.18, 0.07, 0.05, 0.06, 0.02, 0.03, 0.01, 0.01])
_COAT: Colour = (1.0, 1.0, 1.0)
_GLASS: Colour = (0.012, 0.015, 0.018)
_RUBBER: Colour = (0.012, 0.012, 0.013)
_RIM: Colour = (0.30, 0.31, 0.32)
_PLASTIC: Colour = (0.02, 0.02, 0.022)
_WHITE: Colour = (0.75, 0.75, 0.70)
_RED: Colour = (0.38, 0.012, 0.012)
_CLEAR: Colour = (0.70, 0.70, 0.66)


_MODELS = 4  # of each style: other rims and wheels
_LORRIES = 8


def car(rng: Generator, dimensions: Floats, style: str) -> Mesh:
    """A car or van of a style in `PROFILES` that fills the box (h, w, l) [m] exactly."""
    return _car_model(style, int(rng.integers(_MODELS))).painted(paint_colour(rng)).fitted(dimensions)


def truck(rng: Generator, dimensions: Floats) -> Mesh:
    """A lorry: cab, gap, and a load box or tarpaulin; fills the box (h, w, l) [m] exactly."""
    return _lorry_model(int(rng.integers(_LORRIES))).painted(paint_colour(rng)).fitted(dimensions)


@cache
def _car_model(style: str, variant: int) -> Mesh:
    """One of a style's models, painted white, as large as they commonly are."""
    rng, profile = np.random.default_rng(variant), PROFILES[style]
    dimensions = np.array((2.1, 1.9, 5.0) if style in VAN_STYLES else (1.53, 1.63, 3.9))
    height, width, length = dimensions
    parts = [*_body(profile, dimensions), _cabin(profile, dimensions)]
    radius = min(0.215 * height, 0.36) * rng.uniform(0.95, 1.05)
    rim = _PLASTIC if variant == 0 else _RIM
    for axle in (0.31 * length, -rng.uniform(0.27, 0.31) * length):
        parts += _wheels(axle, radius=radius, half_width=width / 2, rim=rim, arch=True)
    return Mesh.join(parts + _ends(profile, dimensions))


@cache
def _lorry_model(variant: int) -> Mesh:
    rng = np.random.default_rng(variant)
    height, width, length = 3.25, 2.6, rng.uniform(6.5, 13.0)
    half, front, rear = width / 2, length / 2, -length / 2
    cab_back, floor = front - min(2.1, 0.3 * length), 0.28 * height
    cab_top = -height * rng.uniform(0.72, 0.95)
    cargo = _WHITE if variant % 2 else tuple(paint_colour(rng))
    parts = [
        cuboid((cab_back, cab_top, -half * 0.95), (front - 0.05, -0.16 * height, half * 0.95), _COAT, Material.PAINT),
        cuboid((rear, -height, -half), (cab_back - 0.25, -floor, half), cargo),
        cuboid((rear + 0.1, -floor, -half * 0.6), (front - 0.4, -0.12 * height, half * 0.6), _PLASTIC),
    ]
    glass = 0.55 * cab_top, 0.90 * cab_top
    parts.append(_panel(front - 0.04, (-half * 0.86, half * 0.86), glass, _GLASS, Material.GLASS, 1))
    parts.append(
        _panel(front, (-half * 0.9, half * 0.9), (-0.14 * height, -0.19 * height), _PLASTIC, Material.MATTE, 1)
    )
    for side in (-1, 1):
        z, back = side * half * 0.955, cab_back + 0.6
        window = [(front - 0.3, glass[0], z), (back, glass[0], z), (back, glass[1], z), (front - 0.5, glass[1], z)]
        parts.append(polygon(window, _GLASS, Material.GLASS, facing=(0, 0, side)))
        lamp = side * half * 0.55, side * half * 0.85
        parts.append(_panel(front - 0.03, lamp, (-0.20 * height, -0.25 * height), _CLEAR, Material.LAMP, 1))
        parts.append(_panel(rear - 0.01, lamp, (-floor * 0.75, -floor * 0.95), _RED, Material.LAMP, -1))
        hinge = side * 0.02, side * 0.05
        parts.append(_panel(rear - 0.01, hinge, (-floor * 1.05, -height * 0.96), _PLASTIC, Material.MATTE, -1))
    for axle in (front - 1.2, rear + 1.3, rear + 2.4)[: 3 if length > 8 else 2]:
        parts += _wheels(axle, radius=0.15 * height, half_width=half * 0.97, rim=_RIM, arch=False)
    return Mesh.join(parts)


def paint_colour(rng: Generator) -> Floats:
    """A car colour, as common as on the road, slightly varied."""
    base = np.array(_PAINTS[rng.choice(len(_PAINTS), p=_PAINT_SHARES)])
    return np.clip(base * rng.uniform(0.8, 1.2) * rng.uniform(0.92, 1.08, 3), 0.01, 0.85)


def _body(profile: Profile, dimensions: Floats) -> list[Mesh]:
    """The lower body: cross-sections from rear to front, and the two end faces."""
    height, width, length = dimensions
    x, deck = np.array(profile.deck).T
    narrow = np.interp(np.abs(x), [0, 0.40, 0.48, 0.5], [1.0, 0.97, 0.90, 0.84]) * width / 2
    up = np.array([0.0, 0.22, 0.60, 0.93, 1.0, 1.02])
    out = np.array([0.94, 1.0, 1.0, 0.965, 0.86, 0.0])
    z = np.concatenate([-out, out[-2::-1]])
    level = np.concatenate([up, up[-2::-1]])
    low = profile.sill * height
    y = -(low + (deck * height - low)[:, None] * level)
    points = np.stack([np.broadcast_to((x * length)[:, None], y.shape), y, narrow[:, None] * z], -1)
    shade = np.ones((len(x) - 1, len(z) - 1, 3))
    shade[:, [0, -1]] = 0.25 if profile.sill > 0.18 else 0.6
    ends = [polygon(points[end], _COAT, Material.PAINT, facing=(side, 0, 0)) for end, side in ((0, -1), (-1, 1))]
    return [surface(points, shade, Material.PAINT), *ends]


def _cabin(profile: Profile, dimensions: Floats) -> Mesh:
    """The glass house: windows between pillars, a roof over them."""
    height, width, length = dimensions
    foot_rear, roof_rear, roof_front, foot_front = profile.cabin
    middle = (roof_rear + roof_front) / 2 - 0.01
    x = np.array([foot_rear, roof_rear, roof_rear + 0.015, middle, middle + 0.018, roof_front, foot_front])
    belt = np.interp(x, *np.array(profile.deck).T) * height
    rise = np.array([0.0, 1, 1, 1, 1, 1, 0])[:, None]
    foot, top = 0.86 * width / 2, 0.70 * width / 2
    out = np.array([1.0, top / foot, 0.86 * top / foot, 0.0])
    up = np.array([0.0, 0.86, 0.985, 1.0])
    z = foot * np.concatenate([-out, out[-2::-1]])
    y = -(belt[:, None] + rise * (height - belt[:, None]) * np.concatenate([up, up[-2::-1]]))
    points = np.stack([np.broadcast_to((x * length)[:, None], y.shape), y, np.broadcast_to(z, y.shape)], -1)
    glass = np.zeros((6, 6), bool)
    glass[[2, 4], 0] = glass[[2, 4], 5] = True  # side windows
    glass[0, 1:5] = glass[5, 1:5] = True  # rear window and windscreen
    if profile.closed:
        glass[:3] = False
    return surface(
        points, np.where(glass[..., None], _GLASS, _COAT), np.where(glass, Material.GLASS, Material.PAINT), smooth=False
    )


def _ends(profile: Profile, dimensions: Floats) -> list[Mesh]:
    """Lamps, plates, grille and bumpers on the two end faces."""
    height, width, length = dimensions
    half, low, parts = 0.84 * width / 2, profile.sill, []
    for side, deck in ((-1, profile.deck[0][1]), (1, profile.deck[-1][1])):

        def add(
            z: tuple[float, float],
            levels: tuple[float, float],
            colour: Colour,
            material: Material = Material.MATTE,
            *,
            side: int = side,
            deck: float = deck,
        ) -> None:
            y = tuple(-height * (low + share * (deck - low)) for share in levels)
            parts.append(_panel(side * (0.5 * length + 0.006), (z[0] * half, z[1] * half), y, colour, material, side))

        for sign in (-1, 1):
            if side > 0:
                add((sign * 0.52, sign * 0.95), (0.70, 0.94), _CLEAR, Material.LAMP)
            else:
                add((sign * 0.66, sign * 0.95), (0.58, 0.93), _RED, Material.LAMP)
        add((-0.28, 0.28), (0.38, 0.52), _WHITE)
        add((-0.9, 0.9), (0.02, 0.22), _PLASTIC)
        if side > 0:
            add((-0.42, 0.42), (0.64, 0.86), _PLASTIC)
    return parts


def _panel(
    x: float, z: tuple[float, float], y: tuple[float, float], colour: Colour, material: Material, side: int
) -> Mesh:
    """An upright rectangle across x that looks forward (`side` 1) or back (-1)."""
    points = [(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])]
    return polygon(points, colour, material, facing=(side, 0, 0))


def _wheels(axle: float, *, radius: float, half_width: float, rim: Colour, arch: bool) -> list[Mesh]:
    """The two wheels of an axle at x = `axle` [m], with the dark of the wheel arch behind them."""
    parts = []
    for side in (-1, 1):
        z = side * (half_width + 0.004)
        centre = np.array([axle, -radius, z])
        inward = np.array([0, 0, -side])
        if arch:
            parts.append(disc(centre + 0.003 * inward - [0, 0.03, 0], 1.16 * radius, _PLASTIC, facing=side))
        parts.append(tube([centre + 0.20 * inward, centre], [radius, radius], _RUBBER, sides=12))
        parts.append(disc(centre, radius, _RUBBER, facing=side))
        parts.append(disc(centre - 0.004 * inward, 0.66 * radius, rim, facing=side, sides=10))
        parts.append(disc(centre - 0.006 * inward, 0.22 * radius, _PLASTIC, facing=side, sides=6))
    return parts
