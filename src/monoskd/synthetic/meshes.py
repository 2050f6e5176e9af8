"""Triangle meshes and the few shapes that streets are made of.

Local frame of an object, as of a box in `monoskd.geometry.boxes`: x forward, y down, z sideways, the origin in the
middle of its bottom. Colours are linear RGB in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Colour = tuple[float, float, float]


class Material(IntEnum):
    """How a surface reflects light; see `shading`."""

    MATTE = 0
    PAINT = 1
    GLASS = 2
    FOLIAGE = 3
    FACADE = 4
    RIBBON = 5
    LAMP = 6


@dataclass(frozen=True)
class Mesh:
    """t triangles, an array row each.

    corners: t x 3 x 3 [m]; normals: t x 3 x 3, unit, of each corner; uv: t x 3 x 2, cells of a facade;
    colour: t x 3; material: t; owner: t, the index of the labelled object, -1 for everything else.
    """

    corners: Floats
    normals: Floats
    uv: Floats
    colour: Floats
    material: NDArray[np.int64]
    owner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.corners)

    @classmethod
    def join(cls, meshes: Sequence["Mesh"]) -> "Mesh":
        """All triangles of the meshes, in order."""
        return cls(
            **{field.name: np.concatenate([getattr(mesh, field.name) for mesh in meshes]) for field in fields(cls)}
        )

    def fitted(self, dimensions: Floats) -> "Mesh":
        """Stretched so that its bounds are exactly the box of these (h, w, l) [m] on the origin."""
        low, high = self.corners.min((0, 1)), self.corners.max((0, 1))
        goal = dimensions[[2, 0, 1]]
        unit = (self.corners - low) / (high - low) - np.array([0.5, 1.0, 0.5])
        return replace(self, corners=unit * goal)

    def painted(self, colour: Floats) -> "Mesh":
        """The same with its paint, which models have in white, in this colour."""
        coat = (self.material == Material.PAINT)[:, None]
        return replace(self, colour=np.where(coat, self.colour * colour, self.colour))

    def placed(self, position: Floats, *, yaw: float) -> "Mesh":
        """Turned about +y by yaw [rad], then moved to `position` [m]."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        return replace(self, corners=self.corners @ turn.T + position, normals=self.normals @ turn.T)

    def owned(self, owner: int) -> "Mesh":
        """The same as part of labelled object `owner`."""
        return replace(self, owner=np.full(len(self), owner))


def surface(
    points: Floats, colour: Any, material: Any = Material.MATTE, *, smooth: bool = True, closed: bool = False
) -> Mesh:
    """The skin over a grid of points s x k x 3, its normals away from the grid's middle.

    colour: 3, or (s-1) x (k-1) x 3, one for each patch; material likewise; closed: the last column joins the first.
    """
    if closed:
        points = np.concatenate([points, points[:, :1]], 1)
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    face = cross(c - a, d - b)
    face *= np.sign((face * ((a + b + c + d) / 4 - points.mean((0, 1)))).sum()) or 1.0
    normals = (
        _corner_normals(face, closed=closed)
        if smooth
        else np.broadcast_to(unit(face)[:, :, None], (*face.shape[:2], 4, 3))
    )
    corners = np.stack([a, b, c, d], 2).reshape(-1, 4, 3)
    normals = normals.reshape(-1, 4, 3)
    halves = [[0, 1, 2], [0, 2, 3]]
    patches = face.shape[:2]
    colours = np.broadcast_to(np.asarray(colour, np.float64), (*patches, 3)).reshape(-1, 3)
    materials = np.broadcast_to(np.asarray(material, np.int64), patches).reshape(-1)
    return _mesh(
        corners[:, halves].reshape(-1, 3, 3),
        normals[:, halves].reshape(-1, 3, 3),
        np.repeat(colours, 2, 0),
        np.repeat(materials, 2),
    )


def polygon(points: Any, colour: Any, material: Material = Material.MATTE, *, facing: Any, uv: Any = None) -> Mesh:
    """A flat convex polygon of k points k x 3, its normal on the side of `facing`; uv: k x 2."""
    points = np.asarray(points, np.float64)
    fan = [[0, i, i + 1] for i in range(1, len(points) - 1)]
    normal = unit(cross(points[1] - points[0], points[2] - points[0]))
    normal = normal * (np.sign(normal @ np.asarray(facing, np.float64)) or 1.0)
    mesh = _mesh(points[fan], np.broadcast_to(normal, (len(fan), 3, 3)), colour, material)
    return mesh if uv is None else replace(mesh, uv=np.asarray(uv, np.float64)[fan])


