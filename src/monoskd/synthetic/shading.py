"""The colour of a sample: light, materials, ground, sky. All in linear RGB.

A sample is a point of the image with what is seen there: a triangle, the ground or the sky. Geometry is decided
before, so every sample is shaded once, however many triangles lie behind it.
"""

from typing import Any

import numpy as np

from monoskd.synthetic.ground import ground_colour, sample_noise
from monoskd.synthetic.meshes import Floats, Material, unit
from monoskd.synthetic.raster import Projected, barycentric
from monoskd.synthetic.scene import Scene
from monoskd.synthetic.street import Weather

_GROUND_BOUNCE = np.array([0.14, 0.135, 0.125])
_WINDOW_DARK = np.array([0.035, 0.042, 0.05])
_FRAME = np.array([0.62, 0.61, 0.58])
_DOOR = np.array([0.12, 0.07, 0.05])


def shade(
    scene: Scene, projected: Projected, rays: Floats, uv: Floats, triangle: Any, shadow: Any, *, focal_px: float
) -> Floats:
    """Radiance n x 3 of samples.

    projected: the scene's triangles; rays: n x 3, from the camera with third coordinate 1; uv: n x 2 [px];
    triangle: n, -1 where none is hit; shadow: n in [0, 1], how much of the sun is hidden if the sample is ground.
    """
    colour = np.empty((len(uv), 3))
    hit = triangle >= 0
    depth = scene.street.ground_depth(rays)
    ground = ~hit & (depth > 0)
    sky = ~hit & ~ground
    colour[sky] = sky_colour(scene.weather, rays[sky])
    colour[ground] = _shade_ground(scene, rays[ground], depth[ground], shadow[ground], focal_px=focal_px)
    colour[hit] = _shade_triangles(scene, projected, rays[hit], uv[hit], triangle[hit], focal_px=focal_px)
    return colour


def sky_colour(weather: Weather, directions: Floats) -> Floats:
    """The sky, its clouds, the sun's glow, and hills along the horizon, in directions n x 3 (any length)."""
    towards = unit(directions)
    up = np.clip(-towards[:, 1], 0, 1)
    fade = np.exp(-5.0 * up)[:, None]
    colour = weather.sky_colour * (1 - fade) + weather.horizon_colour * fade
    reach = 1 / (up + 0.08)
    shift = weather.seed % 1024
    cover = sample_noise(towards[:, 0] * reach + shift, towards[:, 2] * reach, texel=0.012)
    cloud = np.clip((cover * 0.55 + 2.4 * weather.clouds - 1.2) * 0.8, 0, 1) * np.clip(up * 9, 0, 1)
    colour += (0.9 * cloud)[:, None] * (np.array([0.90, 0.91, 0.93]) * (0.86 + 0.05 * cover[:, None]) - colour)
    glow = np.clip(towards @ weather.to_sun, 0, 1)
    colour += min(weather.sun, 1.0) * (0.5 * glow**40 + 0.18 * glow**6)[:, None] * weather.sun_colour
    azimuth = np.arctan2(towards[:, 0], towards[:, 2]) * 40
    hill = 0.012 + 0.010 * sample_noise(azimuth, np.full_like(azimuth, shift), texel=0.11)
    woods = np.array([0.16, 0.22, 0.20]) * (0.5 + weather.sky)
    return np.where((up < hill)[:, None], 0.55 * woods + 0.45 * weather.horizon_colour, colour)


def _shade_ground(scene: Scene, rays: Floats, depth: Floats, shadow: Floats, *, focal_px: float) -> Floats:
    x, z = rays[:, 0] * depth, depth
    across = depth / focal_px
    along = np.minimum(depth * depth / (focal_px * scene.street.ground[2]), 60.0)
    albedo = ground_colour(scene.street, x, z, across=across, along=along)
    lit = _light(scene.weather, np.broadcast_to([0.0, -1.0, 0.0], rays.shape), sunlit=1 - shadow)
    lit *= (1 - contact_shade(scene, x, z))[:, None]
    return _through_haze(scene.weather, albedo * lit, depth)


