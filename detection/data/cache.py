"""Annotations that took long to read, kept in the user's cache and never in the data's own folder: arrays by name, under
what they were made from. Reading them runs no code, and a file that is damaged counts as absent."""

import contextlib
import gc
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
Arrays = dict[str, NDArray[Any]]
FORMAT = 1  # of what is kept; a file of another is not looked at
SLOW = 1.0  # seconds: what is read faster is not kept


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does: its size, and when it was written, in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def kept(
    name: str, made_from: object, read: Callable[[], Arrays], unless: Callable[[Arrays], bool] = lambda arrays: False
) -> Arrays:
    """What ``read()`` gives, from the cache where it is there.

    Args:
        name: of the source; a later version of it takes the place of an earlier.
        made_from: everything that the result depends on, by its ``repr``.
        read: makes the arrays: numbers and fixed-width strings, no objects.
        unless: true of arrays that are not to be kept: what could not be read today may be read tomorrow.
    """
    place = folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
    source = f"{FORMAT} {name} {made_from!r}"
    try:
        with np.load(place, allow_pickle=False) as file:
            if str(file["source"]) == source:
                return {key: file[key] for key in file.files if key != "source"}
    except Exception:  # absent, or whatever numpy makes of a damaged file
        pass
    began = time.perf_counter()
    collects = gc.isenabled()
    gc.disable()  # a million dictionaries would be gone through again and again for cycles that are not there
    try:
        arrays = read()
    finally:
        if collects:
            gc.enable()
    seconds = time.perf_counter() - began
    if seconds > SLOW and not unless(arrays):
        try:
            # its stub takes no mapping
            replace_with(place, lambda part: np.savez(part, source=np.array(source), **arrays))  # type: ignore[arg-type]
            _LOG.info("%s: annotations read in %.1f s; kept in %s", name, seconds, place)
        except OSError as error:  # a full or read-only disk is no reason to stop
            _LOG.warning("%s: annotations read in %.1f s, which cannot be kept: %s", name, seconds, error)
    return arrays


def replace_with(place: Path, write: Callable[[Path], object]) -> None:
    """Writes a file of the cache: whole or not at all, whoever else is at it.

    Raises:
        OSError: it cannot be written; what there was stays.
    """
    part = place.with_suffix(f".{os.getpid()}.part{place.suffix}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(place)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def folder() -> Path:
    """``$RESDET_CACHE``/annotations, or ~/.cache/resdet/annotations."""
    return Path(os.environ.get("RESDET_CACHE", Path.home() / ".cache" / "resdet")) / "annotations"


def text_array(value: object) -> NDArray[np.uint8]:
    """Anything that JSON can say, among arrays."""
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def text_of(array: NDArray[Any]) -> Any:
    """What :func:`text_array` was given."""
    return json.loads(array.tobytes())
