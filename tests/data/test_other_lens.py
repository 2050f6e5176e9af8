from dataclasses import replace

import cv2
import numpy as np
import pytest

from monoskd.data.other_lens import through_lens
from monoskd.data.transforms import Augmentation, Draw, view_of
from monoskd.frames import MEAN_COLOUR, Frame
from monoskd.geometry.camera import Camera
from monoskd.inference.inputs import NetworkInput
from monoskd.objects import Objects

WIDTH, HEIGHT, FOCAL_PX = 640, 192, 400.0


def smooth(*, width: int, height: int) -> np.ndarray:
    """A street as of large patches of colour, the same for any number of pixels."""
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    waves = [128 + 100 * np.sin(2 * np.pi * (across * u + down * v)) for across, down in ((3, 1), (2, 2), (1, 3))]
    return np.round(np.stack(waves, -1)).astype(np.uint8)


def frame(**objects: object) -> Frame:
    camera = Camera(np.array([[FOCAL_PX, 0, WIDTH / 2, 0], [0, FOCAL_PX, HEIGHT / 2, 0], [0, 0, 1, 0]]))
    depth = np.full((HEIGHT, WIDTH), 20, np.float32)
    boxes = [[300.0, 80.0, 340.0, 120.0], [440.0, 90.0, 520.0, 110.0], [20.0, 90.0, 60.0, 110.0]]
    known = {
        "names": np.array(["Car"] * 3),
        "truncation": np.array([0.0, 0.2, 0.0]),
        "occlusion": np.zeros(3, np.int64),
        "alpha": np.zeros(3),
        "boxes_2d": np.array(boxes),
        "dimensions": np.ones((3, 3)),
        "bottom": np.tile([0.0, 1.0, 20.0], (3, 1)),
        "yaw": np.zeros(3),
    }
    return Frame(smooth(width=WIDTH, height=HEIGHT), camera, depth, Objects(**{**known, **objects}))


def as_predicted(one: Frame, camera: Camera) -> np.ndarray:
    """What the network sees of a picture that another lens took, asked as `predict` asks."""
    asked = NetworkInput("rgb", (WIDTH, HEIGHT), 32, FOCAL_PX, published_input=False)
    return asked.view(Frame(one.image, camera, None, None)).image


def longer(camera: Camera, times: float) -> Camera:
    P = np.array(camera.P)
    P[0, 0] *= times
    P[1, 1] *= times
    return Camera(P)


def test_a_longer_lens_looks_as_prediction_shows_it() -> None:
    here = frame()
    middle = here.image[HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4]
    taken = cv2.resize(middle, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    wanted = as_predicted(replace(here, image=taken), longer(here.camera, 2)).astype(int)
    found = view_of(here, input_size=(WIDTH, HEIGHT), draw=Draw(lens=2.0)).image.astype(int)
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4] = False
    assert (found[outside] == MEAN_COLOUR).all()
    assert (wanted[outside] == MEAN_COLOUR).all()
    np.testing.assert_allclose(found, wanted, atol=6)


def test_a_wider_lens_has_the_detail_that_prediction_shows() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    here = replace(frame(), image=noise)
    taken = cv2.resize(noise, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    P = np.array(here.camera.P)
    P[:2] /= 2
    wanted = as_predicted(replace(here, image=taken), Camera(P)).astype(float)
    found = view_of(here, input_size=(WIDTH, HEIGHT), draw=Draw(lens=0.5)).image.astype(float)
    assert found.std() == pytest.approx(wanted.std(), rel=0.3)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9
    assert found.std() < 0.5 * noise.std()


def test_objects_are_cut_at_the_border_and_those_beyond_are_gone() -> None:
    here = frame()
    seen = through_lens(here, 2.0)  # 160 to 480 px, 48 to 144 px
    assert seen.objects is not None
    assert seen.depth_m is not None
    np.testing.assert_array_equal(seen.objects.boxes_2d, [[300, 80, 340, 120], [440, 90, 480, 110]])
    np.testing.assert_allclose(seen.objects.truncation, [0, 1 - 0.8 / 2])
    assert seen.size == here.size
    assert (seen.depth_m > 0).sum() == WIDTH * HEIGHT // 4
    assert (here.image == smooth(width=WIDTH, height=HEIGHT)).all(), "the recording's own picture stays"


def test_what_is_not_known_of_truncation_stays_unknown() -> None:
    seen = through_lens(frame(truncation=np.full(3, -1.0)), 2.0)
    assert seen.objects is not None
    assert seen.objects.truncation.tolist() == [-1, -1]


def test_the_same_lens_and_a_frame_without_labels_or_depth() -> None:
    here = frame()
    assert through_lens(here, 1.0) is here
    bare = through_lens(replace(here, depth_m=None, objects=None), 1.5)
    assert bare.depth_m is None
    assert bare.objects is None


def test_lenses_are_drawn_last_and_between_half_and_twice() -> None:
    off, on = (
        [Augmentation(lens=share).draw(np.random.default_rng(seed)) for seed in range(400)] for share in (0, 0.5)
    )
    assert [replace(draw, lens=1.0) for draw in on] == off, "other augmentations do not change"
    lenses = np.array([draw.lens for draw in on])
    assert np.mean(lenses != 1) == pytest.approx(0.5, abs=0.1)
    assert 0.5 <= lenses.min() < 0.6
    assert 1.8 < lenses.max() <= 2
