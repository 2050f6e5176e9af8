"""The colour of the ground: asphalt, lane markings, kerb, pavement, verge; edges are antialiased over a pixel."""

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from monoskd.synthetic.meshes import Floats
from monoskd.synthetic.street import KERB_M, LANE_M, Street

_NOISE_SIZE = 1024
_ASPHALT = np.array([0.115, 0.115, 0.12])
_PAVING = np.array([0.27, 0.255, 0.235])
_KERB = np.array([0.36, 0.35, 0.33])
_GRASS = np.array([0.085, 0.125, 0.035])
_YARD = np.array([0.22, 0.20, 0.175])
_PAINT = np.array([0.62, 0.62, 0.60])


@cache
def noise() -> NDArray[np.float32]:
    """A seamless tile of 1024 x 1024 values of mean 0 and deviation 1, with octaves from 1 to 256 texels."""
    rng = np.random.default_rng(20)
    total = np.zeros((_NOISE_SIZE, _NOISE_SIZE), np.float32)
    for octave in range(9):
        cells = _NOISE_SIZE >> octave
        grid = rng.normal(size=(cells, cells)).astype(np.float32)
        wrapped = np.pad(grid, 2, mode="wrap")
        large = cv2.resize(wrapped, None, fx=1 << octave, fy=1 << octave, interpolation=cv2.INTER_LINEAR)
        edge = 2 << octave
        total += large[edge : edge + _NOISE_SIZE, edge : edge + _NOISE_SIZE] * np.float32(0.75 + 0.12 * octave)
    return np.asarray((total - total.mean()) / total.std(), np.float32)


def sample_noise(a: Any, b: Any, *, texel: float) -> NDArray[np.float32]:
    """The noise tile laid over the plane of coordinates (a, b), one texel in `texel` units."""
    scale = np.float32(1 / texel)
    column = (np.asarray(a, np.float32) * scale).astype(np.int64) & (_NOISE_SIZE - 1)
    row = (np.asarray(b, np.float32) * scale).astype(np.int64) & (_NOISE_SIZE - 1)
    values: NDArray[np.float32] = noise()[row, column]
    return values


def stripe(distance: Any, half_width: float, footprint: Any) -> Any:
    """How much of a footprint lies within half_width of a line at signed `distance`: a box filter. All in metres."""
    low = np.maximum(distance - footprint / 2, -half_width)
    high = np.minimum(distance + footprint / 2, half_width)
    return np.clip((high - low) / footprint, 0, 1)


def ground_colour(street: Street, x: Floats, z: Floats, *, across: Floats, along: Floats) -> Floats:
    """Albedo n x 3 at ground points (x, z) [m]; across, along: what a pixel covers there sideways and forward [m]."""
    d, s = street.along(x, z), z
    side = np.full_like(s, np.inf) if street.crossing is None else s - street.crossing
    junction = stripe(side, LANE_M + 0.3, along)
    kerb_at = np.abs(d) - street.half_width
    road = np.maximum(stripe(d, street.half_width, across), junction)
    fine = sample_noise(x, z, texel=0.025) / (1 + 6 * along)
    broad = sample_noise(d, s * 0.35, texel=0.11)
    verge = _verge(street, x, z, broad)
    pavement = stripe(kerb_at - KERB_M - street.pavement / 2, street.pavement / 2, across)[:, None]
    slabs = 1 - 0.25 * np.maximum(_joints(d, 0.5, 0.015, across), _joints(s, 0.5, 0.015, along))[:, None]
    colour = verge + pavement * (_PAVING * slabs * (1 + 0.07 * broad + 0.05 * fine)[:, None] - verge)
    kerb = stripe(kerb_at - KERB_M / 2, KERB_M / 2, across)[:, None]
    colour += kerb * (_KERB * (1 + 0.08 * fine)[:, None] - colour)
    colour *= 1 - 0.45 * stripe(kerb_at, 0.04, across)[:, None]  # the gutter, in the kerb's shade
    worn = 1 + 0.10 * broad + 0.16 * fine - 0.10 * np.exp(-(((np.abs(d) % LANE_M - LANE_M / 2) / 0.5) ** 2))
    asphalt = _ASPHALT * worn.astype(np.float64)[:, None]
    colour += road[:, None] * (asphalt - colour)
    paint = _markings(street, d, s, side, across, along) * (0.80 + 0.12 * np.clip(fine, -1, 1))
    colour += paint[:, None] * (_PAINT - colour)
    return np.asarray(np.clip(colour, 0.005, 1), np.float64)


def _verge(street: Street, x: Floats, z: Floats, broad: Any) -> Floats:
    if street.verge == "paved":
        return np.asarray(_YARD * (1 + 0.10 * broad)[:, None])
    patches = np.clip(0.5 + 0.35 * sample_noise(x, z, texel=0.23), 0, 1)[:, None]
    blades = sample_noise(z, x, texel=0.05)
    lawn = _GRASS + patches * np.array([0.035, 0.012, 0.012])
    return np.asarray(lawn * (1 + 0.20 * blades)[:, None])


def _joints(coordinate: Floats, spacing: float, half_width: float, footprint: Floats) -> Any:
    """Lines every `spacing` metres; where a pixel covers several, their mean."""
    nearest = np.abs((coordinate / spacing + 0.5) % 1 - 0.5) * spacing
    return np.where(footprint < spacing, stripe(nearest, half_width, footprint), 2 * half_width / spacing)


def _markings(street: Street, d: Floats, s: Floats, side: Floats, across: Floats, along: Floats) -> Any:
    """Centre line, lane lines, edge lines, parking bays, a stop line and a zebra at the side street."""
    clear = np.abs(side) > LANE_M + 2.5
    dash = np.clip((1.5 - np.abs(s % 9.0 - 4.5) + along / 2) / along, 0, 1)
    dashed = np.where(along < 6, np.clip(dash, 0, 1), 1 / 3)
    carriageway = street.lanes * LANE_M
    paint = stripe(d, 0.06, across) * (dashed if street.lanes == 1 else 1.0)
    for lane in range(1, street.lanes):
        paint = np.maximum(paint, stripe(np.abs(d) - lane * LANE_M, 0.06, across) * dashed)
    if street.kind in ("country", "avenue"):
        paint = np.maximum(paint, stripe(np.abs(d) - carriageway + 0.25, 0.06, across))
    if street.parking > 0:
        bays = stripe(np.abs(d) - carriageway - street.parking / 2, street.parking / 2, across) * _joints(
            s, 5.5, 0.05, along
        )
        paint = np.maximum(paint, np.maximum(bays, stripe(np.abs(d) - carriageway, 0.05, across)) * 0.7)
    paint = paint * clear
    if street.crossing is None:
        return paint
    stop = stripe(side + LANE_M + 6.0, 0.22, along) * ((d > 0) & (d < carriageway))
    zebra = stripe(side + LANE_M + 3.4, 1.5, along) * (_joints(d, 1.0, 0.25, across)) * (np.abs(d) < carriageway)
    striped = street.kind in ("urban", "plaza", "residential")
    return np.maximum(np.maximum(paint * (np.abs(side + LANE_M + 3.4) > 1.6), stop), zebra if striped else 0.0)
