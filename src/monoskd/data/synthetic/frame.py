"""One rendered frame, from its number to image, sweep and labels."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from monoskd.data.kitti_io import Calibration
from monoskd.data.synthetic.labels import label, visible_share
from monoskd.data.synthetic.lidar import sweep
from monoskd.data.synthetic.meshes import Floats
from monoskd.data.synthetic.raster import barycentric, fragments, nearest, plane_matrices
from monoskd.data.synthetic.rig import calibration as rig_calibration
from monoskd.data.synthetic.scene import Scene, sample_scene
from monoskd.data.synthetic.shading import shade
from monoskd.objects import Objects

SAMPLES = 2  # each way within a pixel, where its samples do not all see the same triangle


@dataclass(frozen=True)
class RenderedFrame:
    """What a sensor car would have recorded, and the truth behind it.

    image: H x W x 3 uint8, RGB; points: n x 4 float32, x forward, y left, z up [m] and reflectance in the LiDAR frame;
    depth_m: H x W float32, z in the camera frame at the pixels' centres, 0 for the sky; owner: H x W, which object a pixel's
    centre shows (index into the scene's actors), -1 for none; actors: row of `objects` to actor.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    calibration: Calibration
    objects: Objects
    depth_m: NDArray[np.float32]
    owner: NDArray[np.int64]


def render_frame(seed: int, index: int, size: tuple[int, int]) -> RenderedFrame:
    """Frame `index` of the data set `seed`, at size (width, height) [px]: the same street at every size."""
    width, height = size
    scene = sample_scene(seed, index)
    rig = rig_calibration(width=width, height=height)
    grid = SAMPLES * width, SAMPLES * height
    zoomed = np.diag([SAMPLES, SAMPLES, 1.0]) @ rig.P2
    planes = plane_matrices(zoomed, scene.mesh.corners)
    found = fragments(zoomed, scene.mesh.corners, planes, width=grid[0], height=grid[1])
    seen = nearest(found, width=grid[0], height=grid[1])
    shares = visible_share(found, scene.mesh.owner, seen, count=len(scene.actors))
    rng = np.random.default_rng((seed, index, 1))
    radiance = _radiance(scene, zoomed, planes, seen)
    return RenderedFrame(
        image=expose(rng, radiance),
        points=sweep(rng, scene),
        calibration=rig,
        objects=label(scene.actors, shares, rig.camera, width=width, height=height),
        **_truth(scene, rig.P2, zoomed, planes, seen),
    )


def _radiance(scene: Scene, P: Floats, planes: Floats, seen: NDArray[np.int64]) -> Floats:
    """H x W x 3: one shaded sample where all samples of a pixel see one triangle, their mean over all elsewhere."""
    rows, columns = (extent // SAMPLES for extent in seen.shape)
    quad = seen.reshape(rows, SAMPLES, columns, SAMPLES).transpose(0, 2, 1, 3).reshape(rows * columns, SAMPLES**2)
    mixed = (quad != quad[:, :1]).any(1)
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * float(SAMPLES)
    within = np.stack(np.meshgrid(np.arange(SAMPLES), np.arange(SAMPLES)), -1).reshape(-1, 2) + 0.5
    uv = np.concatenate([corner[~mixed] + SAMPLES / 2, (corner[mixed, None] + within).reshape(-1, 2)])
    triangle = np.concatenate([quad[~mixed, 0], quad[mixed].reshape(-1)])
    rays = _rays(P, uv)
    shadow = _ground_shadow(scene, P, rows=rows, columns=columns)
    column, row = (uv / SAMPLES).astype(np.int64).T
    focal_px = P[0, 0] / SAMPLES
    colour = shade(scene, planes, rays, uv, triangle, shadow[row, column], focal_px=focal_px)
    image = np.empty((rows * columns, 3))
    single = int((~mixed).sum())
    image[~mixed] = colour[:single]
    image[mixed] = colour[single:].reshape(-1, SAMPLES**2, 3).mean(1)
    return image.reshape(rows, columns, 3)


def _rays(P: Floats, uv: Floats) -> Floats:
    """Directions n x 3 with third coordinate 1 of the rays through pixels n x 2."""
    rays = np.ones((len(uv), 3))
    rays[:, 0] = (uv[:, 0] - P[0, 2]) / P[0, 0]
    rays[:, 1] = (uv[:, 1] - P[1, 2]) / P[1, 1]
    return rays


def _ground_shadow(scene: Scene, P: Floats, *, rows: int, columns: int) -> NDArray[np.float32]:
    """How much of the sun is hidden from the ground, H x W in [0, 1]: everything's triangles, slid along the light onto it."""
    if scene.weather.sun < 0.2:
        return np.zeros((rows, columns), np.float32)
    lean, tilt, height = scene.street.ground
    down = np.array([lean, -1.0, tilt])  # zero level of the plane: down . (x, y, z) = -height
    corners = scene.mesh.corners
    slide = (corners @ down + height) / (scene.weather.to_sun @ down)
    flat = corners - slide[..., None] * scene.weather.to_sun
    pixels = np.diag([1 / SAMPLES, 1 / SAMPLES, 1.0]) @ P
    found = fragments(pixels, flat, plane_matrices(pixels, flat), width=columns, height=rows)
    mask = np.zeros(rows * columns, np.float32)
    mask[found.pixel] = 1.0
    return cv2.blur(mask.reshape(rows, columns), (3, 3))


def expose(rng: Generator, radiance: Floats) -> NDArray[np.uint8]:
    """Radiance to 8-bit RGB: exposure, a slight blur, shot and read noise, a shoulder, gamma."""
    level = np.percentile(radiance.mean(2), 60)
    exposure = (0.30 / max(level, 0.02)) ** 0.6 * rng.uniform(0.9, 1.15)
    balance = 1 + rng.normal(0, 0.02, 3)
    light = cv2.GaussianBlur((radiance * exposure * balance).astype(np.float32), (3, 3), 0.45)
    grain = rng.standard_normal(light.shape, np.float32)
    light = np.maximum(light + grain * np.sqrt(0.00006 + 0.0004 * np.maximum(light, 0)), 0)
    curve = light * (1 + light / 2.2) / (1 + light)
    encoded: NDArray[np.uint8] = (np.clip(curve, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)
    return encoded


def _truth(
    scene: Scene, P: Floats, zoomed: Floats, planes: Floats, seen: NDArray[np.int64]
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """Depth map and owners at one sample of each pixel."""
    triangle = seen[::SAMPLES, ::SAMPLES]
    rows, columns = triangle.shape
    uv = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * float(SAMPLES) + 0.5
    flat = triangle.reshape(-1)
    rays = _rays(zoomed, uv)
    ground = scene.street.ground
    descent = rays[:, 1] - rays[:, [0, 2]] @ ground[:2]
    depth = np.where(descent > 1e-3, ground[2] / np.maximum(descent, 1e-3), 0.0)
    hit = flat >= 0
    depth[hit] = barycentric(planes[flat[hit]], uv[hit])[1]
    owner = np.where(hit, scene.mesh.owner[flat], -1)
    return {"depth_m": depth.reshape(rows, columns).astype(np.float32), "owner": owner.reshape(rows, columns)}
