"""Every picture of a data set decoded, by as many processes as wanted; what was found is kept in the user's cache, and a
picture at which a decoder dies is a fault of that picture and not the end."""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from detection.data.cache import FORMAT_VERSION, cache_dir, file_stamp, write_atomically
from detection.dataset_check.issues import Picture, inspect_picture

_LOG = logging.getLogger(__name__)
_CHUNK = 8  # pictures a process is given at once
_DIED = "the process that decoded it died: no memory was left, or the file breaks the decoder"
_Stamped = dict[str, tuple[tuple[int, int], Picture]]


def inspect_pictures(
    files: Sequence[str],
    name: str,
    workers: int,
    tick: Callable[[int, int], None] = lambda done, of: None,
    inspect: Callable[[str], Picture] = inspect_picture,
) -> dict[str, Picture]:
    """What decoding each file tells.

    Args:
        files: paths; those that have neither changed in size nor been written since the last time are not decoded again.
        name: of the set, under which the answers are kept.
        workers: processes.
        tick: called with how many of the files to decode are done, and how many there are.
        inspect: decodes one.
    """
    place = cache_dir() / f"pictures-{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
    known = _read(place)
    stamps: dict[str, tuple[int, int]] = {}
    for file in files:
        with contextlib.suppress(OSError):  # decoding says what is wrong with it
            stamps[file] = file_stamp(Path(file))
    found = {f: known[f][1] for f, own in stamps.items() if f in known and known[f][0] == own}
    rest = [file for file in files if file not in found]
    if not rest:
        return found
    try:
        for done, (file, picture) in enumerate(_decoded(rest, workers, inspect), 1):
            found[file] = picture
            tick(done, len(rest))
    finally:  # one who loses patience has not waited in vain
        # why a picture could not be read may be no property of its file: a right, a disk, the lack of memory
        _write(place, known | {f: (stamps[f], p) for f, p in found.items() if f in stamps and not p.error})
    return found


def _decoded(files: Sequence[str], workers: int, inspect: Callable[[str], Picture]) -> Iterator[tuple[str, Picture]]:
    """In any order."""
    waiting = deque(files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK))
    while waiting:
        broken, suspects = False, list[Sequence[str]]()
        flying: dict[Future[list[Picture]], Sequence[str]] = {}
        with ProcessPoolExecutor(workers) as pool:
            while flying or (waiting and not broken):
                try:
                    while waiting and not broken and len(flying) < 2 * workers:
                        future = pool.submit(_inspect_all, inspect, waiting[0])
                        flying[future] = waiting.popleft()
                except BrokenProcessPool:
                    broken = True
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    own = flying.pop(future)
                    try:
                        yield from zip(own, future.result(), strict=True)
                    except BrokenProcessPool:
                        broken = True
                        suspects.append(own)
        for file in (file for own in suspects for file in own):  # one of them it was: each in a process of its own
            with ProcessPoolExecutor(1) as pool:
                try:
                    yield file, pool.submit(inspect, file).result()
                except BrokenProcessPool:
                    yield file, Picture(0, 0, "", False, "", _DIED)


def _inspect_all(inspect: Callable[[str], Picture], files: Sequence[str]) -> list[Picture]:
    return [inspect(file) for file in files]


def _read(place: Path) -> _Stamped:
    try:
        content = json.loads(place.read_text())
        if content["format"] != FORMAT_VERSION:
            return {}
        return {file: ((size, written), Picture(*own)) for file, ((size, written), own) in content["pictures"].items()}
    except Exception:  # absent, or whatever is wrong with a damaged file
        return {}


def _write(place: Path, pictures: _Stamped) -> None:
    rows = {file: (own, dataclasses.astuple(picture)) for file, (own, picture) in pictures.items()}
    try:
        write_atomically(place, lambda part: part.write_text(json.dumps({"format": FORMAT_VERSION, "pictures": rows})))
    except OSError as error:  # a full or read-only disk is no reason to stop
        _LOG.warning("what was found of the pictures cannot be kept for the next time: %s", error)
