"""The answers of the application, with a worker process behind it."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="no fastapi: pip install 'monoskd[serve]'")
pytest.importorskip("httpx2", reason="no httpx2, which the test client speaks")

from starlette.testclient import TestClient

from monoskd.inference.cameras import CameraSource
from monoskd.inference.predict import predict_source
from monoskd.inference.predictor import Predictor
from monoskd.serve.app import create_app
from monoskd.serve.document import Document
from monoskd.serve.limits import Limits
from monoskd.serve.question import Model
from monoskd.serve.worker import Worker

Jpeg = Callable[..., bytes]
LIMITS = Limits(upload_bytes=2 * 2**20, pixels=2_000_000, answer_s=20)


@pytest.fixture(scope="module")
def worker(known_model: Path) -> Iterator[Worker]:
    worker = Worker(Model(known_model), LIMITS)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def client(worker: Worker) -> Iterator[TestClient]:
    with TestClient(create_app([worker], LIMITS), raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, picture: bytes, name: str = "street.jpg", **fields: Any) -> Any:
    return client.post("/predict", files={"picture": (name, picture)}, data=fields)


def complaint(answer: Any, status: int) -> str:
    """The one line of a refusal with this status."""
    assert answer.status_code == status, answer.text
    line = answer.json()["detail"]
    assert isinstance(line, str)
    assert "\n" not in line
    return line


def test_the_answer_is_the_document_of_predict(
    client: TestClient, known_model: Path, jpeg: Jpeg, tmp_path: Path
) -> None:
    (tmp_path / "street.jpg").write_bytes(jpeg())
    cameras = CameraSource(focal_px=500.0, pitch_deg=2.0, roll_deg=-1.0)
    predict_source(Predictor(known_model), tmp_path / "street.jpg", cameras=cameras, out=tmp_path / "out", score=0.5)
    written = json.loads((tmp_path / "out" / "detections.json").read_text())
    answer = post(client, jpeg(), focal_px=500, pitch_deg=2, roll_deg=-1, score=0.5)
    assert answer.status_code == 200, answer.text
    served = answer.json()
    assert served["images"][0]["camera"].pop("source") == "focal_px"
    assert written["images"][0]["camera"].pop("source") == "--focal"
    assert served == written
    assert len(served["images"][0]["detections"]) > 3


def test_the_answer_fits_its_description(client: TestClient, jpeg: Jpeg) -> None:
    for fields in ({"hfov_deg": 80}, {"hfov_deg": 80, "roll_deg": 3}):
        answer = post(client, jpeg(), **fields).json()
        assert Document.model_validate(answer).images[0].detections


@pytest.mark.parametrize(
    ("fields", "focal_px", "source"),
    [
        ({"focal_px": 700}, 700, "focal_px"),
        ({"hfov_deg": 90}, 320, "hfov_deg"),
        ({"hfov_deg": 90, "assumed_hfov_deg": 60}, 320, "hfov_deg"),
        ({"assumed_hfov_deg": 90}, 320, "assumed"),
        ({"projection": "700 0 322 40 0 700 101 0 0 0 1 0"}, 700, "projection"),
        ({"projection": "700 1e-14 322 40 0 700 101 0 0 0 1.0000000002 0"}, 700, "projection"),  # a product of matrices
    ],
)
def test_the_camera_is_what_the_request_says(
    client: TestClient, jpeg: Jpeg, fields: dict[str, Any], focal_px: float, source: str
) -> None:
    camera = post(client, jpeg(), **fields).json()["images"][0]["camera"]
    assert camera["source"] == source
    assert camera["focal_px"][0] == pytest.approx(focal_px)
    assert (camera["width"], camera["height"]) == (640, 200)


def test_the_pictures_own_exif_comes_before_what_is_assumed(client: TestClient, jpeg: Jpeg) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    camera = post(client, jpeg(exif=exif), assumed_hfov_deg=60).json()["images"][0]["camera"]
    assert camera["source"] == "EXIF, 26 mm on 35 mm film"
    assert camera["focal_px"][0] == pytest.approx(26 * np.hypot(640, 200) / np.hypot(36, 24))


def test_a_picture_on_its_side_is_turned_upright(client: TestClient, jpeg: Jpeg) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    camera = post(client, jpeg(exif=exif), hfov_deg=60).json()["images"][0]["camera"]
    assert (camera["width"], camera["height"]) == (200, 640)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "camera: expected one, got none, also not from the picture's EXIF: give focal_px"),
        ({"focal_px": 0}, "focal_px: expected greater than or equal to 1, got '0'"),
        ({"focal_px": "wide"}, "focal_px: expected a valid number.*got 'wide'"),
        ({"focal_px": "nan"}, "focal_px: expected a finite number, got 'nan'"),
        ({"hfov_deg": 180}, "hfov_deg: expected less than or equal to 179"),
        ({"hfov_deg": 90, "focal_px": 400}, "camera: expected one of focal_px and hfov_deg, got both"),
        ({"hfov_deg": 90, "pitch_deg": 70}, "pitch_deg: expected less than or equal to 60"),
        ({"hfov_deg": 90, "score": 2}, "score: expected less than or equal to 1"),
        ({"hfov_deg": 90, "fov": 3}, "fov: expected one of focal_px, hfov_deg"),
        ({"hfov_deg": 90, "ticket": "../etc"}, "ticket: expected"),
        ({"hfov_deg": ["90", "91"]}, "hfov_deg: expected it once, got several"),
        ({"projection": "1 2 3"}, "projection: expected 12 numbers below 1e6, got '1 2 3'"),
        ({"projection": "700 0 322 40 0 700 101 0 0 0 nan 0"}, "projection: expected 12 numbers"),
        ({"projection": "700 9 322 40 0 700 101 0 0 0 1 0"}, "projection: expected fx 0 cx x"),
        ({"projection": "700 0 900 40 0 700 101 0 0 0 1 0"}, "projection: expected the camera of a 640 x 200 picture"),
    ],
)
def test_a_bad_camera_is_one_line(client: TestClient, jpeg: Jpeg, fields: dict[str, Any], expected: str) -> None:
    assert re.search(expected, complaint(post(client, jpeg(), **fields), 422))


def bomb() -> bytes:
    """A PNG of a few kilobytes with many pixels."""
    file = BytesIO()
    Image.new("1", (4000, 4000)).save(file, "PNG")
    return file.getvalue()


def encoded(kind: str, size: tuple[int, int] = (80, 60)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (b"", "picture: expected an image (JPEG, PNG, WEBP), got another kind of file: convert it to JPEG or PNG"),
        (b"GIF89a but not really", "expected an image (JPEG, PNG, WEBP)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected an image (JPEG, PNG, WEBP)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected an image (JPEG, PNG, WEBP)"),
        (encoded("TIFF"), "expected an image (JPEG, PNG, WEBP)"),
        (encoded("JPEG")[:200], "picture: expected a whole image"),
        (encoded("PNG")[:60], "picture: expected a whole image"),
        (bomb(), "picture: expected at most 2000000 pixels, got a larger picture"),
        (encoded("PNG", (900, 3)), "picture: expected at least 32 pixels each way, got 900 x 3"),
    ],
    ids=["empty", "words", "svg", "postscript", "tiff", "cut jpeg", "cut png", "bomb", "thread"],
)
def test_what_is_no_good_picture_is_one_line(client: TestClient, picture: bytes, expected: str) -> None:
    assert expected in complaint(post(client, picture, hfov_deg=60), 422)


def test_what_is_no_upload_is_one_line(client: TestClient, jpeg: Jpeg) -> None:
    assert "got 'application/json'" in complaint(client.post("/predict", json={"picture": "x"}), 415)
    assert "got ''" in complaint(client.post("/predict", content=jpeg()), 415)
    multipart = {"content-type": "multipart/form-data"}
    assert "Missing boundary" in complaint(client.post("/predict", content=b"x", headers=multipart), 400)
    cut = {"content-type": "multipart/form-data; boundary=a"}
    assert "body: expected" in complaint(client.post("/predict", content=b"no boundary here", headers=cut), 400)
    assert "picture: expected a file, got none" in complaint(client.post("/predict", files={"no": ("", b"")}), 422)
    two = [("picture", ("a.jpg", jpeg())), ("picture", ("b.jpg", jpeg()))]
    assert "Too many files" in complaint(client.post("/predict", files=two), 400)
    assert "got none" in complaint(client.post("/predict", data={"picture": "words"}, files={"x": ("x", b"")}), 422)


def test_a_body_beyond_the_limit_is_refused_declared_or_not(client: TestClient) -> None:
    large = b"x" * (LIMITS.upload_bytes + 1)
    assert "body: expected at most 2 MiB" in complaint(post(client, large, hfov_deg=60), 413)
    head = b'--a\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'
    chunks = (head, *[b"x" * 2**16] * 40)
    kind = {"content-type": "multipart/form-data; boundary=a"}
    answer = client.post("/predict", content=iter(chunks), headers=kind)  # no content-length
    assert "body: expected at most 2 MiB" in complaint(answer, 413)


def test_nothing_of_a_picture_reaches_the_disk(client: TestClient, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # what a spooled file becomes beyond its size
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    picture = jpeg() + b"\0" * 1_900_000  # behind the end of a JPEG anything may stand
    assert post(client, picture, hfov_deg=60).status_code == 200


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd.jpg", "passwd"),
        ("C:\\pictures\\a.b.png", "a.b"),
        ("\u2028\u200b.jpg", "picture"),
        ("x" * 500 + ".jpg", "x" * 100),
        ("straße 1.jpg", "straße 1"),
    ],
)
def test_the_name_of_a_picture_is_words_only(client: TestClient, jpeg: Jpeg, name: str, expected: str) -> None:
    assert post(client, jpeg(), name=name, hfov_deg=60).json()["images"][0]["image"] == expected


def test_no_path_of_a_client_reaches_the_disk(client: TestClient) -> None:
    for path in ("/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/../app.py", "/page//etc/passwd", "/page/app.py"):
        assert client.get(path).status_code in (404, 307), path
    assert client.get("/page/app.js").headers["content-type"].startswith("text/javascript")


def test_every_answer_carries_the_headers(client: TestClient, jpeg: Jpeg) -> None:
    answers = [
        client.get(path) for path in ("/", "/page/app.js", "/healthz", "/example.jpg", "/openapi.json", "/nowhere")
    ]
    for answer in (*answers, post(client, jpeg(), hfov_deg=60), post(client, b"", hfov_deg=60)):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers


def test_the_page_names_no_other_host(client: TestClient) -> None:
    listed = client.get("/").text
    names = [word.split('"')[0] for word in listed.split("/page/")[1:]]
    for text in (listed, *(client.get(f"/page/{name}").text for name in names)):
        assert not [word for word in text.split() if "://" in word.replace("http://www.w3.org/", "")]
    assert "style=" not in listed
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404  # both load from other hosts


def test_requests_of_other_sites_are_refused(worker: Worker, jpeg: Jpeg) -> None:
    with TestClient(create_app([worker], LIMITS, hosts=("localhost", "::1"))) as client:
        for host in ("localhost", "localhost:8000", "[::1]:8000"):
            assert client.get("/healthz", headers={"host": host}).status_code == 200
        for host in ("evil.example", "evil.example:8000", "", "[", "127.0.0.1.evil.example"):
            assert "host: expected localhost or ::1" in complaint(client.get("/healthz", headers={"host": host}), 403)
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            headers = {"host": "localhost", "sec-fetch-site": site}
            assert client.get("/", headers=headers).status_code == status


def test_the_example_is_a_picture_with_its_camera(client: TestClient) -> None:
    picture, camera = client.get("/example.jpg"), client.get("/example.json").json()
    assert Image.open(BytesIO(picture.content)).size == (1242, 375)
    answer = post(client, picture.content, projection=" ".join(map(str, camera["projection"])))
    assert np.ravel(answer.json()["images"][0]["camera"]["projection"]).tolist() == camera["projection"]


def test_health_and_facts(client: TestClient) -> None:
    health = client.get("/healthz").json()
    assert health == {"status": "ok", "workers": 1, "requests": 0, "waiting": 0, "replaced": 0}
    facts = client.get("/about").json()
    assert facts["classes"]["Car"] == "#4ac3ff"
    assert list(facts["classes"]) == ["Car", "Van", "Pedestrian"]
    assert facts["score"] == 0.2
    assert "expected one of a request" in complaint(client.get("/line/nobody"), 404)
