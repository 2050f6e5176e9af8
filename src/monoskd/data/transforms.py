"""Augmentation of one frame in original pixels, and resampling to the network's size.

Order: flip; crop and zoom, which only make a `Letterbox`; colour; another lens; then image and depth are resampled
once, through that letterbox. Numpy, OpenCV and PIL: no network.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monoskd.data.other_lens import through_lens
from monoskd.errors import InputError
from monoskd.frames import MEAN_COLOUR, DepthMap, Frame, Pixels, PublishedData
from monoskd.geometry.camera import Camera, Letterbox, PublishedLetterbox
from monoskd.geometry.heading import wrap
from monoskd.objects import Objects

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as torchvision's


@dataclass(frozen=True)
class Draw:
    """The augmentation of one sample; the default changes nothing.

    scale: size of the crop relative to the image; shift: of its centre, as fractions of the image's (width, height).
    lens: focal length of the lens that it seems to be taken through, over the camera's.
    """

    flip: bool = False
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    lens: float = 1.0


@dataclass(frozen=True)
class Augmentation:
    """The strength of augmentation. With every field 0 it does nothing.

    Args:
        flip_probability: share of samples that are mirrored left to right.
        crop_probability: share of samples that are cropped (or shrunk) and moved.
        scale: spread of the crop's relative size: normal around 1, clipped at one such spread.
        shift: spread of the crop's centre in image sizes: normal around the middle, clipped at two such spreads.
        brightness: brightness is multiplied by a factor in 1 -/+ this.
        contrast: the same for contrast about the picture's mean luma.
        saturation: the same for colour against luma.
        lens: share of samples that look as if another lens had taken them, of 1/2 to 2 times the focal length (its
            logarithm evenly). For cameras that differ from those of the recording (docs/focal.md).
    """

    flip_probability: float = 0.5
    crop_probability: float = 0.5
    scale: float = 0.4
    shift: float = 0.1
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    lens: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1 or (name == "scale" and value == 1):
                raise InputError(f"augmentation.{name}: expected a number from 0 to 1, got {value}: correct the config")

    def draw(self, rng: np.random.Generator) -> Draw:
        """One sample's augmentation. Always draws the same number of random values."""
        flip, crop = rng.random(2) < (self.flip_probability, self.crop_probability)
        size, *shift = rng.standard_normal(3)
        spread = np.array([self.brightness, self.contrast, self.saturation])
        brightness, contrast, saturation = (1 + spread * rng.uniform(-1, 1, 3)).tolist()
        other_lens, times = rng.uniform(), 2 ** rng.uniform(-1, 1)
        return Draw(
            flip=bool(flip),
            scale=float(np.clip(1 + size * self.scale, 1 - self.scale, 1 + self.scale)) if crop else 1.0,
            shift=_pair(np.clip(np.multiply(shift, self.shift), -2 * self.shift, 2 * self.shift)) if crop else (0, 0),
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            lens=float(times) if other_lens < self.lens else 1.0,
        )


@dataclass(frozen=True)
class View:
    """What a network is given of one frame, in numpy; see `Sample`.

    image: h' x w' x 3, in network pixels. depth_m: h' x w'; depth: the same as a depth network takes it. camera,
    objects: in original pixels, flipped if the image was. letterbox: original to network pixels.
    """

    image: Pixels
    camera: Camera
    letterbox: Letterbox
    depth_m: DepthMap | None
    depth: DepthMap | None
    objects: Objects | None


def view_of(
    frame: Frame,
    *,
    input_size: tuple[int, int],
    draw: Draw | None = None,
    published: PublishedData | None = None,
    letterbox: Letterbox | None = None,
) -> View:
    """The frame under an augmentation, resampled once.

    letterbox: where the picture lies in the network's input; None: whole, as large as fits `input_size`, under the
    augmentation.
    """
    draw, published = draw or Draw(), published or PublishedData()
    if published.divide_by_z:
        frame = replace(frame, camera=without_p23(frame.camera))
    if draw.flip:
        frame = flip(frame)
    letterbox = letterbox or draw_letterbox(
        size=frame.size, draw=draw, input_size=input_size, per_axis_decoding=published.per_axis_decoding
    )
    warp_rgb, warp_metres = (warp_published, warp_published) if published.plain_bilinear else (warp_image, warp_depth)
    frame = through_lens(replace(frame, image=jitter(frame.image, draw)), draw.lens)
    image = warp_rgb(frame.image, letterbox)
    depth_m = None if frame.depth_m is None else warp_metres(frame.depth_m, letterbox)
    depth = depth_m
    if depth_m is not None and published.double_depth_scale:
        depth = depth_m / np.float32(256 / draw.scale)
    return View(image, frame.camera, letterbox, depth_m, depth, frame.objects)


def flip(frame: Frame) -> Frame:
    """The frame in a mirror: u' = W - u, x' = -x, yaw' = pi - yaw, alpha' = pi - alpha, and the camera to match."""
    return Frame(
        image=frame.image[:, ::-1],
        camera=frame.camera.mirrored(frame.size[0]),
        depth_m=None if frame.depth_m is None else frame.depth_m[:, ::-1],
        objects=None if frame.objects is None else _flip_objects(frame.objects, width=frame.size[0]),
    )


def _flip_objects(objects: Objects, *, width: int) -> Objects:
    left, top, right, bottom = objects.boxes_2d.T
    return replace(
        objects,
        boxes_2d=np.stack([width - right, top, width - left, bottom], -1),
        bottom=objects.bottom * (-1, 1, 1),
        yaw=wrap(np.pi - objects.yaw),
        alpha=wrap(np.pi - objects.alpha),
    )


