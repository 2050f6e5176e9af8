"""A LiDAR sweep of a scene: 64 beams from the roof, the surfaces they hit, and which beams give a return.

The sensor looks from its own place (see `rig`), so it sees past some things that hide others from the camera. Which
triangle a beam hits is read from a picture rendered from there; where it hits it is then computed exactly.
"""

from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from monoskd.synthetic.meshes import Floats, Material, cross, unit
from monoskd.synthetic.raster import fragments, nearest, project_triangles
from monoskd.synthetic.rig import CAMERA_FROM_LIDAR, LIDAR_FROM_CAMERA
from monoskd.synthetic.scene import Scene

BEAMS = 64
RANGE_NOISE_M = 0.02
RANGE_M = 100.0
_AZIMUTH_STEP_DEG = 0.17
_HALF_SECTOR_DEG = 43.0
_ELEVATION_DEG = (2.0, -24.8)
_DROPOUT = 0.04
_GLASS_DROPOUT = 0.75
_GRID_F_PX = 330.0
_OUTLINE_M = 0.05


def sweep(rng: Generator, scene: Scene) -> NDArray[np.float32]:
    """Points n x 4 (x forward, y left, z up [m], reflectance in [0, 1]) of the sector that the camera sees."""
    beams = _beams()
    triangle = _hit_triangles(scene, beams)
    origin, rays = CAMERA_FROM_LIDAR[:, 3], beams @ CAMERA_FROM_LIDAR[:, :3].T
    normal, offset, low, high = (table[triangle] for table in _surfaces(scene))
    incidence = np.einsum("ij,ij->i", normal, rays)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (offset - normal @ origin) / incidence
    kept = (distance > 2.0) & (distance < RANGE_M) & (np.abs(incidence) > 0.01)
    # A beam that grazes an outline may pass the triangle that the picture shows there.
    hit = origin + rays * np.where(kept, distance, 0.0)[:, None]
    inside = (hit > low) & (hit < high)
    kept &= inside[:, 0] & inside[:, 1] & inside[:, 2]
    kept &= rng.random(len(rays)) > _dropout(scene, triangle, distance, np.abs(incidence))
    noise = RANGE_NOISE_M * rng.normal(size=len(rays))
    points = beams[kept] * (distance + noise)[kept, None]
    return np.concatenate([points, _reflectance(rng, scene, triangle, incidence)[kept, None]], 1).astype(np.float32)


def _surfaces(scene: Scene) -> tuple[Floats, Floats, Floats, Floats]:
    """Of each triangle, and last (index -1) of the ground: unit normal n, offset n . x, slightly widened bounds."""
    a, b, c = scene.mesh.corners.swapaxes(0, 1)
    normal = unit(cross(b - a, c - a))
    lean, tilt, height = scene.street.ground
    plane = np.array([lean, -1.0, tilt]) / np.linalg.norm([lean, -1.0, tilt])
    offset = np.einsum("ij,ij->i", normal, a)
    everywhere = np.full((1, 3), np.inf)
    return (
        np.concatenate([normal, plane[None]]),
        np.append(offset, plane[1] * height),
        np.concatenate([np.minimum(np.minimum(a, b), c) - _OUTLINE_M, -everywhere]),
        np.concatenate([np.maximum(np.maximum(a, b), c) + _OUTLINE_M, everywhere]),
    )


@cache
def _beams() -> Floats:
    """Unit directions of all beams of the sector, beam by beam, in the LiDAR frame."""
    elevation = np.radians(np.linspace(*_ELEVATION_DEG, BEAMS))[:, None]
    azimuth = np.radians(np.arange(-_HALF_SECTOR_DEG, _HALF_SECTOR_DEG, _AZIMUTH_STEP_DEG))[None]
    unit = [np.cos(elevation) * np.cos(azimuth), -np.cos(elevation) * np.sin(azimuth), np.sin(elevation) + 0 * azimuth]
    return np.stack(unit, -1).reshape(-1, 3)


def _hit_triangles(scene: Scene, beams: Floats) -> NDArray[np.int64]:
    """The triangle that each beam meets first; -1 for ground or sky."""
    forward = beams[:, [1, 2, 0]] * [-1, -1, 1]
    uv = forward[:, :2] / forward[:, 2:] * _GRID_F_PX
    low = np.floor(uv.min(0)) - 1
    width, height = (int(size) for size in np.ceil(uv.max(0) - low) + 2)
    to_grid = np.array([[_GRID_F_PX, 0, -low[0]], [0, _GRID_F_PX, -low[1]], [0, 0, 1]])
    P = to_grid @ np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ LIDAR_FROM_CAMERA
    candidates = fragments(project_triangles(P, scene.mesh.corners), width=width, height=height)
    seen = nearest(candidates, width=width, height=height)
    column, row = np.floor(uv - low).astype(np.int64).T
    hit: NDArray[np.int64] = seen[row, column]
    return hit


def _dropout(scene: Scene, triangle: NDArray[np.int64], distance: Floats, incidence: Floats) -> Floats:
    """The probability that a beam does not return: high for glass, for dark and far surfaces and grazing angles."""
    hit = triangle >= 0
    bright = np.where(hit, scene.mesh.colour[triangle].mean(1), 0.12)
    echo = (0.15 + bright) * (0.2 + incidence) / np.maximum(distance / 40, 0.2) ** 2
    lost = _DROPOUT + 0.9 * np.exp(-echo / 0.012)
    return np.where(hit & (scene.mesh.material[triangle] == Material.GLASS), _GLASS_DROPOUT, lost)


def _reflectance(rng: Generator, scene: Scene, triangle: NDArray[np.int64], incidence: Floats) -> Floats:
    bright = np.where(triangle >= 0, scene.mesh.colour[triangle].mean(1), 0.2)
    return np.clip(bright * (0.3 + 0.7 * np.abs(incidence)) + 0.03 * rng.normal(size=len(triangle)), 0, 0.99)
