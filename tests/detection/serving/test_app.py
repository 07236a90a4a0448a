"""The service with FastAPI's test client: a detector of one bright square in place of a network."""

import base64
import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from detection.inference.detections import Detections
from detection.serving.app import ServeLimits, make_app


class Squares:
    """Finds what is bright; stands in for a predictor."""

    classes, category_ids = ("square", "<b>other</b>"), (1, 5)
    channels = 3

    def __init__(self):
        self.go = threading.Event()
        self.go.set()

    def __call__(self, images, batch_size=1):
        assert self.go.wait(20)
        return [self.one(image) for image in images]

    def one(self, image):
        rows = np.argwhere(image[..., 0] > 200)
        if not len(rows):
            boxes = np.zeros((0, 4), np.float32)
        else:
            (y1, x1), (y2, x2) = rows.min(0), rows.max(0) + 1
            boxes = np.array([[x1, y1, x2, y2]] * 2, np.float32)
        scores = np.array([0.9, 0.3], np.float32)[: len(boxes)]
        return Detections(boxes, scores, np.array([1, 2])[: len(boxes)], self.classes, self.category_ids)


def photo(kind="PNG", size=(60, 40), box=(10, 12, 30, 32)):
    image = Image.new("RGB", size)
    if box:
        image.paste((255, 255, 255), box)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def squares():
    return Squares()


@pytest.fixture(scope="module")
def client(squares):
    limits = ServeLimits(max_bytes=50_000, max_pixels=10_000, timeout=5.0, batch_size=2, waiting=3)
    with TestClient(make_app(squares, limits)) as client:
        yield client


def post(client, content, name="a.png", **query):
    return client.post("/detect", files={"image": (name, content)}, params=query)


def test_json_of_an_upload(client):
    answer = post(client, photo())
    assert answer.status_code == 200
    content = answer.json()
    assert (content["width"], content["height"]) == (60, 40)
    assert content["detections"][0] == {"class": "square", "category_id": 1, "score": 0.9, "box": [10, 12, 30, 32]}
    assert len(content["detections"]) == 2
    assert len(post(client, photo(), score=0.5).json()["detections"]) == 1
    assert post(client, photo(box=None)).json()["detections"] == []


def test_base64_has_the_same_answer(client):
    text = base64.b64encode(photo()).decode()
    assert (
        client.post("/detect/json", json={"image": text}).json()["detections"]
        == post(client, photo()).json()["detections"]
    )
    for wrong in ("https://example.org/a.jpg", "file:///etc/passwd", "%%%"):
        answer = client.post("/detect/json", json={"image": wrong})
        assert answer.status_code == 422
        assert "not base64" in answer.json()["detail"]
    assert client.post("/detect/json", json={"url": "http://a"}).status_code == 422


def test_the_drawn_image(client):
    answer = post(client, photo(), drawn=True, score=0.5)
    assert answer.headers["content-type"] == "image/jpeg"
    image = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert image.shape == (40, 60, 3)
    assert int(np.abs(image[13:31, 10].astype(int) - 255).max()) > 60  # the box, in a colour


def test_what_is_refused(client):
    assert post(client, b"no image").status_code == 422
    assert post(client, b"").status_code == 422
    assert post(client, photo()[:80]).status_code == 422
    assert post(client, photo(size=(200, 200), box=None)).status_code == 413
    assert post(client, os.urandom(60_000)).status_code == 413
    assert client.post("/detect").status_code in (411, 422)
    assert client.post("/detect", content=iter([b"x"])).status_code == 411  # no length
    assert post(client, photo(), score=2).status_code == 422
    assert client.get("/detect").status_code == 405


def test_a_picklable_or_scripted_upload_is_no_image(client, tmp_path, monkeypatch):
    """Nothing is run or written, whatever the content and the name."""
    monkeypatch.chdir(tmp_path)
    payloads = [
        b"cos\nsystem\n(S'touch owned'\ntR.",
        b"%!PS\n(owned) (w) file\nshowpage",
        b"<svg onload='x'/>",
        b"P6\n9 9\n255\n",
    ]
    for content in payloads:
        assert post(client, content, name="../../owned.py").status_code == 422
    post(client, photo(), name="../../../owned.png")
    assert list(tmp_path.iterdir()) == []
    assert not (Path("..") / "owned.png").exists()