def jitter(image: Pixels, draw: Draw) -> Pixels:
    """Brightness, contrast and saturation: b (c (s x + (1 - s) luma(x)) + (1 - c) mean luma), one affine map of the
    colours.

    As torchvision's adjust_brightness, _contrast and _saturation in sequence, which commute, but rounded and clipped
    once at the end. Applied before resampling, so that pixels outside the picture keep their colour.
    """
    if (draw.brightness, draw.contrast, draw.saturation) == (1, 1, 1):
        return image
    mean_luma = _LUMA @ cv2.mean(image)[:3]
    colours = draw.contrast * (draw.saturation * np.eye(3) + (1 - draw.saturation) * np.tile(_LUMA, (3, 1)))
    offset = np.full((3, 1), (1 - draw.contrast) * mean_luma)
    jittered = cv2.transform(np.ascontiguousarray(image), draw.brightness * np.hstack([colours, offset]))
    return jittered.astype(np.uint8, copy=False)


def draw_letterbox(
    *, size: tuple[int, int], draw: Draw, input_size: tuple[int, int], per_axis_decoding: bool
) -> Letterbox:
    """Where the augmented crop of an image of `size` lies in the network's input; sizes are (width, height)."""
    width, height = draw.scale * size[0], draw.scale * size[1]
    centre = ((0.5 + draw.shift[0]) * size[0], (0.5 + draw.shift[1]) * size[1])
    if per_axis_decoding:
        return PublishedLetterbox.of_region(centre=centre, extent=(width, height), size=input_size, picture=size)
    return Letterbox.crop(centre=centre, scale=min(input_size[0] / width, input_size[1] / height), size=input_size)


def warp_image(image: Pixels, letterbox: Letterbox) -> Pixels:
    """The network's view of a picture: h' x w' x 3, outside it the colour that normalisation makes 0.

    Convolutions pad their maps with zeros too. Beside large black areas objects were missed (docs/focal.md).

    A triangle filter as wide as two pixels of the coarser grid: bilinear interpolation where the picture grows, a
    low-pass filter where it shrinks.
    """
    return _warp(image, letterbox, outside=MEAN_COLOUR)


def warp_depth(depth_m: DepthMap, letterbox: Letterbox) -> DepthMap:
    """The network's view of a depth map [m]: h' x w', 0 outside and where unknown.

    Filtered like the picture, so that their edges agree, but only over known pixels: sum(w d) / sum(w). Where those
    have less than half of the filter's weight, the depth is unknown.
    """
    known = _warp((depth_m > 0).astype(np.float32), letterbox)
    known[known < 0.5] = np.inf
    warped: DepthMap = _warp(depth_m, letterbox) / known
    return warped


def _warp(pixels: NDArray[Any], letterbox: Letterbox, *, outside: Any = 0) -> NDArray[Any]:
    """Resample where the picture covers the network's input; its edge pixels fill the network pixels they touch."""
    extent = np.array([pixels.shape[1], pixels.shape[0]], np.float64)
    corners = letterbox.apply(np.stack([0 * extent, extent]))
    first, last = np.clip([np.floor(corners[0]), np.ceil(corners[1])], 0, letterbox.size).astype(int)
    row = np.full((1, letterbox.size[0], *pixels.shape[2:]), outside, pixels.dtype)
    warped = row.repeat(letterbox.size[1], axis=0)  # by rows; to fill it colour by colour took a quarter of the time
    if (first >= last).any():
        return warped
    start, end = (np.array([first, last], np.float64) - letterbox.shift) / letterbox.scale
    border = int(np.ceil(max(0, *-start, *(end - extent))))
    padded = np.pad(pixels, [(border, border)] * 2 + [(0, 0)] * (pixels.ndim - 2), mode="edge") if border else pixels
    box = np.concatenate([start, end]) + border
    resized = Image.fromarray(np.ascontiguousarray(padded)).resize(
        _pair(last - first), Image.Resampling.BILINEAR, tuple(box.tolist())
    )
    warped[first[1] : last[1], first[0] : last[0]] = resized
    return warped


def warp_published(pixels: NDArray[Any], letterbox: Letterbox) -> NDArray[Any]:
    """As the original implementation resamples pictures and depth maps: one bilinear sample a pixel.

    It aliases where the picture shrinks, and unknown depth is averaged in as 0. By PIL's affine transform; OpenCV's, at
    the same positions, differs by one grey level at 44 % of the colours of real frames (docs/published.md).
    """
    numbers = tuple(_published_matrix(letterbox).flatten().tolist())
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(
        picture.transform(letterbox.size, Image.Transform.AFFINE, numbers, resample=Image.Resampling.BILINEAR)
    )


def _published_matrix(letterbox: Letterbox) -> NDArray[Any]:
    """2 x 3, network pixels to original ones, through three points in float32: the middle, above it, left of that.

    Rounded as the original's, for samples that lie halfway between two grey levels.
    """

    def points(middle: NDArray[Any], half_width: float) -> NDArray[np.float32]:
        first, second = np.stack([middle, middle - [0, half_width]]).astype(np.float32)
        third = second - np.array([first[1] - second[1], 0], np.float32)
        return np.stack([first, second, third])

    middle, half_width = np.array(letterbox.size) / 2, letterbox.size[0] / 2
    seen = points((middle - letterbox.shift) / letterbox.scale, half_width / float(letterbox.scale))
    matrix: NDArray[Any] = cv2.getAffineTransform(points(middle, half_width), seen)
    return matrix


def without_p23(camera: Camera) -> Camera:
    """The camera that divides by z instead of z + p23: as the original implementation projects."""
    P = np.array(camera.P)
    P[2, 3] = 0
    return Camera(P)


def _pair(values: Any) -> tuple[Any, Any]:
    first, second = np.asarray(values).tolist()
    return first, second
