"""The page in a real browser: Chromium without a screen, driven by Playwright.

MONOSKD_SCREENSHOTS names a folder that pictures of the page are written to.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

from playwright.sync_api import sync_playwright

from monoskd.kitti.io import format_objects, read_objects
from monoskd.serve.example import INDEX, SEED, SIZE
from monoskd.synthetic.frame import label_frame

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "device_scale_factor": 2}
WIDTHS = {"phone": 390, "tablet": 820, "desktop": 1366}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Opens the page in a browser with these options. Afterwards: no error, and no request went to another host."""
    contexts, faults, hosts = [], [], set()

    def open_(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "://" in request.url else None)
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []
    assert hosts == {address.split("/")[2]}


def take_example(page: Any) -> None:
    page.get_by_role("button", name="Take the example").click()
    page.locator("#result").wait_for()


def set_threshold(page: Any, score: float) -> None:
    page.locator("#threshold").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')) }", score**0.5
    )


def count(page: Any) -> int:
    """Rows of the table, which the first figure repeats."""
    rows = page.locator("#objects tbody tr").count()
    assert page.locator(".tile b").first.inner_text() == str(rows)
    return int(rows)


def pixels(page: Any, name: str) -> str:
    """What a canvas shows."""
    return str(page.locator(f"#{name}").evaluate("canvas => canvas.toDataURL()"))


def shoot(page: Any, name: str) -> None:
    if folder := os.environ.get("MONOSKD_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def known() -> Any:
    """The objects that the server's detector finds in every picture, nearest first."""
    objects = label_frame(SEED, INDEX, SIZE)
    objects = objects[np.isin(objects.names, ["Car", "Van", "Pedestrian"])]
    return objects[np.argsort(objects.bottom[:, 2])]


def test_the_example_is_shown_with_its_objects(open_page: Open) -> None:
    page = open_page()
    take_example(page)
    set_threshold(page, 0)
    assert count(page) == len(known())
    first = page.locator("#objects tbody tr").first.inner_text().split()
    assert first[:2] == ["1", str(known().names[0])]
    assert first[3] == f"{known().bottom[0, 2]:.1f}"
    label = page.locator("#picture").get_attribute("aria-label")
    assert f"1 {known().names[0]} {known().bottom[0, 2]:.1f} m ahead" in label
    assert page.locator("#gallery").is_hidden()


def test_threshold_and_classes_act_at_once(open_page: Open) -> None:
    page = open_page()
    take_example(page)
    views = ("picture", "above", "space")
    set_threshold(page, 0)
    whole, everything = count(page), [pixels(page, name) for name in views]
    set_threshold(page, 0.5)
    assert 0 < count(page) < whole
    assert all(pixels(page, name) != before for name, before in zip(views, everything, strict=True))
    set_threshold(page, 1)
    assert count(page) == 0
    assert "Lower the least score" in page.locator("#none").inner_text()
    set_threshold(page, 0)
    page.get_by_role("checkbox", name="Van").uncheck()
    assert count(page) == (known().names != "Van").sum() < whole
    page.get_by_role("checkbox", name="Van").check()
    assert [pixels(page, name) for name in views] == everything


def test_the_3d_view_turns_with_mouse_and_keys(open_page: Open) -> None:
    page = open_page()
    take_example(page)
    space = page.locator("#space")
    space.scroll_into_view_if_needed()
    start, look = pixels(page, "space"), space.get_attribute("data-look")
    box = space.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 80, middle[1] + 20)
    page.mouse.up()
    assert space.get_attribute("data-look") != look
    assert pixels(page, "space") != start
    page.mouse.move(*middle)  # without a button it stays
    turned = space.get_attribute("data-look")
    page.mouse.move(middle[0] - 60, middle[1])
    assert space.get_attribute("data-look") == turned
    space.focus()
    for key in ("ArrowLeft", "ArrowUp", "+"):
        before = space.get_attribute("data-look")
        page.keyboard.press(key)
        assert space.get_attribute("data-look") != before
    page.keyboard.press("Home")
    assert space.get_attribute("data-look") == look
    assert pixels(page, "space") == start


def test_the_3d_view_turns_with_a_finger(open_page: Open) -> None:
    page = open_page(**PHONE)
    take_example(page)
    space = page.locator("#space")
    space.scroll_into_view_if_needed()
    look, box, scrolled = space.get_attribute("data-look"), space.bounding_box(), page.evaluate("scrollY")
    touch = page.context.new_cdp_session(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": x + 60, "y": y + 10}]),
        ("touchEnd", []),
    ):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.wait_for_function("look => document.getElementById('space').dataset.look !== look", arg=look)
    assert page.evaluate("scrollY") == scrolled  # the page stays where it is


