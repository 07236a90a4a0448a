"""ImageNet weights by name, from their owners' published addresses into a cache.

``torchvision://resnet50`` (or ``torchvision://resnet50/IMAGENET1K_V2``), detectron2's copies of MSRA's,
``detectron2://ImageNetPretrained/MSRA/R-50.pkl``, and the detectors of its zoo,
``detectron2://COCO-Detection/faster_rcnn_R_50_C4_1x``.
"""

import hashlib
import logging
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

_LOG = logging.getLogger(__name__)
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
# the end of each model's address in detectron2's zoo (detectron2/model_zoo/model_zoo.py)
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
_TIMEOUT = 20  # seconds without a byte before a host counts as unreachable


def recipe_of(name: str) -> str | None:
    """The recipe that weights of this name were trained with; None where the file itself tells."""
    return "torchvision" if name.startswith("torchvision://") else None


def is_name(weights: str) -> bool:
    """Whether a weights argument is a name to fetch and not a file."""
    return "://" in weights


def address(name: str) -> str:
    """The owner's address of a name.

    Raises:
        ValueError: the scheme or the network is unknown.
    """
    scheme, _, rest = name.partition("://")
    if scheme == "torchvision":
        from torchvision.models import get_model_weights  # slow to import, and only this line needs it

        network, _, variant = rest.partition("/")
        try:
            versions = get_model_weights(network)
            url: str = versions[variant or "IMAGENET1K_V1"].url
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"torchvision has no weights {rest!r}; wanted e.g. torchvision://resnet50/IMAGENET1K_V2"
            ) from error
        return url
    if scheme == "detectron2" and ".." not in rest:
        rest = rest.removesuffix(".yaml")
        return _DETECTRON2 + (f"{rest}/{_ZOO[rest]}" if rest in _ZOO else rest)
    raise ValueError(f"unknown weights {name!r}: wanted a file, torchvision://NETWORK or detectron2://PATH")


def cache_folder() -> Path:
    """Where fetched weights are kept: $RESDET_CACHE, else ~/.cache/resdet."""
    return Path(os.environ.get("RESDET_CACHE", Path.home() / ".cache" / "resdet"))


def fetch(name: str) -> Path:
    """The local file of a name, fetched at its first use and checked.

    torchvision publishes the first eight digits of a file's SHA-256 in its name; for others the digest of the first
    download is kept beside the file, logged, and later uses must match it.

    Raises:
        ValueError: the name is unknown, or a digest differs.
        ConnectionError: the address cannot be reached; says what to do.
    """
    url = address(name)
    path = cache_folder() / name.partition("://")[0] / urllib.parse.urlparse(url).path.lstrip("/")
    if not path.exists():
        _download(name, url, path)
    _check(url, path)
    return path


def _download(name: str, url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + f".part{os.getpid()}")
    _LOG.info("fetching %s from %s", name, url)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, part.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            shutil.copyfileobj(response, file)
        if size and part.stat().st_size != size:
            raise ValueError(f"{url}: {part.stat().st_size} bytes came, {size} were announced; call again")
        part.replace(path)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(
            f"weights {name} are not in the cache and cannot be fetched from {url} ({reason}). "
            f"Fetch that file elsewhere and give it with --weights FILE, or put it at {path}"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _check(url: str, path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    published = re.search(r"-([0-9a-f]{8})\.pth$", url)
    kept = path.with_name(path.name + ".sha256")
    if not published and not kept.exists():
        kept.write_text(digest + "\n")
        _LOG.info("%s: sha256 %s (its owner publishes none; kept for later uses)", path.name, digest)
    wanted = published[1] if published else kept.read_text().strip()
    if not digest.startswith(wanted):
        raise ValueError(f"{path}: sha256 {digest} does not begin with {wanted}; remove the file and fetch it again")
