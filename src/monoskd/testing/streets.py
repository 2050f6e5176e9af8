"""Two rendered streets for a detector to look at, and the same pictures from other cameras."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch

from monoskd.data.samples import make_sample
from monoskd.geometry.camera import Camera
from monoskd.objects import KITTI_HEIGHT_PX, MIN_HEIGHT_PX, class_index
from monoskd.structures import Batch, Detector, Frame, PublishedData, Views
from monoskd.synthetic import RenderedFrame, render_frame

MOVED_PX = 100.0
_STREETS = ((3, 0), (3, 1))  # (seed, number) of rendered frames


def streets(detector: Detector, *, objects: bool = True, soft: bool = False) -> Batch:
    """Two rendered streets, larger than the network's input and of another shape, with labels or pseudo-labels."""
    size = _street_size(detector)
    published = PublishedData.all() if detector.published_input else PublishedData()
    targets = detector.target_maker(min_height_px=_min_height_px(detector), published=published)
    make = partial(make_sample, input_size=detector.input_size, targets=targets, soft=soft, published=published)
    samples = []
    for seed, number in _STREETS:
        street = _street(seed, number, size)
        cars = street.objects[(street.objects.names == "Car") & objects]
        names = np.full(len(cars), "Car" if class_index(["Car"], detector.classes)[0] >= 0 else detector.classes[0])
        cars = replace(cars, names=names, scores=np.linspace(0.9, 0.3, len(cars)) if soft else None)
        frame = Frame(street.image, street.calibration.camera, street.depth_m, cars)
        samples.append(make(f"street {number}", frame))
    return Batch.collate(samples)


def enlarged(detector: Detector, batch: Batch) -> Batch:
    """The same network pixels, cut from original pictures of twice as many pixels, moved aside by `MOVED_PX`."""
    maker = detector.target_maker(min_height_px=2 * _min_height_px(detector) - 1)  # as `is_supervised` counts pixels
    P = torch.as_tensor(batch.cameras.P).clone()
    P[:, :2] = 2 * P[:, :2] + MOVED_PX * P[:, 2:]
    scale = batch.letterbox.scale / 2
    letterbox = replace(batch.letterbox, scale=scale, shift=batch.letterbox.shift - scale[:, None] * MOVED_PX)
    targets = []
    for number, objects in enumerate(batch.objects):
        assert objects is not None
        assert batch.depth is not None
        targets.append(
            maker(
                replace(objects, boxes_2d=2 * objects.boxes_2d + MOVED_PX),
                camera=Camera(P[number].numpy()),
                letterbox=letterbox[number].map(np.asarray),
                depth_m=batch.depth[number, 0].numpy(),
                soft=False,
            )
        )
    return replace(batch, cameras=Camera(P), letterbox=letterbox, targets=type(targets[0]).collate(targets))


def second_apart(views: Views, others: Views) -> Views:
    """The views with a second image of half the brightness, and with its camera and letterbox from the others."""
    second = torch.arange(len(views)) == 1
    brightness = torch.where(second, 0.5, 1.0)[:, None, None, None]
    scale = torch.where(second, others.letterbox.scale, views.letterbox.scale)
    shift = torch.where(second[:, None], others.letterbox.shift, views.letterbox.shift)
    P = torch.where(second[:, None, None], torch.as_tensor(others.cameras.P), torch.as_tensor(views.cameras.P))
    return Views(views.images * brightness, Camera(P), replace(views.letterbox, scale=scale, shift=shift))


def _street_size(detector: Detector) -> tuple[int, int]:
    width, height = detector.input_size
    return width + width // 4, height + height // 2


def _min_height_px(detector: Detector) -> float:
    """Of a supervised object, as much of these streets as of KITTI's pictures."""
    return MIN_HEIGHT_PX * _street_size(detector)[1] / KITTI_HEIGHT_PX


@cache
def _street(seed: int, number: int, size: tuple[int, int]) -> RenderedFrame:
    return render_frame(seed, number, size)


def focal_px(batch: Batch) -> dict[str, float]:
    """Of these pictures, in original and in network pixels, as training tells it."""
    focal_px = batch.cameras.focal_px.median().item()
    return {"focal_px": focal_px, "input_focal_px": focal_px * batch.letterbox.scale.median().item()}
