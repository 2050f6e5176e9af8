"""The road users, which are the labelled objects.

Sizes: mean and standard deviation of (h, w, l) [m] over the official training labels, all 7481 frames
(`benchmarks/synthetic.py statistics` prints them).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from monoskd.synthetic.meshes import Floats, Mesh
from monoskd.synthetic.people import cyclist, pedestrian
from monoskd.synthetic.street import KERB_M, LANE_M, Street
from monoskd.synthetic.vehicles import CAR_STYLES, VAN_STYLES, car, truck

SIZES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "Car": ((1.526, 1.629, 3.884), (0.137, 0.102, 0.426)),
    "Pedestrian": ((1.761, 0.660, 0.842), (0.113, 0.143, 0.235)),
    "Cyclist": ((1.737, 0.597, 1.764), (0.095, 0.124, 0.177)),
    "Van": ((2.207, 1.902, 5.078), (0.325, 0.173, 0.831)),
    "Truck": ((3.252, 2.585, 10.109), (0.449, 0.216, 2.858)),
}
_SMALLEST: dict[str, tuple[float, float, float]] = {
    "Car": (1.25, 1.4, 2.6),
    "Pedestrian": (1.2, 0.4, 0.4),
    "Cyclist": (1.45, 0.35, 1.4),
    "Van": (1.7, 1.6, 3.8),
    "Truck": (2.4, 2.1, 5.0),
}
FAR_M = 85.0
_EGO = (0.0, 0.0, 1.6)  # x, z, radius [m]: keep the camera's own car free


@dataclass(frozen=True)
class Actor:
    """An object with a label: class, box in the camera frame (bottom centre, (h, w, l) [m], yaw [rad]) and mesh."""

    name: str
    bottom: Floats
    dimensions: Floats
    yaw: float
    mesh: Mesh


@dataclass(frozen=True)
class _Wish:
    """A candidate place for a road user; turn [rad]: against the direction away from the camera."""

    name: str
    d: float
    s: float
    turn: float


def sample_traffic(rng: Generator, street: Street) -> list[Actor]:
    """All road users: parked rows, lanes, side street, pavements; a later one that would collide is left out."""
    wishes = [
        *_parked(rng, street),
        *_driving(rng, street),
        *_crossing(rng, street),
        *_on_foot(rng, street),
        *_riding(rng, street),
    ]
    taken = np.array([_EGO])
    actors: list[Actor] = []
    for wish in wishes:
        dimensions = sample_size(rng, wish.name)
        yaw = street.yaw(wish.s) + wish.turn
        yaw = float((yaw + np.pi) % (2 * np.pi) - np.pi)
        bottom = street.position(wish.d, wish.s)
        circles = _circles(bottom, dimensions, yaw)
        gap = (
            np.hypot(*(circles[:, None, :2] - taken[None, :, :2]).transpose(2, 0, 1))
            - circles[:, None, 2]
            - taken[:, 2]
        )
        if gap.min() > 0.1 and bottom[2] > 1.5:
            taken = np.concatenate([taken, circles])
            mesh = build(rng, wish.name, dimensions).placed(bottom, yaw=yaw).owned(len(actors))
            actors.append(Actor(wish.name, bottom, dimensions, yaw, mesh))
    return actors


def sample_size(rng: Generator, name: str) -> Floats:
    """(h, w, l) [m] of a class, spread as in KITTI; large ones are large in every direction."""
    mean, spread = (np.array(row) for row in SIZES[name])
    shared = rng.normal() if name in ("Van", "Truck") else 0.0
    weight = 0.8 if name in ("Van", "Truck") else 0.0
    noise = weight * shared + np.sqrt(1 - weight**2) * rng.normal(size=3)
    return np.asarray(np.maximum(mean + spread * np.clip(noise, -2.2, 2.2), _SMALLEST[name]))


def build(rng: Generator, name: str, dimensions: Floats) -> Mesh:
    """A mesh of the class that fills a box of (h, w, l) [m] on the origin."""
    if name == "Pedestrian":
        return pedestrian(rng, dimensions)
    if name == "Cyclist":
        return cyclist(rng, dimensions)
    if name == "Truck":
        return truck(rng, dimensions)
    return car(rng, dimensions, str(rng.choice(VAN_STYLES if name == "Van" else CAR_STYLES)))


def _circles(bottom: Floats, dimensions: Floats, yaw: float) -> Floats:
    """A footprint as circles k x (x, z, radius) along its length."""
    _, width, length = dimensions
    radius = 0.55 * width
    count = max(1, int(np.ceil(length / width * 1.2)))
    along = np.linspace(-0.5, 0.5, count) * max(length - width, 0.0)
    return np.stack([bottom[0] + along * np.cos(yaw), bottom[2] - along * np.sin(yaw), np.full(count, radius)], 1)


def _vehicle(rng: Generator, *, trucks: float = 0.03) -> str:
    return str(rng.choice(["Car", "Van", "Truck"], p=[0.93 - trucks, 0.07, trucks]))


def _clear_of(street: Street, s: float, margin: float) -> bool:
    return street.crossing is None or abs(s - street.crossing) > margin


def _parked(rng: Generator, street: Street) -> Iterator[_Wish]:
    """Rows along the kerb, and cars in drives and yards beside the street."""
    for side in (-1, 1):
        full, end = rng.beta(0.9, 1.0) * (street.parking > 0), 6 + rng.exponential(22)
        s = rng.uniform(-3, 4)
        while s < min(end, FAR_M):
            if rng.random() < full and _clear_of(street, s, 8):
                d = side * (street.half_width - 1.05 + rng.normal(0, 0.10))
                turn = np.pi * (rng.random() < (0.85 if side < 0 else 0.08))
                yield _Wish(_vehicle(rng, trucks=0.0), d, s, turn + rng.normal(0, 0.025))
            s += rng.uniform(4.9, 6.6)
        if rng.random() < (0.42 if street.verge == "paved" else 0.30):
            d = side * (street.edge + rng.uniform(1.5, 9.0))
            s = 6 + rng.exponential(18)
            for _ in range(rng.integers(1, 6)):
                yield _Wish(
                    _vehicle(rng, trucks=0.01), d, s, side * np.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.08)
                )
                s += rng.uniform(2.5, 3.2)


def _driving(rng: Generator, street: Street) -> Iterator[_Wish]:
    """Lanes both ways, with gaps that close in dense traffic."""
    fast = street.kind in ("country", "avenue")
    mean_gap = (34.0 if fast else 46.0) / max(0.3, street.busy)
    for lane in range(street.lanes):
        for side in (-1, 1):
            s = rng.uniform(4, 12) + rng.exponential(mean_gap) * (1.0 if side > 0 else 0.8)
            while s < FAR_M:
                d = side * (lane + 0.5) * LANE_M + rng.normal(0, 0.22)
                turn = (np.pi if side < 0 else 0.0) + rng.normal(0, 0.03)
                yield _Wish(_vehicle(rng, trucks=0.09 if fast else 0.03), d, s, turn)
                s += 5.5 + rng.exponential(mean_gap * (0.3 + s / 24))


def _crossing(rng: Generator, street: Street) -> Iterator[_Wish]:
    """Along the side street, and some that turn."""
    if street.crossing is None:
        return
    for side in (-1, 1):
        d = rng.uniform(-4, 10)
        for _ in range(rng.poisson(0.9 * street.busy)):
            s = street.crossing + side * 1.7 + rng.normal(0, 0.25)
            turn = side * np.pi / 2 + rng.normal(0, 0.06) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
            yield _Wish(_vehicle(rng), -side * d, s, turn)
            d += 6 + rng.exponential(8)


def _on_foot(rng: Generator, street: Street) -> Iterator[_Wish]:
    """Groups on the pavements, at the crossing, now and then across the road."""
    chance = {"plaza": 0.85, "urban": 0.42, "residential": 0.17, "avenue": 0.08, "country": 0.03}[street.kind]
    if rng.random() > chance:
        return
    for _ in range(1 + rng.poisson({"plaza": 2.6, "urban": 1.0}.get(street.kind, 0.5))):
        s = 4 + rng.gamma(1.3, 10.0)
        across = rng.random() < (0.6 if street.kind == "plaza" else 0.3)
        side = rng.choice([-1, 1], p=[0.35, 0.65])
        middle = (
            rng.uniform(-0.7, 1.2) * street.half_width
            if across
            else side * (street.half_width + KERB_M + rng.uniform(0.4, max(0.6, street.pavement)))
        )
        heading = rng.choice([-1, 1]) * np.pi / 2 if across else rng.choice([0, np.pi])
        for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.50, 0.30, 0.13, 0.07]))):
            turn = heading + rng.normal(0, 0.25) if rng.random() < 0.85 else rng.uniform(-np.pi, np.pi)
            yield _Wish("Pedestrian", middle + rng.normal(0, 0.5), s + rng.normal(0, 1.1), turn)


def _riding(rng: Generator, street: Street) -> Iterator[_Wish]:
    """Cyclists at the road's edge or on the pavement."""
    for _ in range(
        rng.poisson({"plaza": 0.55, "urban": 0.45, "residential": 0.22, "avenue": 0.2}.get(street.kind, 0.08))
    ):
        side = rng.choice([-1, 1], p=[0.35, 0.65])
        d = side * (
            street.lanes * LANE_M
            - 0.5
            + rng.normal(0, 0.25)
            + (street.pavement * 0.7 + street.parking) * (rng.random() < 0.4)
        )
        turn = (np.pi if side < 0 else 0.0) + rng.normal(0, 0.12)
        yield _Wish("Cyclist", d, 4 + rng.gamma(1.9, 12.0), turn if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi))
