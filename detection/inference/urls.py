"""Fetch an image from an address that somebody else may have written: http and https alone, no private networks, and limits
of size, time and redirects. Environment variables for proxies are not read."""

import http.client
import ipaddress
import socket
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

MAX_BYTES = 64 * 2**20
TIMEOUT = 20.0  # seconds for the whole
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 3
_CHUNK = 2**16


def is_url(source: str) -> bool:
    """Return whether a source is an address on the web."""
    return source.lower().startswith(("http://", "https://"))


def fetch_bytes(
    url: str, *, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT, allow_private: bool = False
) -> bytes:
    """Return what an address holds.

    Args:
        url: http://… or https://….
        max_bytes: a larger answer is refused as soon as that is known.
        timeout: seconds that everything may take, redirects included.
        allow_private: addresses of this machine and of private networks may be asked, too.

    Raises:
        ValueError: another scheme, also of a redirect; a private address; too large.
        ConnectionError: it cannot be reached in time, or answers with an error.
    """
    deadline = time.monotonic() + timeout
    address = url
    for _ in range(_MOST_REDIRECTS + 1):
        response, connection = _ask(address, deadline, allow_private)
        try:
            if response.status in _REDIRECTS and (target := response.getheader("Location")):
                address = urljoin(address, target)
                continue
            if response.status != 200:
                raise ConnectionError(f"{url} answers {response.status} {response.reason}")
            return _read(response, url, max_bytes, deadline)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, ConnectionError) and str(error).startswith(url):
                raise
            raise ConnectionError(f"{url} cannot be read: {error or type(error).__name__}") from None
        finally:
            connection.close()
    raise ConnectionError(f"{url} redirects more than {_MOST_REDIRECTS} times")


def _ask(url: str, deadline: float, allow_private: bool) -> tuple[http.client.HTTPResponse, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"only http:// and https:// are fetched, got {url!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"an address with a user name is not fetched: {parts.hostname!r}")
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    try:
        port = parts.port or (443 if secure else 80)
        # resolved once: the name could otherwise mean another machine when it is connected to
        address = _public_address(parts.hostname, port, allow_private)
        connection = kind(parts.hostname, port, timeout=_left(deadline, url))
        connection._create_connection = lambda _, timeout, source: socket.create_connection(address, timeout)  # type: ignore[attr-defined]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "resdet", "Accept": "image/*"})
        return connection.getresponse(), connection
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise ConnectionError(f"{url} cannot be reached: {error or type(error).__name__}") from None


def _public_address(host: str, port: int, allow_private: bool) -> tuple[str, int]:
    """Return the first of a host's addresses; refuse it where any of them is private.

    Raises:
        ValueError: an address of this machine, of a private network, or of another reserved range.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for text in found:
        ip = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None) or ip
        if not allow_private and (not mapped.is_global or mapped.is_multicast):
            raise ValueError(f"{host} is {text}, which is no public address: --allow-private-urls fetches from it")
    return found[0], port


def _read(response: http.client.HTTPResponse, url: str, max_bytes: int, deadline: float) -> bytes:
    length = response.getheader("Content-Length") or ""
    too_large = f"{url} has more than the {max_bytes} bytes allowed"
    if length.isdecimal() and int(length) > max_bytes:
        raise ValueError(too_large)
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        _left(deadline, url)
        if len(content) > max_bytes:
            raise ValueError(too_large)
    return bytes(content)


def _left(deadline: float, url: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise ConnectionError(f"{url} took too long")
    return left
