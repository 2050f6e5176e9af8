"""Pictures as phones, cameras and tools really write them."""

import os
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from monoskd.errors import InputError
from monoskd.images import opened, read_image_size, read_pixels

ORIENTATION = 0x0112
PICTURE = np.full((40, 60, 3), 30, np.uint8)
PICTURE[:20, :30] = 220  # a bright upper left corner tells which way is up


def saved(path: Path, kind: str, *, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"save_all": True, "append_images": [Image.fromarray(PICTURE)]} if kind == "MPO" else {}
    Image.fromarray(PICTURE).save(path, format=kind, exif=exif, **options)
    return path


AVIF = pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="a Pillow without AVIF"))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", AVIF])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_whatever_its_container(tmp_path: Path, kind: str, orientation: int) -> None:
    path = saved(tmp_path / "i.any", kind, orientation=orientation)
    pixels = read_pixels(path, mode="RGB")
    upright = {  # what a viewer shows, by the EXIF standard
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: PICTURE[::-1].transpose(1, 0, 2),
        7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
        8: PICTURE[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 3
    assert read_image_size(path) == upright.shape[1::-1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_none_of_turns_nothing(tmp_path: Path, kind: str, orientation: int) -> None:
    path = saved(tmp_path / "i.any", kind, orientation=orientation)
    assert read_pixels(path, mode="RGB").shape == PICTURE.shape
    assert read_image_size(path) == PICTURE.shape[1::-1]


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", AVIF])
def test_whatever_is_damaged_is_one_line(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    content = saved(tmp_path / "whole", kind, orientation=6).read_bytes()
    path, outcomes = tmp_path / "damaged", set()
    for index in range(60):
        damaged = bytearray(content)
        for place in random.integers(0, len(content) if index % 2 else min(200, len(content)), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        for read in (read_image_size, lambda path: read_pixels(path, mode="RGB")):
            try:
                read(path)
                outcomes.add("read")
            except InputError as error:
                outcomes.add("refused" if str(error).startswith(f"{path}: expected ") else str(error))
    assert outcomes == {"refused", "read"}


def test_a_machine_without_memory_is_not_a_damaged_picture(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(MemoryError), opened(tmp_path / "a.png", where="a.png"):
        raise MemoryError


def test_orientation_in_a_text_chunk_of_a_png_counts_for_size_and_pixels_alike(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    Image.fromarray(PICTURE).save(tmp_path / "i.png", pnginfo=words)
    assert read_image_size(tmp_path / "i.png") == read_pixels(tmp_path / "i.png", mode="RGB").shape[1::-1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "MPO"])
def test_data_behind_the_end_does_no_harm_but_a_missing_end_does(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "i.any", kind)
    whole = path.read_bytes()
    path.write_bytes(whole + np.random.default_rng(0).bytes(20_000).replace(b"\xff", b"\0"))
    assert read_pixels(path, mode="RGB").shape == (40, 60, 3)
    assert read_image_size(path) == (60, 40)
    end = whole.index(b"\xff\xd9") if kind != "PNG" else len(whole) - 8
    for kept in (end, end - 5):
        path.write_bytes(whole[:kept])
        for read in (lambda: read_pixels(path, mode="RGB"), lambda: read_image_size(path)):
            with pytest.raises(InputError, match=r"i\.any: expected a whole image, got one without its end"):
                read()


def test_a_thumbnail_in_the_header_is_not_the_end_of_a_jpeg(tmp_path: Path) -> None:
    thumbnail = BytesIO()
    Image.new("RGB", (8, 8)).save(thumbnail, format="JPEG")
    path = tmp_path / "i.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path, exif=b"Exif\0\0" + thumbnail.getvalue())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="without its end"):
        read_image_size(path)


@pytest.mark.parametrize(("suffix", "channels"), [("png", 3), ("png", 4), ("tiff", 3), ("tiff", 4), ("ppm", 3)])
def test_colour_of_16_bits_is_refused_and_not_read_nearly_black(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"deep.{suffix}"
    assert cv2.imwrite(str(path), np.full((4, 6, channels), 3000, np.uint16))
    for read in (lambda: read_pixels(path, mode="RGB"), lambda: read_image_size(path)):
        with pytest.raises(InputError, match="expected 8 bits a channel, got mode 16 bits"):
            read()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP", AVIF])
def test_animations_and_pages_are_refused_and_not_read_as_their_first(tmp_path: Path, kind: str) -> None:
    first, second = Image.fromarray(PICTURE), Image.fromarray(PICTURE[::-1])
    first.save(tmp_path / "i.any", format=kind, save_all=True, append_images=[second])
    for read in (read_pixels, read_image_size):
        with pytest.raises(InputError, match=r"i\.any: expected one picture, got an animation or several pages: save"):
            read(tmp_path / "i.any", mode="RGB")


def test_size_and_pixels_refuse_the_same_depth_maps(tmp_path: Path) -> None:
    Image.fromarray(PICTURE[..., 0]).save(tmp_path / "d.png")
    for read in (read_pixels, read_image_size):
        with pytest.raises(InputError, match="expected a 16-bit grey PNG, got mode L"):
            read(tmp_path / "d.png", mode="I;16")
    Image.fromarray(PICTURE[..., 0].astype(np.uint16)).save(tmp_path / "d.png")
    assert read_image_size(tmp_path / "d.png", mode="I;16") == (60, 40)
    with pytest.raises(InputError, match="expected 8 bits a channel, got mode I;16"):
        read_image_size(tmp_path / "d.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_huge_sparse_picture_is_refused_before_it_is_read(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "i.any", kind)
    with path.open("r+b") as file:
        file.truncate(300 * 2**20)
    for read in (lambda: read_pixels(path, mode="RGB"), lambda: read_image_size(path)):
        with pytest.raises(InputError, match=r"i\.any: expected a file of at most 256 MiB, got 300 MiB"):
            read()


def test_a_sparse_png_within_the_limit_is_damaged(tmp_path: Path) -> None:
    path = saved(tmp_path / "i.png", "PNG")
    with path.open("r+b") as file:
        file.truncate(50)
        file.truncate(2**28)
    with pytest.raises(InputError, match="without its end"):
        read_image_size(path)


@pytest.mark.parametrize("name", ["mpo_exif6.jpg", "jpeg_exif6.jpg", "exif6.webp", "exif6.png"])
def test_the_cases_with_an_orientation_are_upright(shared: Path, name: str) -> None:
    upright = read_pixels(shared / "cases" / "motion_photo_trailer.jpg", mode="RGB")
    pixels = read_pixels(shared / "cases" / name, mode="RGB")
    assert pixels.shape == upright.shape == (125, 414, 3)
    assert np.abs(pixels.astype(int) - upright).mean() < 8
    assert read_image_size(shared / "cases" / name) == (414, 125)


def test_the_case_of_12_bits_is_refused(shared: Path) -> None:
    with pytest.raises(InputError, match=r"rgb_12bit_in_16\.png: expected 8 bits a channel"):
        read_pixels(shared / "cases" / "rgb_12bit_in_16.png", mode="RGB")


def test_jpeg_2000_is_refused_as_its_depth_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "deep.jp2"
    assert cv2.imwrite(str(path), np.full((40, 60, 3), 3000, np.uint16))
    with pytest.raises(InputError, match="got a JPEG 2000: convert the picture first"):
        read_pixels(path, mode="RGB")


def test_a_pipe_that_is_called_a_picture_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (read_pixels, read_image_size):
        with pytest.raises(InputError, match=r"pipe\.jpg: expected a file, got a device or pipe"):
            read(tmp_path / "pipe.jpg", mode="RGB")


@pytest.mark.parametrize("before", [2**20 - 1, 2**20, 2**20 + 1])
def test_the_end_of_a_jpeg_is_found_wherever_a_long_trailer_begins(tmp_path: Path, before: int) -> None:
    start, end = saved(tmp_path / "i.jpg", "JPEG").read_bytes().split(b"\xff\xda")
    whole = start + b"\xff\xda" + end[:-2].ljust(before, b"\0") + end[-2:] + bytes(10_000)
    (tmp_path / "i.jpg").write_bytes(whole)
    assert read_image_size(tmp_path / "i.jpg") == (60, 40)
    (tmp_path / "i.jpg").write_bytes(whole.replace(end[-2:] + bytes(10_000), bytes(10_000)))
    with pytest.raises(InputError, match="cut off"):
        read_image_size(tmp_path / "i.jpg")
