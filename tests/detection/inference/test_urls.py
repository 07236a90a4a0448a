"""Addresses are fetched within limits, and from nowhere that a stranger must not reach."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from detection.inference.urls import fetch_bytes, is_url


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        to = {"/file": "file:///etc/passwd", "/again": "/again", "/moved": "/image", "/ftp": "ftp://127.0.0.1/x"}
        if self.path in to:
            self.send_response(302)
            self.send_header("Location", to[self.path])
            self.end_headers()
            return
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(200)
        content = b"x" * (5000 if self.path in ("/large", "/unsaid") else 10)
        if self.path != "/unsaid":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/slow":
            for byte in content:
                time.sleep(0.1)
                self.wfile.write(bytes([byte]))
            return
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_what_an_address_holds(site):
    assert fetch_bytes(f"{site}/image", allow_private=True) == b"x" * 10
    assert fetch_bytes(f"{site}/moved", allow_private=True) == b"x" * 10
    assert is_url("HTTPS://a/b")
    assert not is_url("file:///a")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("file", "only http:// and https:// are fetched"),
        ("ftp", "only http:// and https:// are fetched"),
        ("large", "more than the 1000 bytes"),
        ("unsaid", "more than the 1000 bytes"),
    ],
)
def test_what_is_refused(site, path, words):
    with pytest.raises(ValueError, match=words):
        fetch_bytes(f"{site}/{path}", max_bytes=1000, allow_private=True)


@pytest.mark.parametrize(
    ("path", "words"), [("again", "redirects more than"), ("none", "answers 404"), ("slow", "slow")]
)
def test_what_cannot_be_fetched(site, path, words):
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=words):
        fetch_bytes(f"{site}/{path}", timeout=0.5, allow_private=True)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "2130706433",
    ],
)
def test_private_addresses_are_refused(host):
    with pytest.raises((ValueError, ConnectionError)) as caught:
        fetch_bytes(f"http://{host}:9/a.jpg", timeout=2)
    assert "no public address" in str(caught.value) or "cannot be reached" in str(caught.value)
    if host != "2130706433":
        assert "no public address" in str(caught.value)


def test_names_of_private_addresses_are_refused_too(site, monkeypatch):
    """A name that means this machine; a redirect to it is refused the same way."""
    import socket

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    monkeypatch.setattr("detection.inference.urls.socket.getaddrinfo", lambda *a, **k: found)
    with pytest.raises(ValueError, match=r"photos.example is 127.0.0.1, which is no public address"):
        fetch_bytes("http://photos.example/a.jpg")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://", "ftp://example.org/a", "http://user:word@example.org/", "x"]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(ValueError, match="fetched"):
        fetch_bytes(url)