def test_downloads_hold_what_is_shown(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    take_example(page)
    set_threshold(page, 0.5)
    with page.expect_download() as download:
        page.get_by_role("button", name="KITTI text").click()
    assert download.value.suggested_filename == "example.txt"
    download.value.save_as(tmp_path / "example.txt")
    objects = read_objects(tmp_path / "example.txt", scored=True)
    assert len(objects) == count(page)
    assert objects.scores is not None
    assert (objects.scores >= 0.5).all()
    assert format_objects(objects) == (tmp_path / "example.txt").read_text()
    assert np.allclose(objects.bottom[0], known().bottom[0], atol=1e-3)
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    download.value.save_as(tmp_path / "detections.json")
    document = json.loads((tmp_path / "detections.json").read_text())
    assert document["schema"] == "monoskd/detections/1"
    assert len(document["images"][0]["detections"]) == len(objects)


def test_a_broken_picture_is_named_and_the_good_ones_are_side_by_side(
    open_page: Open, jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    for name, content in (("good.jpg", jpeg()), ("broken.jpg", jpeg()[:500]), ("tall.jpg", jpeg(300, 500))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "note.png").write_text("no picture")
    page = open_page()
    names = ("good.jpg", "broken.jpg", "note.png", "tall.jpg")
    page.locator("#files").set_input_files([tmp_path / name for name in names])
    page.locator("#gallery button", has_text="tall.jpg").get_by_text("objects").wait_for()
    errors = page.get_by_role("alert").inner_text().splitlines()
    assert [line.split(":")[0] for line in errors if line] == ["broken.jpg", "note.png"]
    assert "expected a whole image" in errors[0]
    assert page.locator("#gallery button").count() == 2
    page.locator("#gallery button", has_text="good.jpg").click()
    assert page.locator("#name").inner_text() == "good.jpg"
    assert "Assumed" in page.locator("#camera-source").inner_text()
    shoot(page, "several")


def test_a_camera_that_is_corrected_is_asked_anew(open_page: Open, jpeg: Callable[..., bytes], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    (tmp_path / "phone.jpg").write_bytes(jpeg(exif=exif))
    page = open_page()
    page.locator("#files").set_input_files(tmp_path / "phone.jpg")
    page.locator("#result").wait_for()
    assert "From the picture: EXIF, 26 mm" in page.locator("#camera-source").inner_text()
    before, drawn = float(page.get_by_label("Focal length").input_value()), pixels(page, "picture")
    with page.expect_response("**/predict") as response:
        page.get_by_label("Field of view").fill("90")
    assert response.value.json()["images"][0]["camera"]["focal_px"] == [pytest.approx(320)] * 2
    assert float(page.get_by_label("Focal length").input_value()) == 320 != before
    with page.expect_response("**/predict") as response:
        page.get_by_label("Looks down").fill("5")
    assert response.value.json()["images"][0]["camera"]["rotation_to_level"][1][2] == pytest.approx(
        np.sin(np.radians(5))
    )
    assert pixels(page, "picture") != drawn
    with page.expect_response("**/predict") as response:
        page.get_by_role("button", name="As the picture says").click()
    assert response.value.json()["images"][0]["camera"]["source"].startswith("EXIF")


def test_the_horizon_and_the_boxes_are_where_the_library_has_them(open_page: Open) -> None:
    from monoskd.geometry.camera import Camera
    from monoskd.inference.lens import Lens, level_rotation

    lens = Lens(
        Camera.from_focal(500.0, width=640, height=360), 640, 360, "", rotation=level_rotation(pitch_deg=7, roll_deg=-4)
    )
    rays = np.array([[-0.3, 0, 1], [0.4, 0, 1], [0.2, 0.1, 1.3]])
    expected = lens.pixels(rays @ lens.rotation)  # from the level frame to that of the camera
    assert lens.rectified is not None
    assert np.allclose(lens.rectified.back(lens.rectified.camera.project(rays)), expected)
    found = open_page().evaluate(
        """async rays => {
          const { homogeneous, levelRotation } = await import("/page/geometry.js");
          const projection = [[500, 0, 320, 0], [0, 500, 180, 0], [0, 0, 1, 0]];
          const camera = { projection, rotation_to_level: levelRotation(7, -4) };
          return rays.map(ray => homogeneous(camera, ray)).map(([u, v, w]) => [u / w, v / w]);
        }""",
        rays.tolist(),
    )
    assert np.allclose(found, expected)


def test_everything_is_reached_with_the_keyboard(open_page: Open) -> None:
    page = open_page()
    take_example(page)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    wanted = {"files", "example", "threshold", "horizon", "hfov", "focal", "pitch", "roll", "camera-reset"}
    assert wanted | {"save-json", "save-kitti", "space", "Nearer", "Reset", "1 Car"} <= reached
    first = page.get_by_role("button", name="1 Car", exact=True)
    first.press("Enter")
    assert first.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.textContent") == "1 Car"


def test_every_control_and_view_has_a_name(open_page: Open) -> None:
    page = open_page()
    take_example(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, button, canvas")]
          .filter(e => e.offsetParent && !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
          .map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("#status[role=status]").inner_text().startswith("example.jpg: ")


def test_the_page_fits_every_screen_in_light_and_dark(open_page: Open) -> None:
    page = open_page()
    take_example(page)
    for device, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 844})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(100)
            shoot(page, f"{device}-{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, background[4:-1].split(","))) > 600) == (scheme == "light")
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, .button, .check, input[type=number]")]
              .filter(e => e.offsetParent && e.getBoundingClientRect().height < 32).map(e => e.outerHTML)"""
        )
        assert small == []  # targets for a finger


def test_a_server_that_is_full_or_gone_is_said(open_page: Open) -> None:
    page = open_page()
    answers = iter([503])

    def full_once(route: Any) -> None:
        if next(answers, None):
            detail = json.dumps({"detail": "server: expected fewer requests"})
            route.fulfill(status=503, headers={"Retry-After": "1"}, content_type="application/json", body=detail)
        else:
            route.continue_()

    page.route("**/predict", full_once)
    page.get_by_role("button", name="Take the example").click()
    page.get_by_text("The server is busy. Trying again in 1 s.").wait_for()
    page.locator("#result").wait_for()
    page.unroute("**/predict")
    page.route("**/predict", lambda route: route.abort())
    page.get_by_role("button", name="Take the example").click()
    page.get_by_role("alert").get_by_text("example.jpg").wait_for()
