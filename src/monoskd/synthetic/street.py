"""The kind of street: its course, its lanes, its surroundings, the light.

Everything is stated along the street: s [m] ahead of the camera, d [m] to the right of the road's middle. The street
bends as a parabola, x = d + centre + slope s + curvature s^2 / 2, and the ground is a plane that tilts a little, so
the horizon moves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from monoskd.synthetic.meshes import Floats

CAMERA_HEIGHT_M = 1.65
LANE_M = 3.3
KERB_M = 0.18
HORIZON = 1e-3  # rays that sink less than this a metre see the sky


@dataclass(frozen=True)
class Street:
    """The course of the road and its cross-section; widths in metres.

    centre, slope, curvature: where the road's middle runs; lanes: in each direction; parking: width of the parking
    strip on each side (0: none); pavement: width of the pavement; verge: "paved" up to the houses or "grass"; built,
    planted: how dense houses and trees stand, in [0, 1]; crossing: s of a side street's middle, or None; busy: how
    many people and vehicles there are. ground: (a, b, c) of the plane y = a x + b z + c in the camera frame.
    """

    kind: str
    centre: float
    slope: float
    curvature: float
    lanes: int
    parking: float
    pavement: float
    verge: str
    built: float
    planted: float
    crossing: float | None
    busy: float
    ground: Floats

    @property
    def half_width(self) -> float:
        """From the road's middle to its kerb, parking included."""
        return self.lanes * LANE_M + self.parking

    @property
    def edge(self) -> float:
        """From the road's middle to the far side of the pavement."""
        return self.half_width + KERB_M + self.pavement

    def along(self, x: Any, z: Any) -> Any:
        """d of points of the ground."""
        return x - self.centre - self.slope * z - self.curvature * z * z / 2

    def position(self, d: float, s: float) -> Floats:
        """The ground's point [m] at (d, s), in the camera frame."""
        x = d + self.centre + self.slope * s + self.curvature * s * s / 2
        return np.array([x, self.ground @ [x, s, 1.0], s])

    def ground_depth(self, rays: Floats) -> Floats:
        """z [m] where rays n x 3 from the camera (third coordinate 1) meet the ground; 0 for those that see the sky."""
        descent = rays[:, 1] - rays[:, [0, 2]] @ self.ground[:2]
        depth: Floats = np.where(descent > HORIZON, self.ground[2] / np.maximum(descent, HORIZON), 0.0)
        return depth

    def yaw(self, s: float) -> float:
        """Yaw [rad] of something that drives away from the camera along the street at s."""
        return float(-np.arctan2(1.0, self.slope + self.curvature * s))


_KINDS = ("residential", "urban", "avenue", "country", "plaza")
_KIND_SHARES = np.array([0.36, 0.24, 0.18, 0.12, 0.10])


def sample_street(rng: Generator) -> Street:
    """A street of a German town; the camera drives in its right lane."""
    kind = str(rng.choice(_KINDS, p=_KIND_SHARES))
    lanes = 2 if kind == "avenue" and rng.random() < 0.6 else 1
    parking = {"residential": 2.1, "urban": 2.1 * (rng.random() < 0.6)}.get(kind, 0.0)
    crossing = (
        float(rng.uniform(12, 45))
        if rng.random() < {"urban": 0.55, "plaza": 0.9, "country": 0.1}.get(kind, 0.30)
        else None
    )
    lane = rng.integers(lanes)
    tilt, lean = rng.normal(0, 0.010, 2)
    height = CAMERA_HEIGHT_M + rng.normal(0, 0.02)
    return Street(
        kind=kind,
        centre=-(lane + 0.5) * LANE_M + rng.normal(0, 0.25),
        slope=float(rng.normal(0, 0.02)),
        curvature=float(rng.normal(0, 0.0012)) if rng.random() < 0.6 else 0.0,
        lanes=lanes,
        parking=float(parking),
        pavement=float({"country": 0.0}.get(kind, rng.uniform(1.6, 3.2))) + 2.0 * (kind == "plaza"),
        verge="paved" if kind in ("urban", "plaza") or (kind == "residential" and rng.random() < 0.4) else "grass",
        built={"residential": 0.75, "urban": 0.95, "avenue": 0.30, "country": 0.05, "plaza": 0.8}[kind],
        planted={"residential": 0.45, "urban": 0.25, "avenue": 0.8, "country": 0.85, "plaza": 0.35}[kind]
        * rng.uniform(0.4, 1.3),
        crossing=crossing,
        busy=float(rng.gamma(3.0, 1 / 3.0)),
        ground=np.array([lean, tilt, height]),
    )


@dataclass(frozen=True)
class Weather:
    """The light: towards the sun (unit, camera frame), its strength against the sky's, cloud cover and haze.

    sun_colour, sky_colour: linear RGB; haze: 1 / metres over which things fade into the horizon.
    """

    to_sun: Floats
    sun: float
    sky: float
    clouds: float
    haze: float
    sun_colour: Floats
    sky_colour: Floats
    seed: int

    @property
    def horizon_colour(self) -> NDArray[np.float64]:
        """The colour that distant surfaces fade into."""
        return 0.55 * self.sky_colour + 0.45 * np.array([0.80, 0.82, 0.84])


def sample_weather(rng: Generator) -> Weather:
    """Sunny, or overcast in a third of the frames."""
    overcast = rng.random() < 0.33
    elevation, azimuth = np.radians(rng.uniform(22, 62)), rng.uniform(0, 2 * np.pi)
    level = np.cos(elevation)
    warm = np.clip((40 - np.degrees(elevation)) / 40, 0, 1)
    clear = np.array([0.30, 0.50, 0.86])
    grey = np.array([0.66, 0.70, 0.75])
    clouds = rng.uniform(0.85, 1.0) if overcast else rng.uniform(0.0, 0.65)
    return Weather(
        to_sun=np.array([level * np.cos(azimuth), -np.sin(elevation), level * np.sin(azimuth)]),
        sun=float(rng.uniform(0.0, 0.10) if overcast else rng.uniform(1.5, 2.3)),
        sky=float(rng.uniform(0.72, 0.95) if overcast else rng.uniform(0.34, 0.48)),
        clouds=float(clouds),
        haze=float(rng.uniform(0.0005, 0.0025)),
        sun_colour=np.array([1.0, 0.95 - 0.10 * warm, 0.86 - 0.25 * warm]),
        sky_colour=grey if overcast else clear * rng.uniform(0.9, 1.1),
        seed=int(rng.integers(1 << 30)),
    )
