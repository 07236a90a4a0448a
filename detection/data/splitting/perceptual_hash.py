"""Perceptual hashes of image files, and the pairs of files that look the same.

The hash is imagehash's ``phash``: the signs, about their median, of the 8x8 lowest frequencies of the discrete cosine
transform of the grey image at 32x32 pixels (64 bits). JPEGs are decoded at an eighth to a half of their size, which is
all that 32x32 pixels need. Hashes are cached by file.
"""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from detection.data.annotations import Strings
from detection.data.cache import cache_dir, file_stamp, write_atomically
from detection.data.image import MAX_PIXELS

_LOG = logging.getLogger(__name__)
MAX_DISTANCE = 6  # bits of 64; unrelated images of four public sets differ in 14 and more
_VERSION = 1
_BITS, _SIDE = 64, 64
_CHUNK_PAIRS = 4_000_000  # candidates compared at once
_THREADS = min(8, 2 * (os.cpu_count() or 1))  # decoding releases the interpreter's lock

_NO_STAMP = (-1, -1)


def hash_images(
    files: Sequence[str], name: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the perceptual hash of each file, from the cache where the file has not changed.

    Args:
        files: N paths.
        name: of the data set, which names the cache file.
        progress: called with the number of files hashed and the number to hash.

    Returns:
        Hashes uint64 [N], and bool [N], False for files that cannot be read.
    """
    path = cache_dir() / f"hashes-{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
    stamps = [_stamp(file) for file in files]
    cache = _read_cache(path)
    hashes: list[int | None] = [None] * len(files)
    missing = []
    for i, (file, stamp) in enumerate(zip(files, stamps, strict=True)):
        known = cache.get(file)
        if known is not None and known[0] == stamp:
            hashes[i] = known[1]
        elif stamp != _NO_STAMP:
            missing.append(i)
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, (i, value) in enumerate(zip(missing, pool.map(lambda i: _hash(files[i]), missing), strict=True), 1):
            hashes[i] = value
            progress(done, len(missing))
    if missing:
        new = {f: (s, h) for f, s, h in zip(files, stamps, hashes, strict=True) if h is not None}
        _write_cache(path, cache | new)
    readable = np.array([value is not None for value in hashes], dtype=bool)
    return np.array([value or 0 for value in hashes], dtype=np.uint64), readable


def near_pairs(hashes: NDArray[np.uint64], max_distance: int = MAX_DISTANCE) -> NDArray[np.int64]:
    """Return all pairs of hashes that differ in at most ``max_distance`` bits.

    Two such hashes agree in one of ``max_distance + 1`` bands of bits (the pigeonhole principle), so that only the
    hashes which share a band are compared (Manku et al., Detecting near-duplicates for web crawling, 2007, section 3).

    Args:
        hashes: uint64 [N].
        max_distance: in bits, 0 to 15.

    Returns:
        int64 [P, 3]: first and second index, the first being the smaller, and the distance; sorted. Equal hashes of n
        files give n - 1 pairs, each with the first of them.
    """
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    pairs = [_equal_pairs(first, inverse)]
    edges = np.linspace(0, _BITS, max_distance + 2).round().astype(np.int64)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if max_distance:
            band = (unique >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
            for chunk in _same_band(band):
                close = _close(unique, *chunk, max_distance)
                close[:, :2] = first[close[:, :2]]
                pairs.append(close)
    found = np.concatenate(pairs)
    found[:, :2].sort(axis=1)
    return np.unique(found, axis=0)


def _equal_pairs(first: NDArray[np.int64], inverse: NDArray[np.int64]) -> NDArray[np.int64]:
    own = np.arange(len(inverse))
    later = own[first[inverse] != own]
    return np.column_stack((first[inverse[later]], later, np.zeros_like(later))).astype(np.int64).reshape(-1, 3)


def _same_band(band: NDArray[np.uint64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return index pairs, in chunks, of equal values: each position with those after it in its run of the sorted values."""
    order = np.argsort(band, kind="stable")
    values = band[order]
    ends = np.searchsorted(values, values, side="right")
    counts = ends - np.arange(len(values)) - 1  # partners after each position
    chunks, start = [], 0
    totals = np.cumsum(counts)
    while start < len(values):
        done = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, done + _CHUNK_PAIRS, side="right")))
        number = counts[start:stop]
        left = np.repeat(np.arange(start, stop), number)
        right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(number) - number, number)
        chunks.append((order[left], order[right]))
        start = stop
    return chunks


def _close(
    hashes: NDArray[np.uint64], left: NDArray[np.int64], right: NDArray[np.int64], max_distance: int
) -> NDArray[np.int64]:
    distance = np.bitwise_count(hashes[left] ^ hashes[right]).astype(np.int64)
    keep = distance <= max_distance
    return np.column_stack((left[keep], right[keep], distance[keep])).astype(np.int64)


def _hash(file: str) -> int | None:
    """Return a file's hash, None where it cannot be read."""
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                return None  # as training does by default: it may be a decompression bomb
            image.draft("L", (_SIDE, _SIDE))
            grey = ImageOps.exif_transpose(image).convert("L")
        bits = imagehash.phash(grey).hash.reshape(-1)
    except Exception:  # Pillow's decoders raise many types of error on corrupt files; the check names them
        return None
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _stamp(file: str) -> tuple[int, int]:
    try:
        return file_stamp(Path(file))
    except (OSError, ValueError):
        return _NO_STAMP


def _read_cache(path: Path) -> dict[str, tuple[tuple[int, int], int]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["version"]) != _VERSION:
                return {}
            names = Strings.from_arrays(file["names"], file["ends"])
            stamps, hashes = file["stamps"].tolist(), file["hashes"].tolist()
        return {name: ((s[0], s[1]), value) for name, s, value in zip(names, stamps, hashes, strict=True)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing or corrupt
        return {}


def _write_cache(path: Path, cache: dict[str, tuple[tuple[int, int], int]]) -> None:
    names, ends = Strings(list(cache)).to_arrays()
    stamps = np.array([stamp for stamp, _ in cache.values()], dtype=np.int64).reshape(-1, 2)
    hashes = np.array([value for _, value in cache.values()], dtype=np.uint64)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, version=np.array(_VERSION), names=names, ends=ends, stamps=stamps, hashes=hashes)

    try:
        write_atomically(path, write)
    except OSError as error:  # a full or read-only disk must not stop the run
        _LOG.warning("cannot cache the images' hashes: %s", error)