def contact_shade(scene: Scene, x: Floats, z: Floats) -> Floats:
    """How much of the sky objects hide from ground points, in [0, 0.85]: dark below them, soft beside them."""
    shade_ = np.zeros_like(x)
    for actor in scene.actors:
        height, width, length = actor.dimensions
        dx, dz = x - actor.bottom[0], z - actor.bottom[2]
        near = np.flatnonzero(np.abs(dx) + np.abs(dz) < length + width + 1.5)
        cos, sin = np.cos(actor.yaw), np.sin(actor.yaw)
        along = np.abs(cos * dx[near] - sin * dz[near]) - length / 2
        beside = np.abs(sin * dx[near] + cos * dz[near]) - width / 2
        distance = np.hypot(np.maximum(along, 0), np.maximum(beside, 0)) + np.minimum(np.maximum(along, beside), 0)
        amount = (0.85 if width > 1.2 else 0.5) / (1 + np.exp((distance + 0.05) / (0.07 * height + 0.03)))
        shade_[near] = np.maximum(shade_[near], amount)
    return shade_


def _shade_triangles(
    scene: Scene, projected: Projected, rays: Floats, uv: Floats, triangle: Any, *, focal_px: float
) -> Floats:
    mesh, weather = scene.mesh, scene.weather
    weights, depth = barycentric(projected, triangle, uv)
    normal = np.einsum("in,nij->nj", weights, mesh.normals[triangle])
    normal, view = unit(normal), unit(rays)
    facing = -np.einsum("ij,ij->i", normal, view)
    material = mesh.material[triangle]
    albedo = mesh.colour[triangle].copy()
    _facades(scene, albedo, material, weights, triangle, depth / focal_px / np.clip(np.abs(facing), 0.15, 1))
    leaves = material == Material.FOLIAGE
    if leaves.any():
        point = rays[leaves] * depth[leaves, None]
        speckle = sample_noise(point[:, 0] + 0.7 * point[:, 2], point[:, 1] - 0.4 * point[:, 2], texel=0.06)
        fade = 1 / (1 + 0.03 * depth[leaves])
        albedo[leaves] *= np.clip(1 + 0.55 * speckle * fade, 0.25, 2.2)[:, None]
    radiance = albedo * _light(weather, normal, sunlit=_sunlit(scene)[mesh.owner[triangle]])
    glossy = (material == Material.PAINT) | (material == Material.GLASS) | (material == Material.LAMP)
    if glossy.any():
        radiance[glossy] = _gloss(
            weather, radiance[glossy], material[glossy], normal[glossy], view[glossy], facing[glossy]
        )
    return _through_haze(weather, radiance, depth)


