"""The row of each object in `label_2`, from the pixels where it is visible."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import alpha_from_yaw
from monoskd.objects import Objects
from monoskd.synthetic.meshes import Floats
from monoskd.synthetic.raster import NEAR_M, Fragments
from monoskd.synthetic.traffic import Actor

# Shares of an object's own pixels that must be visible for KITTI's levels 0 (fully visible) and 1 (partly occluded),
# and for a label. Below that, or if its 2D box is lower than those that KITTI labels, the row is DontCare.
VISIBLE_0 = 0.95
VISIBLE_1 = 0.40
VISIBLE_2 = 0.10
MIN_HEIGHT_SHARE = 0.045  # of the image: 17 px of KITTI's 375, a car at 65 m
DONT_CARE_SHARE = 0.02
_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


def visible_share(candidates: Fragments, owner: NDArray[np.int64], seen: NDArray[np.int64], *, count: int) -> Floats:
    """Of the samples that each of `count` objects covers in the image, the share that is not hidden; 0 for none.

    owner: of each triangle; seen: the triangle at each sample, -1 for none.
    """
    fragment_owner = owner[candidates.triangle]
    mine = fragment_owner >= 0
    covered = np.zeros((count, seen.size), bool)
    covered[fragment_owner[mine], candidates.pixel[mine]] = True
    own = covered.sum(1)
    visible = np.bincount(owner[seen[seen >= 0]] + 1, minlength=count + 1)[1:]
    share: Floats = visible / np.maximum(own, 1)
    return share


def outline(boxes: Boxes3D, camera: Camera) -> Floats:
    """2D boxes n x 4 (left, top, right, bottom) [px] of the part of the 3D boxes in front of the camera, not clipped.

    Edges that pass the camera's plane are cut there, `NEAR_M` in front of it. Boxes wholly behind give zeros.
    """
    corners = boxes.corners()
    a, b = (np.take(corners, ends, 1) for ends in _EDGES.T)
    step = b[..., 2] - a[..., 2]
    share = np.clip((NEAR_M - a[..., 2]) / np.where(step == 0, 1.0, step), 0, 1)
    cut = a + share[..., None] * (b - a)
    points = np.concatenate([corners, cut], 1)
    front = np.asarray(points[..., 2] >= NEAR_M - 1e-9)
    uv = camera.project(np.where(front[..., None], points, [0.0, 0.0, 1.0]))
    low = np.where(front[..., None], uv, np.inf).min(1)
    high = np.where(front[..., None], uv, -np.inf).max(1)
    before = np.any(front, 1, keepdims=True)
    return np.where(before, np.concatenate([low, high], 1), 0.0)


@dataclass(frozen=True)
class Labels:
    """The rows of a frame, and for each the actor that it is about (-1 for DontCare)."""

    objects: Objects
    actor: NDArray[np.int64]


def label(actors: list[Actor], shares: Floats, camera: Camera, *, width: int, height: int) -> Labels:
    """What a KITTI annotator would have written, in the order of the actors.

    shares: of each actor, what is seen of it. Actors that are largely hidden or too small are DontCare; actors out of
    sight is not there.
    """
    if not actors:
        return Labels(Objects.empty(), np.zeros(0, np.int64))
    boxes = Boxes3D(
        np.array([actor.bottom for actor in actors]),
        np.array([actor.dimensions for actor in actors]),
        np.array([actor.yaw for actor in actors]),
    )
    whole = outline(boxes, camera)
    inside = np.clip(whole, 0, [width, height, width, height])
    truncation = 1 - _area(inside) / np.maximum(_area(whole), 1e-9)
    occlusion = np.select([shares >= VISIBLE_0, shares >= VISIBLE_1], [0, 1], 2)
    recognisable = (shares >= VISIBLE_2) & (inside[:, 3] - inside[:, 1] >= MIN_HEIGHT_SHARE * height)
    recognisable &= (inside[:, 2] > inside[:, 0]) & (boxes.bottom[:, 2] > NEAR_M)
    objects = Objects(
        names=np.array([actor.name for actor in actors], np.str_),
        truncation=truncation.clip(0, 1),
        occlusion=occlusion.astype(np.int64),
        alpha=alpha_from_yaw(boxes.yaw, u=(inside[:, 0] + inside[:, 2]) / 2, camera=camera),
        boxes_2d=inside,
        dimensions=boxes.dimensions,
        bottom=boxes.bottom,
        yaw=boxes.yaw,
    )
    ignored = objects[~recognisable & (shares > DONT_CARE_SHARE) & (_area(inside) > 0)]
    actor = np.append(np.flatnonzero(recognisable), np.full(len(ignored), -1))
    return Labels(_with_dont_care(objects[recognisable], ignored.boxes_2d), actor)


def _area(boxes: Floats) -> Floats:
    area: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


def _with_dont_care(objects: Objects, boxes_2d: Floats) -> Objects:
    """`objects`, then KITTI's DontCare rows for these regions."""
    count = len(boxes_2d)
    return Objects(
        names=np.concatenate([objects.names, np.full(count, "DontCare")]),
        truncation=np.append(objects.truncation, np.full(count, -1.0)),
        occlusion=np.append(objects.occlusion, np.full(count, -1)),
        alpha=np.append(objects.alpha, np.full(count, -10.0)),
        boxes_2d=np.concatenate([objects.boxes_2d, boxes_2d]),
        dimensions=np.concatenate([objects.dimensions, np.full((count, 3), -1.0)]),
        bottom=np.concatenate([objects.bottom, np.full((count, 3), -1000.0)]),
        yaw=np.append(objects.yaw, np.full(count, -10.0)),
    )
