"""One rendered frame, from its number to image, sweep and labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monoskd.kitti.io import Calibration
from monoskd.objects import Objects
from monoskd.synthetic.labels import Labels, label, visible_share
from monoskd.synthetic.lidar import sweep
from monoskd.synthetic.photograph import SAMPLES, expose, photograph, pixel_rays
from monoskd.synthetic.raster import Projected, barycentric, fragments, nearest, project_triangles
from monoskd.synthetic.rig import calibration as rig_calibration
from monoskd.synthetic.scene import Scene, sample_scene


@dataclass(frozen=True)
class RenderedFrame:
    """What a car with sensors would record, and the true depth and objects.

    image: H x W x 3 uint8, RGB; points: n x 4 float32, x forward, y left, z up [m] and reflectance, in the LiDAR frame;
    depth_m: H x W float32, z in the camera frame of what each pixel shows (its upper left sample), 0 for the sky;
    owner: H x W, the row of `objects` that the pixel shows, -1 for everything without a label.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    calibration: Calibration
    objects: Objects
    depth_m: NDArray[np.float32]
    owner: NDArray[np.int64]


@dataclass(frozen=True)
class _View:
    """A scene seen by camera 2 on a grid of SAMPLES x SAMPLES samples a pixel: the geometry, before any colour.

    P: 3 x 4 to samples; projected: all triangles; seen: the triangle at each sample, -1 for ground and
    sky.
    """

    scene: Scene
    rig: Calibration
    P: NDArray[np.float64]
    projected: Projected
    seen: NDArray[np.int64]
    labels: Labels


def render_frame(
    seed: int, index: int, size: tuple[int, int], focal_px: tuple[float, float] | None = None
) -> RenderedFrame:
    """Frame `index` of the data set `seed`, at size (width, height) [px]: the same street at every size.

    focal_px: (lowest, highest) focal length, drawn for each frame, its logarithm evenly; None: KITTI's field of view.
    """
    view = _view(seed, index, size, focal_px)
    sweep_rng, image_rng = (np.random.default_rng((seed, index, stream)) for stream in (1, 2))
    depth_m, actor = _truth(view)
    row_of_actor = np.full(len(view.scene.actors) + 1, -1)
    labelled = view.labels.actor >= 0
    row_of_actor[view.labels.actor[labelled]] = np.flatnonzero(labelled)
    return RenderedFrame(
        image=expose(image_rng, photograph(view.scene, view.P, view.projected, view.seen)),
        points=sweep(sweep_rng, view.scene),
        calibration=view.rig,
        objects=view.labels.objects,
        depth_m=depth_m,
        owner=row_of_actor[actor],
    )


def label_frame(seed: int, index: int, size: tuple[int, int]) -> Objects:
    """The labels of `render_frame` alone: enough for statistics, in half the time."""
    return _view(seed, index, size, None).labels.objects


def _view(seed: int, index: int, size: tuple[int, int], focal_px: tuple[float, float] | None) -> _View:
    width, height = size
    scene = sample_scene(seed, index)
    drawn = (
        None if focal_px is None else float(np.exp(np.random.default_rng((seed, index, 3)).uniform(*np.log(focal_px))))
    )
    rig = rig_calibration(width=width, height=height, focal_px=drawn)
    P = np.diag([SAMPLES, SAMPLES, 1.0]) @ rig.P2
    projected = project_triangles(P, scene.mesh.corners)
    candidates = fragments(projected, width=SAMPLES * width, height=SAMPLES * height)
    seen = nearest(candidates, width=SAMPLES * width, height=SAMPLES * height)
    shares = visible_share(candidates, scene.mesh.owner, seen, count=len(scene.actors))
    return _View(scene, rig, P, projected, seen, label(scene.actors, shares, rig.camera, width=width, height=height))


def _truth(view: _View) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Depth map [m] and the actor seen (-1: none), H x W, at the upper left sample of each pixel."""
    triangle = view.seen[::SAMPLES, ::SAMPLES]
    rows, columns = triangle.shape
    uv = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * float(SAMPLES) + 0.5
    flat = triangle.reshape(-1)
    depth = view.scene.street.ground_depth(pixel_rays(view.P, uv))
    hit = flat >= 0
    # Homogeneous depth is measured from the camera's plane, p23 [m] from the frame's origin.
    depth[hit] = barycentric(view.projected, flat[hit], uv[hit])[1] - view.P[2, 3]
    actor = np.where(hit, view.scene.mesh.owner[flat], -1)
    return depth.reshape(rows, columns).astype(np.float32), actor.reshape(rows, columns)
