"""Download pretrained weights by name from their publishers' URLs into a cache.

Names: ``torchvision://resnet50`` (or ``torchvision://resnet50/IMAGENET1K_V2``), torchvision's detectors,
``torchvision://fasterrcnn_resnet50_fpn``, detectron2's copies of the MSRA weights,
``detectron2://ImageNetPretrained/MSRA/R-50.pkl``, and the detectors of detectron2's model zoo,
``detectron2://COCO-Detection/faster_rcnn_R_50_C4_1x``.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

_LOG = logging.getLogger(__name__)
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
# URL suffixes of detectron2's model zoo (detectron2/model_zoo/model_zoo.py)
_ZOO = {
    "COCO-Detection/faster_rcnn_R_50_C4_1x": "137257644/model_final_721ade.pkl",
    "COCO-Detection/faster_rcnn_R_50_DC5_1x": "137847829/model_final_51d356.pkl",
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": "137257794/model_final_b275ba.pkl",
    "COCO-Detection/faster_rcnn_R_50_C4_3x": "137849393/model_final_f97cb7.pkl",
    "COCO-Detection/faster_rcnn_R_50_DC5_3x": "137849425/model_final_68d202.pkl",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x": "137849458/model_final_280758.pkl",
    "COCO-Detection/faster_rcnn_R_101_C4_3x": "138204752/model_final_298dad.pkl",
    "COCO-Detection/faster_rcnn_R_101_DC5_3x": "138204841/model_final_3e0943.pkl",
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": "137851257/model_final_f6e8b1.pkl",
    "PascalVOC-Detection/faster_rcnn_R_50_C4": "142202221/model_final_b1acc2.pkl",
}
_TIMEOUT = 20  # seconds without data
_STALE = 60.0  # seconds after which a lock that nobody touches belongs to a killed process
_POLL = 0.2  # seconds between looks at a lock
_BLOCK = 1 << 20  # bytes


def recipe_of(name: str) -> str | None:
    """Return the recipe of the weights of a name; None where it is read from the file."""
    return "torchvision" if name.startswith("torchvision://") else None


def is_name(weights: str) -> bool:
    """Return whether a weights argument is a name to download, not a file."""
    return "://" in weights


def url_of(name: str) -> str:
    """Return the URL of a name.

    Raises:
        ValueError: unknown scheme or network.
    """
    scheme, _, rest = name.partition("://")
    if scheme == "torchvision":
        from torchvision.models import get_model_weights  # slow to import

        network, _, variant = rest.partition("/")
        try:
            versions = get_model_weights(network)
            first = (
                "IMAGENET1K_V1" if "IMAGENET1K_V1" in versions.__members__ else "COCO_V1"
            )  # a network's, a detector's
            url: str = versions[variant or first].url
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"torchvision has no weights {rest!r}; expected e.g. torchvision://resnet50/IMAGENET1K_V2"
            ) from error
        return url
    if scheme == "detectron2" and ".." not in rest:
        rest = rest.removesuffix(".yaml")
        return _DETECTRON2 + (f"{rest}/{_ZOO[rest]}" if rest in _ZOO else rest)
    raise ValueError(f"unknown weights {name!r}: expected a file, torchvision://NETWORK or detectron2://PATH")


def cache_dir() -> Path:
    """Return the folder of downloaded weights: $RESDET_CACHE, else ~/.cache/resdet."""
    return Path(os.environ.get("RESDET_CACHE", Path.home() / ".cache" / "resdet"))


def cached_file(name: str) -> Path:
    """Return where the file of a name is, or will be once it is downloaded.

    Raises:
        ValueError: unknown name.
    """
    return cache_dir() / name.partition("://")[0] / urllib.parse.urlparse(url_of(name)).path.lstrip("/")


def fetch(name: str) -> Path:
    """Return the local file of a name, downloaded on first use, after checking its SHA-256.

    Of several processes, on one machine or on several with a common cache, one downloads and the others wait.

    torchvision publishes the first eight digits of the digest in the file name. For others the digest of the first
    download is logged and saved next to the file, and checked on later uses.

    Raises:
        ValueError: unknown name, incomplete download, or a different digest.
        ConnectionError: the URL cannot be reached; says how to proceed.
    """
    url, path = url_of(name), cached_file(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path) as lock:
            if not path.exists():  # another process may have downloaded it meanwhile
                _download(name, url, path, lock)
    _check_digest(url, path)
    return path


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[Path]:
    """Yield the file that locks ``path``, which no other process then has; wait for it, or until ``path`` exists.

    A file made with O_EXCL, since not every file system and platform has flock. Its owner touches it while it works; one
    that is not touched belongs to a killed process and is removed. Should two processes go on at once, nothing breaks:
    temporary names are unique and renames atomic.
    """
    lock, owned, said = path.with_name(path.name + ".lock"), False, False
    seen, since = 0, time.monotonic()
    while not owned and not path.exists():
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            owned = True
        except FileExistsError:
            if not said:
                _LOG.info("waiting for another process, which downloads %s (%s)", path.name, lock)
                said = True
            with contextlib.suppress(FileNotFoundError):  # released just now
                touched = lock.stat().st_mtime_ns
                if touched != seen:  # compared with itself: clocks of machines differ
                    seen, since = touched, time.monotonic()
                elif time.monotonic() - since > _STALE:
                    lock.unlink()
            time.sleep(_POLL)
    try:
        yield lock
    finally:
        if owned:
            lock.unlink(missing_ok=True)


def _download(name: str, url: str, path: Path, lock: Path) -> None:
    temp = _temporary(path)
    _LOG.info("downloading %s from %s", name, url)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, temp.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            while block := response.read(_BLOCK):
                file.write(block)
                with contextlib.suppress(OSError):
                    os.utime(lock)
        if size and temp.stat().st_size != size:
            raise ValueError(f"{url}: incomplete download, {temp.stat().st_size} of {size} bytes; try again")
        temp.replace(path)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(
            f"weights {name} are not in the cache and cannot be downloaded from {url} ({reason}). "
            f"Download that file elsewhere and give it with --weights FILE, or put it at {path}"
        ) from error
    finally:
        temp.unlink(missing_ok=True)


def _check_digest(url: str, path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    published = re.search(r"-([0-9a-f]{8})\.pth$", url)
    digest_file = path.with_name(path.name + ".sha256")
    if not published and not digest_file.exists():
        temp = _temporary(digest_file)
        temp.write_text(digest + "\n", encoding="utf-8")
        temp.replace(digest_file)
        _LOG.info("%s: sha256 %s (none is published; saved for later checks)", path.name, digest)
    expected = published[1] if published else digest_file.read_text(encoding="utf-8").strip()
    if not digest.startswith(expected):
        raise ValueError(
            f"{path}: sha256 {digest} does not start with {expected}; remove the file and download it again"
        )


def _temporary(path: Path) -> Path:
    """Return a name beside ``path`` that no other process has: process ids repeat on other machines."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