def tube(spine: Any, radii: Any, colour: Any, material: Material = Material.MATTE, *, sides: int = 6) -> Mesh:
    """A round skin along a spine k x 3 [m]; radii: k, or k x 2 for an oval (across x, across z for upright ones)."""
    spine = np.asarray(spine, np.float64)
    radius = np.asarray(radii, np.float64)
    radius = np.stack([radius, radius], -1) if radius.ndim == 1 else radius
    axis = unit(spine[-1] - spine[0])
    across = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.8 else np.array([0, 1.0, 0])
    first = unit(across - axis * (across @ axis))
    second = np.cross(axis, first)
    turn = np.arange(sides) * 2 * np.pi / sides
    ring = np.cos(turn)[:, None] * first, np.sin(turn)[:, None] * second
    return surface(
        spine[:, None] + radius[:, None, :1] * ring[0] + radius[:, None, 1:] * ring[1], colour, material, closed=True
    )


def ellipsoid(centre: Any, radii: Any, colour: Any, material: Material = Material.MATTE, *, sides: int = 8) -> Mesh:
    """An ellipsoid of radii 3 [m] along x, y, z."""
    height = np.linspace(0.02, np.pi - 0.02, sides // 2 + 1)[:, None]
    turn = (np.arange(sides) * 2 * np.pi / sides)[None]
    ball = np.stack([np.sin(height) * np.cos(turn), -np.cos(height) + 0 * turn, np.sin(height) * np.sin(turn)], -1)
    return surface(ball * np.asarray(radii) + np.asarray(centre), colour, material, closed=True)


def cuboid(low: Any, high: Any, colour: Any, material: Material = Material.MATTE) -> Mesh:
    """A box between two opposite corners, without its bottom; uv in metres along and up its walls."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    ring = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1), (x0, z0)])
    walls = np.empty((4, 4, 3))
    walls[:, [0, 3]], walls[:, [1, 2]] = ring[:4, None, [0, 0, 1]], ring[1:, None, [0, 0, 1]]
    walls[:, :2, 1], walls[:, 2:, 1] = y1, y0
    lid = np.array([[(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)]])
    quads = np.concatenate([walls, lid])
    outward = np.array([(0, 0, -1.0), (1, 0, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0)])
    halves = quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 3)
    mesh = _mesh(halves, np.repeat(outward, 2, 0)[:, None].repeat(3, 1), colour, material)
    along = np.abs(np.diff(ring, axis=0)).sum(1)[:, None] * [0, 1, 1, 0]
    uv = np.stack([along, np.broadcast_to([0, 0, y1 - y0, y1 - y0], (4, 4))], -1)
    mesh.uv[:8] = uv[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 2)
    if material in (Material.FACADE, Material.RIBBON):
        mesh.material[8:] = Material.MATTE
    return mesh


def disc(
    centre: Any, radius: float, colour: Any, material: Material = Material.MATTE, *, facing: float, sides: int = 12
) -> Mesh:
    """An upright disc across z that looks along z (`facing` +1 or -1)."""
    turn = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    rim = np.stack([np.cos(turn), np.sin(turn), 0 * turn], -1) * radius + np.asarray(centre)
    return polygon(rim, colour, material, facing=(0, 0, facing))


def _mesh(corners: Floats, normals: Floats, colour: Any, material: Any) -> Mesh:
    count = len(corners)
    return Mesh(
        corners,
        np.array(normals),
        np.zeros((count, 3, 2)),
        np.array(np.broadcast_to(np.asarray(colour, np.float64), (count, 3))),
        np.array(np.broadcast_to(np.asarray(material, np.int64), (count,))),
        np.full(count, -1),
    )


def unit(vectors: Floats) -> Floats:
    """Vectors ... x 3 as directions; zero stays zero."""
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    directions: Floats = vectors / np.maximum(length, 1e-12)
    return directions


def cross(a: Floats, b: Floats) -> Floats:
    """As `numpy.cross`, but faster on small arrays."""
    product: Floats = a[..., [1, 2, 0]] * b[..., [2, 0, 1]] - a[..., [2, 0, 1]] * b[..., [1, 2, 0]]
    return product


def _corner_normals(face: Floats, *, closed: bool) -> Floats:
    """Normals of each patch's four corners: the mean of the patches that meet there."""
    rows, columns = face.shape[:2]
    at = np.zeros((rows + 1, columns + 1, 3))
    for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)):
        at[i : rows + i, j : columns + j] += face
    if closed:
        at[:, 0] += at[:, -1]
        at[:, -1] = at[:, 0]
    at = unit(at)
    return np.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], 2)
