"""Cache of parsed annotations: arrays in the user's cache folder, never in the dataset's folder.

Reading a cache file runs no code, and a corrupt one is treated as missing.
"""

import gc
import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone import hub
from detection.utils.atomic_io import replacing

_LOG = logging.getLogger(__name__)
Arrays = dict[str, NDArray[Any]]
FORMAT_VERSION = 1  # cache files of another version are ignored
MIN_SECONDS = 1.0  # results that were read faster are not cached


def file_stamp(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and modification time in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def cached(
    name: str,
    cache_key: object,
    read: Callable[[], Arrays],
    skip_if: Callable[[Arrays], bool] = lambda arrays: False,
) -> Arrays:
    """Return the result of ``read()``, from the cache where possible.

    Args:
        name: of the source; a source has one cache file, which a new version overwrites.
        cache_key: everything that the result depends on, compared by its ``repr``.
        read: returns the arrays: numbers and fixed-width strings, no objects.
        skip_if: returns True for arrays that must not be cached, such as those with read errors that may be temporary.
    """
    path = cache_dir() / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
    source = f"{FORMAT_VERSION} {name} {cache_key!r}"
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["source"]) == source:
                return {key: file[key] for key in file.files if key != "source"}
    except Exception:  # missing, or any error of numpy on a corrupt file
        pass
    start = time.perf_counter()
    gc_enabled = gc.isenabled()
    gc.disable()  # the collector would scan millions of dictionaries repeatedly and find no cycles
    try:
        arrays = read()
    finally:
        if gc_enabled:
            gc.enable()
    seconds = time.perf_counter() - start
    if seconds > MIN_SECONDS and not skip_if(arrays):
        try:
            write_atomically(path, lambda part: _save(part, source, arrays))
            _LOG.info("%s: annotations read in %.1f s; cached in %s", name, seconds, path)
        except OSError as error:  # a full or read-only disk must not stop the run
            _LOG.warning("%s: annotations read in %.1f s; cannot write the cache: %s", name, seconds, error)
    return arrays


def _save(path: Path, source: str, arrays: Arrays) -> None:
    with path.open("wb") as file:  # given a path, NumPy adds .npz to it
        np.savez(file, source=np.array(source), **arrays)  # type: ignore[arg-type]  # its stub accepts no mapping


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a cache file with its folder, so that concurrent readers and writers see a complete file.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, shared=True) as part:
        write(part)


def cache_dir() -> Path:
    """Return ``$RESDET_CACHE``/annotations, or ~/.cache/resdet/annotations."""
    return hub.cache_dir() / "annotations"


def encode_json(value: object) -> NDArray[np.uint8]:
    """Encode a JSON value as uint8 [n], to store it among arrays."""
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def decode_json(array: NDArray[Any]) -> Any:
    """Decode a value that :func:`encode_json` encoded."""
    return json.loads(array.tobytes())