def test_overload_is_503_with_retry_after_and_loses_nothing(client, squares):
    """Of twelve at once those that are taken are answered, the others told when to ask again."""
    squares.go.clear()
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(post, client, photo(box=(i, i, i + 5, i + 5))) for i in range(12)]
        deadline = time.monotonic() + 5
        while sum(a.done() for a in answers) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        squares.go.set()
        answers = [a.result(20) for a in answers]
    assert {a.status_code for a in answers} == {200, 503}
    for i, answer in enumerate(answers):
        if answer.status_code == 200:
            assert answer.json()["detections"][0]["box"] == [i, i, i + 5, i + 5]
        else:
            assert int(answer.headers["retry-after"]) >= 1
    assert post(client, photo()).status_code == 200


def test_slow_requests_are_504(squares):
    with TestClient(make_app(squares, ServeLimits(timeout=0.1))) as client:
        squares.go.clear()
        assert post(client, photo()).status_code == 504
        squares.go.set()


def test_health_and_metrics(client):
    assert client.get("/health").json() == {"status": "ok", "classes": ["square", "<b>other</b>"], "waiting": 0}
    text = client.get("/metrics").text
    assert 'resdet_requests_total{status="200"}' in text
    assert "resdet_waiting 0" in text


def test_pages_and_headers(client):
    page = client.get("/")
    assert "Drop an image here" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/detect", "/detect/json", "/health", "/metrics"}
    form = paths["/detect"]["post"]["requestBody"]["content"]
    assert list(form) == ["multipart/form-data"]
    assert client.get("/docs").status_code == 200


def test_a_missing_library_is_named(squares, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "python_multipart", None)
    with pytest.raises(ImportError, match=r"pip install 'resdet\[serve\]'"):
        make_app(squares)


def test_in_a_browser(squares, tmp_path):
    """A user drops an image and sees its boxes, in Chromium, from a server of its own."""
    import shutil

    uvicorn = pytest.importorskip("uvicorn")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium or no chromedriver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    server = uvicorn.Server(uvicorn.Config(make_app(squares), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1000,900",
    ):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(f"http://127.0.0.1:{port}/")
        file = tmp_path / "photo.png"
        file.write_bytes(photo(size=(300, 200), box=(50, 60, 150, 160)))
        driver.find_element(By.ID, "file").send_keys(str(file))
        status = driver.find_element(By.ID, "status")
        WebDriverWait(driver, 30).until(lambda d: "detections" in status.text)
        assert status.text == "1 of 2 detections"
        cells = [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "tbody td")]
        assert cells == ["square", "0.900", "50.0, 60.0, 150.0, 160.0"]
        pixel = "return [...arguments[0].getContext('2d').getImageData(50, 100, 1, 1).data]"
        assert driver.execute_script(pixel, driver.find_element(By.ID, "canvas"))[:3] != [255, 255, 255]
        # all scores: a class' name is text, no markup
        script = "const s = document.getElementById('score'); s.value = 0; s.dispatchEvent(new Event('input'))"
        driver.execute_script(script)
        assert "<b>other</b>" in [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "tbody td")]
        if target := os.environ.get("RESDET_SCREENSHOTS"):
            driver.save_screenshot(str(Path(target) / "serve.png"))
        file = tmp_path / "other.png"
        file = tmp_path / "other.png"
        file.write_bytes(b"no image")
        driver.find_element(By.ID, "file").send_keys(str(file))
        WebDriverWait(driver, 30).until(lambda d: "422" in status.text)
        errors = [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]
        assert [e for e in errors if "422" not in e and "favicon" not in e] == []
    finally:
        driver.quit()
        server.should_exit = True
        thread.join(10)


def test_json_is_plain():
    from detection.serving.app import answer

    content = answer(np.zeros((4, 6, 3), np.uint8), Squares().one(np.full((4, 6, 3), 255, np.uint8)), 0.5)
    assert json.loads(json.dumps(content))["detections"][0]["box"] == [0, 0, 6, 4]