def _facades(scene: Scene, albedo: Floats, material: Any, weights: Floats, triangle: Any, footprint: Floats) -> None:
    """Windows, frames, doors and plinths on the walls, in place; edges as soft as a pixel's `footprint` [m]."""
    walls = np.flatnonzero((material == Material.FACADE) | (material == Material.RIBBON))
    if not len(walls):
        return
    cell = np.einsum("in,nij->nj", weights[:, walls], scene.mesh.uv[triangle[walls]])
    ribbon = material[walls] == Material.RIBBON
    soft = footprint[walls] / 2.9
    storey, window = np.floor(cell[:, 1]), np.floor(cell[:, 0])
    column, row = cell[:, 0] - window - 0.5, cell[:, 1] - storey - 0.5
    half_width = np.where(ribbon, 0.6, 0.21)
    inside = _window(column, half_width, soft) * _window(row, 0.27, soft) * (storey >= 0)
    border = _window(column, half_width + 0.05, soft) * _window(row, 0.32, soft) * (storey >= 0)
    fate = np.sin(window * 12.9898 + storey * 78.233 + triangle[walls] // 2 * 3.7) * 43758.5453 % 1.0
    pane = _WINDOW_DARK * (0.5 + 1.5 * fate)[:, None] + 0.22 * (row + 0.4).clip(0)[:, None] * scene.weather.sky_colour
    wall = albedo[walls]
    grain = sample_noise(cell[:, 0] * 2.7, cell[:, 1] * 2.9, texel=0.07)
    wall *= (1 + 0.06 * grain)[:, None] * np.where(cell[:, 1] < 0.02, 0.6, 1.0)[:, None]
    wall += 0.7 * border[:, None] * (_FRAME - wall)
    curtain = (fate > 0.75)[:, None] & (np.abs(column) > 0.08)[:, None]
    wall += inside[:, None] * (np.where(curtain, 0.35 * _FRAME, pane) - wall)
    door = (storey == 0) & (window % 4 == 1) & ~ribbon
    leaf = (_window(column, 0.19, soft) * _window(row + 0.15, 0.42, soft) * door)[:, None]
    albedo[walls] = wall + leaf * (_DOOR - wall)


def _window(distance: Floats, half_width: Any, soft: Floats) -> Floats:
    return np.asarray(np.clip((half_width - np.abs(distance)) / np.maximum(soft, 0.01) + 0.5, 0, 1))


def _light(weather: Weather, normal: Floats, *, sunlit: Any) -> Floats:
    """Irradiance / pi n x 3 on surfaces with these normals: sun, sky from above, the ground's bounce from below."""
    up = 0.5 - 0.5 * normal[:, 1:2]
    sky = weather.sky * (0.6 * weather.sky_colour + 0.4)
    ambient = up * sky + (1 - up) * _GROUND_BOUNCE * (weather.sky + weather.sun)
    direct = np.clip(normal @ weather.to_sun, 0, None) * sunlit
    return np.asarray(ambient + direct[:, None] * weather.sun * weather.sun_colour)


def _gloss(weather: Weather, radiance: Floats, material: Any, normal: Floats, view: Floats, facing: Floats) -> Floats:
    """Add reflections in paint, glass and lamps: sky above, road below, the sun's highlight; more at grazing angles."""
    mirrored = view + 2 * np.abs(facing)[:, None] * normal
    above = np.clip(-mirrored[:, 1] * 4 + 0.3, 0, 1)[:, None]
    up = np.clip(-mirrored[:, 1:2], 0, 1)
    sky = weather.sky_colour * (0.55 + 0.35 * up) + (1 - up) * 0.35 * weather.horizon_colour
    scenery = above * sky + (1 - above) * 0.16 * (weather.sky + 0.4 * weather.sun)
    fresnel = (1 - np.clip(np.abs(facing), 0, 1)) ** 4
    base = np.select([material == Material.GLASS, material == Material.LAMP], [0.16, 0.10], 0.05)
    share = np.clip(base + 0.55 * fresnel, 0, 0.8)[:, None]
    glint = np.clip(mirrored @ weather.to_sun, 0, 1) ** 120 * min(weather.sun, 1.0)
    glow = np.where(material == Material.LAMP, 1.25, 1.0)[:, None]
    return (1 - share) * glow * radiance + share * scenery * (0.4 + weather.sky) + 0.8 * glint[:, None]


def _sunlit(scene: Scene) -> Floats:
    """For each object, and last (index -1) for everything else, how much sun it gets: houses in the way hide it."""
    walls = np.isin(scene.mesh.material, (Material.FACADE, Material.RIBBON))
    corners = scene.mesh.corners[walls]
    origins = np.array([actor.bottom - [0, 0.8 * actor.dimensions[0], 0] for actor in scene.actors]).reshape(-1, 3)
    edge_a, edge_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    cross = np.cross(scene.weather.to_sun, edge_b)
    volume = (edge_a * cross).sum(-1)
    inverse = 1 / np.where(np.abs(volume) < 1e-9, np.inf, volume)
    offset = origins[:, None] - corners[None, :, 0]
    a = (offset * cross).sum(-1) * inverse
    turned = np.cross(offset, edge_a)
    b = turned @ scene.weather.to_sun * inverse
    distance = (turned * edge_b).sum(-1) * inverse
    hidden = ((a >= 0) & (b >= 0) & (a + b <= 1) & (distance > 0)).any(1)
    return np.append(np.where(hidden, 0.05, 1.0), 1.0)


def _through_haze(weather: Weather, radiance: Floats, depth: Floats) -> Floats:
    clear = np.exp(-weather.haze * depth)[:, None]
    return clear * radiance + (1 - clear) * weather.horizon_colour * (0.4 + 0.6 * weather.sky)
