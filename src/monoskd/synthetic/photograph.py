"""From the triangle at each sample to an 8-bit picture: shading, shadows on the ground, the camera's sensor."""

from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from monoskd.synthetic.meshes import Floats
from monoskd.synthetic.raster import Projected, fragments, project_triangles
from monoskd.synthetic.scene import Scene
from monoskd.synthetic.shading import shade

SAMPLES = 2  # per axis within a pixel; shaded one by one where they do not all see the same triangle
_SHADOWLESS = 0.2  # no shadows below this strength of the sun


def photograph(scene: Scene, P: Floats, projected: Projected, seen: NDArray[np.int64]) -> Floats:
    """Radiance H x W x 3 from the triangles `seen` at SAMPLES H x SAMPLES W samples; P projects to samples.

    A pixel whose samples all see one triangle is shaded once, in its middle; any other is the mean of its samples.
    """
    rows, columns = (extent // SAMPLES for extent in seen.shape)
    quad = seen.reshape(rows, SAMPLES, columns, SAMPLES).transpose(0, 2, 1, 3).reshape(rows * columns, SAMPLES**2)
    mixed = (quad[:, 1] != quad[:, 0]) | (quad[:, 2] != quad[:, 0]) | (quad[:, 3] != quad[:, 0])
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * float(SAMPLES)
    within = np.stack(np.meshgrid(np.arange(SAMPLES), np.arange(SAMPLES)), -1).reshape(-1, 2) + 0.5
    uv = np.concatenate([corner[~mixed] + SAMPLES / 2, (corner[mixed, None] + within).reshape(-1, 2)])
    triangle = np.concatenate([quad[~mixed, 0], quad[mixed].reshape(-1)])
    column, row = (uv / SAMPLES).astype(np.int64).T
    shadow = ground_shadow(scene, P, rows=rows, columns=columns)[row, column]
    colour = shade(scene, projected, pixel_rays(P, uv), uv, triangle, shadow, focal_px=P[0, 0] / SAMPLES)
    image = np.empty((rows * columns, 3))
    once = len(mixed) - np.count_nonzero(mixed)
    image[~mixed] = colour[:once]
    image[mixed] = colour[once:].reshape(-1, SAMPLES**2, 3).mean(1)
    return image.reshape(rows, columns, 3)


def pixel_rays(P: Floats, uv: Any) -> Floats:
    """Directions n x 3 with third coordinate 1 of the rays through pixels n x 2."""
    rays = np.ones((len(uv), 3))
    rays[:, 0] = (uv[:, 0] - P[0, 2]) / P[0, 0]
    rays[:, 1] = (uv[:, 1] - P[1, 2]) / P[1, 1]
    return rays


def ground_shadow(scene: Scene, P: Floats, *, rows: int, columns: int) -> NDArray[np.float32]:
    """How much of the sun is hidden from the ground, H x W in [0, 1]: all triangles, slid along the light onto it.

    Drawn straight into the picture, so a shadow's edge is as sharp as the pixels allow, with a penumbra of one pixel.
    """
    if scene.weather.sun < _SHADOWLESS:
        return np.zeros((rows, columns), np.float32)
    lean, tilt, height = scene.street.ground
    level = np.array([lean, -1.0, tilt])  # a point's height above the ground is level . point + height
    corners = scene.mesh.corners
    slide = (corners @ level + height) / (scene.weather.to_sun @ level)
    flat = corners - slide[..., None] * scene.weather.to_sun
    to_pixels = np.diag([1 / SAMPLES, 1 / SAMPLES, 1.0]) @ P
    covered = fragments(project_triangles(to_pixels, flat), width=columns, height=rows)
    mask = np.zeros(rows * columns, np.float32)
    mask[covered.pixel] = 1.0
    return np.asarray(cv2.blur(mask.reshape(rows, columns), (3, 3)), np.float32)


def expose(rng: Generator, radiance: Floats) -> NDArray[np.uint8]:
    """Radiance to 8-bit RGB: exposure, white balance, slight blur, noise, highlight compression, gamma."""
    level = np.percentile(radiance[::2, ::2].mean(2), 60)
    exposure = (0.34 / max(level, 0.02)) ** 0.6 * rng.uniform(0.9, 1.15)
    balance = exposure * (1 + rng.normal(0, 0.02, 3))
    light = np.asarray(cv2.GaussianBlur((radiance * balance).astype(np.float32), (3, 3), 0.45))
    grain = rng.standard_normal(light.shape, np.float32)
    light = np.maximum(light + grain * np.sqrt(0.00004 + 0.0003 * np.maximum(light, 0)), 0)
    shoulder = light * (1 + light / 2.2) / (1 + light)
    encoded: NDArray[np.uint8] = (np.clip(1.1 * shoulder, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)
    return encoded
