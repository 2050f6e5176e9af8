"""A street of cars, pedestrians and cyclists, and detections that are nearly right."""

from dataclasses import replace

import numpy as np
import pytest

from monoskd.objects import Objects

SIZES = {"Pedestrian": (1.76, 0.66, 0.84), "Car": (1.53, 1.63, 3.88), "Cyclist": (1.74, 0.60, 1.76)}
FOCAL_PX, CENTRE_U, CENTRE_V = 720.0, 610.0, 175.0


def random_frame(random: np.random.Generator, count: int) -> Objects:
    """Objects on flat ground, all of them fully visible."""
    names = random.choice(list(SIZES), count)
    dimensions = np.array([SIZES[name] for name in names]).reshape(-1, 3) * random.normal(1, 0.05, (count, 3))
    bottom = np.stack([random.uniform(-8, 8, count), np.full(count, 1.65), random.uniform(6, 55, count)], 1)
    yaw = random.uniform(-np.pi, np.pi, count)
    return Objects(
        names=names,
        truncation=np.zeros(count),
        occlusion=np.zeros(count, np.int64),
        alpha=yaw - np.arctan2(bottom[:, 0], bottom[:, 2]),
        boxes_2d=boxes_2d_of(bottom, dimensions),
        dimensions=dimensions,
        bottom=bottom,
        yaw=yaw,
    )


def boxes_2d_of(bottom: np.ndarray, dimensions: np.ndarray) -> np.ndarray:
    """Boxes as wide as the object is long."""
    scale = FOCAL_PX / bottom[:, 2]
    u, v = CENTRE_U + scale * bottom[:, 0], CENTRE_V + scale * bottom[:, 1]
    half = scale * dimensions[:, 2] / 2
    return np.stack([u - half, v - scale * dimensions[:, 0], u + half, v], 1)


def jittered(random: np.random.Generator, truth: Objects) -> Objects:
    """Most objects found, a metre or so off in depth, with scores that tell little."""
    found = truth[random.random(len(truth)) < 0.85]
    bottom = found.bottom * (1 + random.normal(0, 0.02, (len(found), 1)))
    return replace(
        found,
        truncation=np.full(len(found), -1.0),
        occlusion=np.full(len(found), -1, np.int64),
        bottom=bottom,
        dimensions=found.dimensions * random.normal(1, 0.03, found.dimensions.shape),
        boxes_2d=found.boxes_2d + random.normal(0, 1.0, found.boxes_2d.shape),
        yaw=found.yaw + random.normal(0, 0.1, len(found)),
        alpha=found.alpha + random.normal(0, 0.1, len(found)),
        scores=random.random(len(found)),
    )


@pytest.fixture(scope="session")
def street() -> tuple[list[Objects], list[Objects]]:
    """60 frames of labels, and detections for them."""
    random = np.random.default_rng(7)
    truth = [random_frame(random, count) for count in random.integers(0, 9, 60)]
    return truth, [jittered(random, one) for one in truth]
